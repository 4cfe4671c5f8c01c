"""Figures of merit with n and 95% intervals, from a bootstrap over groups (patients).

Everything works on arrays: `y_true` (N,) holds class indices 0 … K-1, `probabilities` (N, K)
holds one row per image that sums to one, `classes` names the K columns, `groups` (N,) names the
patient (or near-duplicate group) of each image; without it each image is its own group.

A resample draws as many groups as there are, with replacement (the cluster bootstrap of Field and
Welsh, 2007), so an image enters with a whole-number count. Counts are kept as (N, R) matrices of R
resamples; each figure is then one matrix product, or one sort and cumulative sums.
"""

from collections.abc import Callable, Iterator, Sequence
from statistics import NormalDist

import numpy as np
import pandas as pd

from covidxr import InputError

OVERALL_METRICS = ("accuracy", "balanced_accuracy", "macro_f1")
CLASS_METRICS = ("sensitivity", "specificity", "ppv", "npv", "auroc", "average_precision")
PROPORTIONS = ("accuracy", "sensitivity", "specificity", "ppv", "npv")
MIN_GROUPS = 10  # with fewer, the percentile interval is too narrow to be shown
CHUNK = 320_000  # counts held at once, N * R: small arrays stay in the processor's cache


def check_probabilities(y_true, probabilities, classes: Sequence[str], groups=None):
    """Validate predictions and return them as arrays.

    Returns:
        `y_true` (N,) int, `probabilities` (N, K) float64, group codes (N,) int.

    Raises:
        InputError: no images, lengths that differ, unknown labels, missing groups, or
            probabilities that are NaN, outside [0, 1] or do not sum to one (tolerance 1e-3).
    """
    y, p = np.asarray(y_true), np.asarray(probabilities, dtype=float)
    if p.ndim != 2 or p.shape[1] != len(classes):
        raise InputError(
            f"probabilities: found shape {p.shape}, expected one column per class ({len(classes)})"
        )
    if len(y) == 0 or len(y) != len(p):
        raise InputError(
            f"y_true has {len(y)} labels for {len(p)} rows of probabilities; "
            "expected as many, and at least one"
        )
    if y.dtype.kind not in "iub" or y.min() < 0 or y.max() >= len(classes):
        raise InputError(
            f"y_true: found {pd.unique(y)[:5].tolist()}, expected class indices "
            f"0 to {len(classes) - 1} ({', '.join(classes)})"
        )
    _check_rows(p)
    codes, names = pd.factorize(np.arange(len(y)) if groups is None else np.asarray(groups))
    if len(codes) != len(y):
        raise InputError(f"groups: found {len(codes)} names, expected {len(y)}, one per image")
    if (codes < 0).any():
        raise InputError(f"groups: {np.sum(codes < 0)} images have none; give each image its own")
    return y.astype(int), p, codes


def _check_rows(p: np.ndarray) -> None:
    for wrong, what in (
        (~np.isfinite(p).all(axis=1), "NaN or infinite values"),
        (((p < 0) | (p > 1)).any(axis=1), "values outside 0 to 1"),
        (np.abs(p.sum(axis=1) - 1) > 1e-3, "a sum other than 1"),
    ):
        if wrong.any():
            raise InputError(
                f"probabilities: {what} in {wrong.sum()} of {len(p)} rows, the first is row "
                f"{wrong.argmax()}: {p[wrong.argmax()].tolist()}; leave rejected images out and "
                "give softmax outputs, not logits"
            )


def wilson_interval(successes, n):
    """Wilson's 95% score interval for a proportion (Wilson, 1927); takes numbers or arrays.

    Returns:
        (low, high), each in [0, 1].
    """
    k, n = np.asarray(successes, dtype=float), np.asarray(n, dtype=float)
    if not ((n > 0) & (k >= 0) & (k <= n)).all():
        raise InputError(f"wilson_interval: found {successes} of {n}, expected 0 <= k <= n, n > 0")
    z = NormalDist().inv_cdf(0.975)
    centre = (k + z**2 / 2) / (n + z**2)
    half = z / (n + z**2) * np.sqrt(k * (n - k) / n + z**2 / 4)
    return np.maximum(centre - half, 0.0), np.minimum(centre + half, 1.0)


