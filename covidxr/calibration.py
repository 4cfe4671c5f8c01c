"""From scores to decisions: temperature, calibration error, operating point, net benefit.

Multi-class functions take `y_true` (N,) class indices and `probabilities` (N, K) or `logits`
(N, K). Binary functions take `y_true` (N,) of 0 and 1 and `score` (N,), higher for the positive.
"""

import warnings

import numpy as np
import pandas as pd

from covidxr import InputError
from covidxr.metrics import (
    MIN_GROUPS,
    check_probabilities,
    percentile_interval,
    resampled,
    wilson_interval,
)

TEMPERATURE_BOUNDS = (0.05, 20.0)
BINS = 15  # of the confidence, equally wide


def softmax(logits, temperature: float = 1.0) -> np.ndarray:
    """Probabilities (N, K) float64 from logits (N, K), divided by the temperature first."""
    if not temperature > 0:
        raise InputError(f"temperature: found {temperature}, expected a number above 0")
    from scipy import special  # here, since it takes long to load

    return special.softmax(np.asarray(logits, dtype=float) / temperature, axis=1)


def fit_temperature(logits, y_true) -> float:
    """Temperature that minimises the negative log-likelihood (Guo et al., 2017).

    Fit it on validation, never on test. Where no temperature minimises it (every image right,
    or logits that carry nothing), warns and returns 1: the logits stay as they are.

    Raises:
        InputError: logits that are not finite, lengths that differ, unknown labels.
    """
    from scipy import optimize, special

    logits = np.asarray(logits, dtype=float)
    if logits.ndim != 2 or not np.isfinite(logits).all():
        raise InputError(f"logits: shape {logits.shape}, expected (N, K) and finite numbers")
    y, _, _ = check_probabilities(y_true, softmax(logits), [str(k) for k in range(logits.shape[1])])
    rows = np.arange(len(y))

    def loss(log_t: float) -> float:
        return -special.log_softmax(logits / np.exp(log_t), axis=1)[rows, y].mean()

    bounds = np.log(TEMPERATURE_BOUNDS)
    options = {"xatol": 1e-6}
    best = optimize.minimize_scalar(loss, bounds=bounds, method="bounded", options=options).x
    if np.abs(best - bounds).min() < 1e-3:
        warnings.warn(
            f"no temperature between {TEMPERATURE_BOUNDS[0]} and {TEMPERATURE_BOUNDS[1]} minimises "
            f"the loss of these {len(y)} images; kept at 1 (probabilities are not calibrated)",
            stacklevel=2,
        )
        return 1.0
    return float(np.exp(best))


def _binned(y_true, probabilities, n_bins: int = BINS):
    """Top-label confidence (N,), whether it is right (N,), and its bin (N,) among equal widths."""
    names = [str(k) for k in range(np.shape(probabilities)[-1])]
    y, p, _ = check_probabilities(y_true, probabilities, names)
    confidence = p.max(axis=1)
    bins = np.clip(np.ceil(confidence * n_bins).astype(int) - 1, 0, n_bins - 1)
    return confidence, (p.argmax(axis=1) == y).astype(float), bins


def _calibration_error(gap: np.ndarray, bins: np.ndarray) -> np.ndarray:
    """ECE (R,) of gaps, right minus confidence times count (N, R), per resample of N images."""
    member = (bins == np.arange(BINS)[:, None]).astype(gap.dtype)
    return np.abs(member @ gap).sum(axis=0)


def expected_calibration_error(y_true, probabilities) -> float:
    """ECE of the top label (Guo et al., 2017) over bins of equal width, (lower, upper].

    Biased upwards on few images: read it beside calibration_error_by_chance.
    """
    confidence, right, bins = _binned(y_true, probabilities)
    return float(_calibration_error((right - confidence)[:, None], bins)[0] / len(bins))


def calibration_error_by_chance(probabilities, n_draws: int = 2000) -> tuple[float, float]:
    """ECE that a perfectly calibrated model with these confidences shows by chance alone.

    Returns:
        Median and 97.5th percentile over `n_draws` sets of outcomes drawn from the confidences. An
        ECE below the second is no evidence of miscalibration.
    """
    p = np.asarray(probabilities, dtype=float)
    confidence, _, bins = _binned(np.zeros(len(p), int), p)
    rng = np.random.default_rng(0)
    gaps = (((rng.random(len(p)) < confidence) - confidence)[:, None] for _ in range(n_draws))
    draws = [_calibration_error(gap, bins)[0] / len(p) for gap in gaps]
    median, high = np.percentile(draws, [50, 97.5])
    return float(median), float(high)


def calibration_error_interval(y_true, probabilities, groups=None) -> tuple[float, float]:
    """95% interval of the ECE, from a bootstrap over groups.

    Resampling adds noise, which can only raise an ECE; so the percentiles are mirrored at the ECE
    (the basic bootstrap of Davison and Hinkley, 1997) and cut at 0.
    """
    value = expected_calibration_error(y_true, probabilities)
    names = [str(k) for k in range(np.shape(probabilities)[1])]
    _, _, codes = check_probabilities(y_true, probabilities, names, groups)
    if codes.max() + 1 < MIN_GROUPS:
        raise InputError(f"groups: found {codes.max() + 1}, expected {MIN_GROUPS} for an interval")
    confidence, right, bins = _binned(y_true, probabilities)
    gap = (right - confidence)[:, None]
    draws = resampled(lambda n: _calibration_error(gap * n, bins) / n.sum(axis=0), codes)
    low, high = percentile_interval(draws)
    return max(0.0, float(2 * value - high)), max(0.0, float(2 * value - low))