def resampled_counts(
    codes: np.ndarray, n_resamples: int = 2000, seed: int = 0
) -> Iterator[np.ndarray]:
    """Yield how often each image is drawn: float32 (N, R), R resamples of whole groups at a time.

    The draws depend on the seed and the number of groups only.
    """
    rng = np.random.default_rng(seed)
    n_groups = codes.max() + 1
    size = max(1, min(n_resamples, CHUNK // len(codes)))
    for start in range(0, n_resamples, size):
        draws = [
            np.bincount(rng.integers(n_groups, size=n_groups), minlength=n_groups)
            for _ in range(min(size, n_resamples - start))
        ]
        yield np.stack(draws, axis=1).astype(np.float32)[codes]


def resampled(evaluate: Callable, codes: np.ndarray, *drawing) -> np.ndarray:
    """Values (..., B) of a function from counts (N, R) to (..., R); `drawing`: as above."""
    chunks = [evaluate(counts) for counts in resampled_counts(codes, *drawing)]
    return np.concatenate(chunks, axis=-1)


def percentile_interval(draws: np.ndarray) -> np.ndarray:
    """Low and high (2, ...) of the middle 95% of resampled values (..., B).

    Ranks are counted as r / (B + 1), so that few resamples do not narrow the interval. Resamples
    in which the figure is undefined (NaN) are left out.
    """
    return np.nanpercentile(draws, [2.5, 97.5], axis=-1, method="weibull")


def _ranker(positive: np.ndarray, score: np.ndarray) -> Callable:
    """Sort once; return a function from counts (N, R) to AUROC and average precision, (2, R).

    AUROC is the share of positive-negative pairs in the right order, ties half. Average
    precision is the mean, over the positives, of the precision at their own score.
    """
    order = np.argsort(score)
    pos, neg = order[positive[order]], order[~positive[order]]
    below = np.searchsorted(score[neg], score[pos], side="left")
    not_above = np.searchsorted(score[neg], score[pos], side="right")
    first = np.searchsorted(score[pos], score[pos], side="left")

    def evaluate(counts: np.ndarray) -> np.ndarray:
        weight, positives, negatives = (
            counts[pos],
            _cumulative(counts, pos),
            _cumulative(counts, neg),
        )
        lower, upper = negatives[below], negatives[not_above]
        pairs = np.einsum("ir,ir->r", weight, lower + upper, dtype=float) / 2
        true = positives[-1] - positives[first]
        flagged = np.maximum(true + (negatives[-1] - lower), 1)
        precision = np.einsum("ir,ir->r", weight, true / flagged, dtype=float)
        n_pos, n_neg = positives[-1].astype(float), negatives[-1].astype(float)
        return np.stack([pairs / (n_pos * n_neg), np.where(n_neg > 0, precision / n_pos, np.nan)])

    return evaluate


def _cumulative(counts: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Running total over `rows`, from zero: (len(rows) + 1, R)."""
    total = np.zeros((len(rows) + 1, counts.shape[1]), counts.dtype)
    np.cumsum(counts[rows], axis=0, out=total[1:])
    return total


def _evaluator(y: np.ndarray, p: np.ndarray) -> Callable:
    """Return a function from counts (N, R) to every metric, (M, R), NaN where undefined.

    Rows: OVERALL_METRICS, then CLASS_METRICS of the first class, of the second, ...
    """
    k = p.shape[1]
    cells = (y * k + p.argmax(axis=1) == np.arange(k * k)[:, None]).astype(np.float32)
    rankers = [_ranker(y == c, p[:, c]) for c in range(k)]

    def evaluate(counts: np.ndarray) -> np.ndarray:
        confusion = (cells @ counts).astype(float).reshape(k, k, -1)
        true, predicted, n = (
            confusion.sum(axis=1),
            confusion.sum(axis=0),
            confusion.sum(axis=(0, 1)),
        )
        hit = np.einsum("ccr->cr", confusion)
        rejected = n - true - predicted + hit
        with np.errstate(invalid="ignore", divide="ignore"):
            f1 = np.where(true > 0, 2 * hit / (true + predicted), np.nan)
            overall = [hit.sum(axis=0) / n, (hit / true).mean(axis=0), f1.mean(axis=0)]
            rates = [hit / true, rejected / (n - true), hit / predicted, rejected / (n - predicted)]
            ranks = np.stack([rank(counts) for rank in rankers])
        per_class = np.concatenate([np.stack(rates, axis=1), ranks], axis=1)
        return np.concatenate([np.stack(overall), per_class.reshape(-1, len(n))])

    return evaluate


def _support(y: np.ndarray, p: np.ndarray, classes: Sequence[str]) -> list[tuple]:
    """Per metric, in _evaluator's order: (metric, class, {what it needs: image mask})."""
    predicted = p.argmax(axis=1)
    every = {"images": np.ones(len(y), bool)}
    each = {f"images of {name}": y == c for c, name in enumerate(classes)}
    rows = [("accuracy", None, every)]
    rows += [(metric, None, every | each) for metric in OVERALL_METRICS[1:]]
    for c, name in enumerate(classes):
        own, other = {f"images of {name}": y == c}, {f"images of other classes than {name}": y != c}
        flagged = {f"images predicted {name}": predicted == c}
        unflagged = {f"images not predicted {name}": predicted != c}
        needs = (own, other, flagged, unflagged, own | other, own | other)
        rows += [(m, name, need) for m, need in zip(CLASS_METRICS, needs, strict=True)]
    return rows


def _interval(value: float, draws: np.ndarray, needs: dict, codes: np.ndarray, proportion: bool):
    """Return (low, high, reason) of one figure from its resampled values `draws` (B,)."""
    n_groups = {what: len(np.unique(codes[mask])) for what, mask in needs.items()}
    scarce = min(n_groups, key=n_groups.get)
    n = n_groups[scarce]
    if n < MIN_GROUPS:
        return None, None, f"no interval: {n} groups with {scarce}, at least {MIN_GROUPS} needed"
    low, high = percentile_interval(draws)
    if low < high:
        return low, high, None
    if proportion:
        return *wilson_interval(value * n, n), f"same in every resample: Wilson on {n} groups"
    return None, None, "no interval: same in every resample"


def _describe(support: list[tuple], values, replicates, codes, proportions=()) -> pd.DataFrame:
    """Table of metric, class, value, low, high, n, reason from values (M,), replicates (M, B)."""
    rows = []
    for (metric, name, needs), value, draws in zip(support, values, replicates, strict=True):
        low = high = None
        reason = next((f"no {what}" for what, mask in needs.items() if not mask.any()), None)
        if reason is None:
            low, high, reason = _interval(value, draws, needs, codes, metric in proportions)
        else:
            value = None
        n = next(iter(needs.values())).sum()
        rows.append((metric, name, value, low, high, n, reason))
    frame = pd.DataFrame(
        rows, columns=["metric", "class", "value", "low", "high", "n", "reason"], dtype=object
    )
    text, number = dict.fromkeys(["metric", "class", "reason"], "string"), "Float64"
    return frame.astype(text | {"value": number, "low": number, "high": number, "n": "Int64"})


def _replicates(codes: np.ndarray, evaluators: list[Callable], n_resamples=2000, seed=0):
    """Return values (E, M) on the images themselves and resampled values (E, M, B)."""
    if n_resamples < 40:
        raise InputError(f"n_resamples: found {n_resamples}, expected 40 or more for 95% intervals")

    def evaluate(counts: np.ndarray) -> np.ndarray:
        return np.stack([each(counts) for each in evaluators])

    values = evaluate(np.ones((len(codes), 1)))[..., 0]
    return values, resampled(evaluate, codes, n_resamples, seed)


def classification_metrics(
    y_true,
    probabilities,
    classes: Sequence[str],
    groups=None,
    n_resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Every figure of merit of a classifier, with n and a 95% interval.

    The interval is the percentile interval of a bootstrap over groups. Where no resample differs
    from the value (every image right, say), a proportion gets Wilson's interval on the number of
    groups instead. Per-class figures are one class against the rest; the prediction is the class
    with the highest probability.

    Args:
        y_true: (N,) class indices.
        probabilities: (N, K), rows sum to one.
        classes: K names.
        groups: (N,) patient or group of each image; None: each image is its own.
        n_resamples: bootstrap resamples.
        seed: of the resampling.

    Returns:
        One row per figure: metric, class (NA: overall), value, low, high (all in [0, 1]); n, the
        images in the denominator (for AUROC and average precision the positives); reason, why a
        value or an interval is NA or how it was made.

    Raises:
        InputError: see check_probabilities.
    """
    y, p, codes = check_probabilities(y_true, probabilities, classes, groups)
    (values,), (replicates,) = _replicates(codes, [_evaluator(y, p)], n_resamples, seed)
    return _describe(_support(y, p, classes), values, replicates, codes, PROPORTIONS)


def paired_bootstrap(
    y_true, probabilities_a, probabilities_b, classes: Sequence[str], groups=None
) -> pd.DataFrame:
    """Difference, b minus a, of every figure between two models on the same images.

    Both models are scored on the same resamples, so what they share cancels out. PPV and NPV are
    left out: their denominators differ between the models.

    Returns:
        One row per figure: metric, class (NA: overall), value_a, value_b, difference, low and
        high of the difference's 95% interval, n, reason.

    Raises:
        InputError: see check_probabilities.
    """
    y, a, codes = check_probabilities(y_true, probabilities_a, classes, groups)
    _, b, _ = check_probabilities(y_true, probabilities_b, classes, groups)
    evaluators = [_evaluator(y, a), _evaluator(y, b)]
    values, replicates = _replicates(codes, evaluators)
    frame = _describe(
        _support(y, a, classes), values[1] - values[0], replicates[1] - replicates[0], codes
    ).rename(columns={"value": "difference"})
    frame.insert(2, "value_a", values[0])
    frame.insert(3, "value_b", values[1])
    columns = ["value_a", "value_b"]
    frame[columns] = frame[columns].astype("Float64").where(frame["difference"].notna())
    return frame[~frame["metric"].isin(["ppv", "npv"])].reset_index(drop=True)


def two_class(
    y_true, probabilities, classes: Sequence[str], negative: str, positive: str, groups=None
):
    """Restrict predictions to the images of two classes and renormalise p over those two.

    Returns:
        (y (M,) with 1 = positive, probabilities (M, 2), (negative, positive), groups (M,) or None):
        the arguments of classification_metrics, in its order. calibration's binary functions take
        y and probabilities[:, 1].

    Raises:
        InputError: see check_probabilities; an unknown class, no image of one of the two, or an
            image without any probability left for the two.
    """
    y, p, codes = check_probabilities(y_true, probabilities, classes, groups)
    if not {positive, negative} <= set(classes) or positive == negative:
        raise InputError(
            f"two_class: found {negative!r} and {positive!r}, expected two of {', '.join(classes)}"
        )
    pair = [list(classes).index(negative), list(classes).index(positive)]
    for name, c in zip((negative, positive), pair, strict=True):
        if not (y == c).any():
            raise InputError(f"two_class: no images of {name}, expected some of both classes")
    keep = np.isin(y, pair)
    p = p[keep][:, pair]
    total = p.sum(axis=1, keepdims=True)
    if (total == 0).any():
        raise InputError(
            f"two_class: {negative} and {positive} both have probability 0 in "
            f"{(total == 0).sum()} images; store probabilities with more digits"
        )
    groups = None if groups is None else codes[keep]
    return (y[keep] == pair[1]).astype(int), p / total, (negative, positive), groups


def macro_auroc(y_true, probabilities, classes: Sequence[str], groups=None) -> pd.DataFrame:
    """Mean over the classes of each one's AUROC against the rest, as one row with interval.

    Arguments, columns and errors as in classification_metrics; n counts all images.
    """
    y, p, codes = check_probabilities(y_true, probabilities, classes, groups)
    rankers = [_ranker(y == c, p[:, c]) for c in range(len(classes))]

    def evaluate(counts: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.stack([rank(counts)[0] for rank in rankers]).mean(axis=0, keepdims=True)

    (values,), (replicates,) = _replicates(codes, [evaluate])
    needs = {"images": np.ones(len(y), bool)}
    needs |= {f"images of {name}": y == c for c, name in enumerate(classes)}
    needs |= {f"images of other classes than {name}": y != c for c, name in enumerate(classes)}
    return _describe([("macro_auroc", None, needs)], values, replicates, codes)