def reliability_bins(y_true, probabilities, n_bins: int = BINS) -> pd.DataFrame:
    """Mean top-label confidence and accuracy per bin of equal width; empty bins are left out.

    Returns:
        confidence, accuracy, n, low, high (Wilson's 95% interval of the accuracy).
    """
    confidence, right, bins = _binned(y_true, probabilities, n_bins)
    frame = pd.DataFrame({"confidence": confidence, "accuracy": right, "bin": bins})
    table = frame.groupby("bin").mean()
    table["n"] = np.bincount(bins)[table.index]
    table["low"], table["high"] = wilson_interval(table["accuracy"] * table["n"], table["n"])
    return table.reset_index(drop=True)


def check_binary(y_true, score) -> tuple[np.ndarray, np.ndarray]:
    """Return `y_true` (N,) bool and `score` (N,) float64.

    Raises:
        InputError: lengths that differ, values other than 0 and 1, one class only, NaN scores.
    """
    y, score = np.asarray(y_true), np.asarray(score, dtype=float)
    if y.ndim != 1 or y.shape != score.shape:
        raise InputError(f"score: found shape {score.shape}, expected {y.shape}, one per label")
    found = np.unique(y).tolist()
    if found != [0, 1]:
        raise InputError(f"y_true: found the values {found[:5]}, expected both 0 and 1")
    if np.isnan(score).any():
        raise InputError(f"score: {np.isnan(score).sum()} of {len(score)} are NaN; leave them out")
    return y.astype(bool), score


def threshold_at_sensitivity(y_true, score, sensitivity: float = 0.95) -> float:
    """Highest threshold at which `score >= threshold` finds at least this share of positives.

    Choose it on validation, apply it to test with operating_point.
    """
    y, score = check_binary(y_true, score)
    if not 0 < sensitivity <= 1:
        raise InputError(f"sensitivity: found {sensitivity}, expected above 0 and up to 1")
    positives = np.sort(score[y])[::-1]
    needed = int(np.ceil(sensitivity * len(positives) - 1e-9))
    return float(positives[needed - 1])


def operating_point(y_true, score, threshold: float) -> pd.DataFrame:
    """Sensitivity and specificity of `score >= threshold`.

    Returns:
        Two rows: metric, value, low, high (Wilson's 95% interval, which takes the images as
        independent), n (positives; negatives).
    """
    y, score = check_binary(y_true, score)
    flagged = score >= threshold
    rows = []
    for metric, hits in (("sensitivity", flagged[y]), ("specificity", ~flagged[~y])):
        low, high = wilson_interval(hits.sum(), len(hits))
        rows.append((metric, hits.mean(), float(low), float(high), len(hits)))
    return pd.DataFrame(rows, columns=["metric", "value", "low", "high", "n"])


def predictive_values(sensitivity, specificity, prevalence):
    """PPV and NPV at a prevalence, by Bayes' rule; numbers or arrays that broadcast.

    Both rise with sensitivity and specificity: put in the lower (upper) ends of their intervals
    for a cautious lower (upper) end. NaN where nothing would be flagged (PPV) or passed (NPV).
    """
    values = [np.asarray(v, dtype=float) for v in (sensitivity, specificity, prevalence)]
    if not all(((v >= 0) & (v <= 1)).all() for v in values):
        raise InputError(
            "predictive_values: sensitivity, specificity and prevalence must lie in 0 to 1, found "
            f"{sensitivity}, {specificity}, {prevalence}"
        )
    sens, spec, prev = values
    with np.errstate(invalid="ignore"):
        ppv = sens * prev / (sens * prev + (1 - spec) * (1 - prev))
        npv = spec * (1 - prev) / (spec * (1 - prev) + (1 - sens) * prev)
    return ppv, npv


def net_benefit(y_true, score, thresholds) -> pd.DataFrame:
    """Decision curve (Vickers and Elkin, 2006): true positives gained per image.

    At threshold t a false positive costs t / (1 - t) true positives; images with `score >= t` are
    treated. `score` is a calibrated probability.

    Returns:
        threshold, model, treat_all, treat_none.
    """
    y, score = check_binary(y_true, score)
    t = np.asarray(thresholds, dtype=float)
    if not ((t > 0) & (t < 1)).all() or score.min() < 0 or score.max() > 1:
        raise InputError(
            f"net_benefit: scores {score.min():g} to {score.max():g} and thresholds {thresholds}, "
            "expected probabilities, and thresholds between 0 and 1"
        )
    flagged = score[:, None] >= t
    true, false = (flagged & y[:, None]).mean(axis=0), (flagged & ~y[:, None]).mean(axis=0)
    odds = t / (1 - t)
    return pd.DataFrame(
        {
            "threshold": t,
            "model": true - odds * false,
            "treat_all": y.mean() - odds * (1 - y.mean()),
            "treat_none": 0.0,
        }
    )


def abstention_curve(y_true, probabilities) -> pd.DataFrame:
    """Accuracy on the images that remain when the model abstains on the least confident.

    Images of equal confidence are kept or left together.

    Returns:
        One row per confidence: coverage (share kept), accuracy, low, high (Wilson), n (kept),
        confidence (the lowest kept).
    """
    confidence, right, _ = _binned(y_true, probabilities, n_bins=1)
    order = np.argsort(-confidence, kind="stable")
    confidence, hits = confidence[order], np.cumsum(right[order])
    last = np.append(confidence[1:] != confidence[:-1], True)
    n = np.arange(1, len(hits) + 1)[last]
    hits = hits[last]
    low, high = wilson_interval(hits, n)
    return pd.DataFrame(
        {
            "coverage": n / len(right),
            "accuracy": hits / n,
            "low": low,
            "high": high,
            "n": n,
            "confidence": confidence[last],
        }
    )
