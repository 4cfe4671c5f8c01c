"""How much of the lungs is involved: extent (0-8) and opacity (0-6), learnt beside the class.

Scores after Cohen et al. 2020 (doi:10.7759/cureus.9448): each lung 0-4 for extent and 0-3 for
opacity; a film's score is the sum. The model scores each lung from its half of the film (see
XrayResNet18), so it can learn from films of which only the sum is known.
"""

from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F

from covidxr import metrics

SCORES = ("extent_right", "opacity_right", "extent_left", "opacity_left", "extent", "opacity")
HIGHEST = {"extent": 8.0, "opacity": 6.0}
COVIDNET_OPACITY = HIGHEST["opacity"] / 8  # COVID-Net's readers scored opacity 0-8
OUTPUTS = 8  # what the severity head adds to a model's outputs: four numbers a lung
COLUMNS = ("extent", "extent_sd", "extent_right", "extent_left", "opacity", "opacity_sd")
AGREEMENT = ("pearson_r", "r2", "mae", "bias", "limits_low", "limits_high")
MIN_FILMS = 10  # scored validation films without which the spread of errors is not known


def known_scores(manifest: pd.DataFrame) -> np.ndarray | None:
    """float32 (N, 6) in the order of SCORES, NaN where unknown; None where nothing is known.

    Films of `cohen` without the collection's own scores take those of COVID-Net's readers.
    """
    table = manifest.reindex(columns=SCORES).astype("Float64")
    if "extent_covidnet" in manifest:
        table["extent"] = table["extent"].fillna(manifest["extent_covidnet"])
        table["opacity"] = table["opacity"].fillna(manifest["opacity_covidnet"] * COVIDNET_OPACITY)
    scores = table.to_numpy(np.float32, na_value=np.nan)
    return None if np.isnan(scores).all() else scores


def means(manifest: pd.DataFrame) -> dict[str, float]:
    """Mean of every score that a manifest knows, by name: what to answer without a look."""
    return manifest.reindex(columns=SCORES).astype("Float64").mean().dropna().to_dict()


def with_sums(lungs: torch.Tensor) -> torch.Tensor:
    """(B, 2, 2), extent and opacity of each lung, to (B, 6) in the order of SCORES."""
    return torch.cat([lungs.flatten(1), lungs.sum(dim=1)], dim=1)


class JointLoss(nn.Module):
    """Cross-entropy of the class plus the error of the known scores and of its predicted spread.

    Targets (B, 7): class index, then SCORES with NaN where unknown. The scores learn by smooth L1,
    the spread by the Gaussian likelihood of errors held fixed.
    """

    def __init__(self, of_class: nn.Module) -> None:
        super().__init__()
        self.of_class = of_class

    def forward(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        outputs = outputs.float()
        loss = self.of_class(outputs[:, :-OUTPUTS], targets[:, 0].long())
        truth, lungs = targets[:, 1:], outputs[:, -OUTPUTS:].view(-1, 2, 4)
        known = ~truth.isnan()
        if not known.any():
            return loss + 0 * lungs.sum()
        found, variance = with_sums(lungs[:, :, :2])[known], with_sums(_variance(lungs))[known]
        spread = F.gaussian_nll_loss(found.detach(), truth[known], variance)
        return loss + F.smooth_l1_loss(found, truth[known]) + 0.1 * spread


def _variance(lungs: torch.Tensor) -> torch.Tensor:
    return lungs[:, :, 2:].clamp(-6, 4).exp()


def estimates(outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Head outputs (N, 8) to scores and their unscaled standard deviations, (N, 6) each.

    The variances of two lungs add up, as if their errors were independent; `fit_spread` scales
    what is wrong about that.
    """
    lungs = torch.from_numpy(np.asarray(outputs, np.float32)).view(-1, 2, 4)
    lungs[:, :, :2] = torch.minimum(lungs[:, :, :2].clamp(min=0), torch.tensor([4.0, 3.0]))
    return with_sums(lungs[:, :, :2]).numpy(), with_sums(_variance(lungs)).sqrt().numpy()


def fit_spread(outputs: np.ndarray, scores: np.ndarray) -> dict[str, float | None]:
    """Factors on the standard deviations of extent and opacity, from validation films.

    With the factor the squared error of a film is, on average, its variance. None where fewer than
    10 validation films are scored: then no standard deviation is reported.
    """
    found, sd = estimates(outputs)
    factors = {}
    for name in HIGHEST:
        column = SCORES.index(name)
        z = (found - scores)[:, column] / sd[:, column]
        known = np.isfinite(z)
        enough = known.sum() >= MIN_FILMS
        factors[name] = float(np.sqrt(np.mean(z[known] ** 2))) if enough else None
    return factors


def table(outputs: np.ndarray, factors: dict[str, float | None]) -> pd.DataFrame:
    """The severity columns of the predictions table, from head outputs (N, 8)."""
    found, sd = estimates(outputs)
    scores = pd.DataFrame(found.astype(float), columns=list(SCORES))
    for name in HIGHEST:
        known = factors[name] is not None
        spread = sd[:, SCORES.index(name)].astype(float)
        scores[f"{name}_sd"] = spread * factors[name] if known else pd.NA
    return scores[list(COLUMNS)]


def mean_error(outputs: np.ndarray, scores: np.ndarray) -> float:
    """Mean absolute error of extent over the films where it is known; NaN without any."""
    error = np.abs(estimates(outputs)[0] - scores)[:, SCORES.index("extent")]
    return float(np.nanmean(error)) if np.isfinite(error).any() else float("nan")


def _agreement(truth, found, counts: np.ndarray) -> np.ndarray:
    """AGREEMENT (6, R) of films drawn `counts` (N, R) times."""
    n = counts.sum(axis=0)

    def mean(values):
        return values @ counts / n

    error = found - truth
    bias, squared = mean(error), mean(error**2)
    var_truth = mean(truth**2) - mean(truth) ** 2
    var_found = mean(found**2) - mean(found) ** 2
    covariance = mean(truth * found) - mean(truth) * mean(found)
    width = 1.96 * np.sqrt(np.maximum(squared - bias**2, 0))
    with np.errstate(divide="ignore", invalid="ignore"):
        r, r2 = covariance / np.sqrt(var_truth * var_found), 1 - squared / var_truth
    return np.stack([r, r2, mean(np.abs(error)), bias, bias - width, bias + width])


def agreement(truth, found, groups) -> pd.DataFrame:
    """Pearson r, R2, MAE, bias and limits of agreement (Bland & Altman 1986), with 95% intervals.

    Args:
        truth, found: scores (N,); films where either is unknown are left out.
        groups: (N,) patients, which the bootstrap draws. With fewer than 10 the interval is NA.

    Returns:
        metric, value, low, high, n.
    """
    truth = pd.to_numeric(pd.Series(truth)).to_numpy(float, na_value=np.nan)
    found = pd.to_numeric(pd.Series(found)).to_numpy(float, na_value=np.nan)
    known = np.isfinite(truth) & np.isfinite(found)
    truth, found = truth[known], found[known]
    frame = pd.DataFrame({"metric": AGREEMENT, "value": np.nan, "low": np.nan, "high": np.nan})
    frame["n"] = int(known.sum())
    if known.sum() < 3:
        return frame
    frame["value"] = _agreement(truth, found, np.ones((len(truth), 1)))[:, 0]
    codes, found_groups = pd.factorize(np.asarray(groups)[known])
    if len(found_groups) < metrics.MIN_GROUPS:
        return frame
    for row, values in enumerate(metrics.resampled(partial(_agreement, truth, found), codes)):
        if np.isfinite(values).all():
            frame.loc[row, ["low", "high"]] = metrics.percentile_interval(values)
    return frame


def evaluate(predictions: pd.DataFrame, truth: pd.DataFrame, groups, constant=None) -> pd.DataFrame:
    """`agreement` of every score that both tables know, beside predicting the training mean.

    Args:
        predictions: has some of SCORES as columns; truth: likewise, row for row.
        constant: what to set beside, {name: training mean}; a row `mae_of_mean` is added with it.

    Returns:
        score, then the columns of `agreement`.
    """
    frames = []
    for name in SCORES:
        if name not in truth or name not in predictions or truth[name].isna().all():
            continue
        frame = agreement(truth[name], predictions[name], groups)
        if constant and name in constant:
            same = np.full(len(truth), constant[name])
            base = agreement(truth[name], same, groups).query("metric == 'mae'")
            frame = pd.concat([frame, base.assign(metric="mae_of_mean")], ignore_index=True)
        frames.append(frame.assign(score=name))
    if not frames:
        return pd.DataFrame(columns=["score", "metric", "value", "low", "high", "n"])
    result = pd.concat(frames, ignore_index=True)
    return result[["score", "metric", "value", "low", "high", "n"]]


def ridge_crossval(features, truth, groups) -> np.ndarray:
    """Scores (N,) of ridge regression on features (N, D), a film's from 5 folds without its group.

    For few scored films, where few features beat many (Cohen et al. 2020). The penalty is chosen
    inside the training folds.
    """
    from sklearn.linear_model import RidgeCV  # here, since it takes long to load
    from sklearn.model_selection import GroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    found = np.full(len(truth), np.nan)
    for train, test in GroupKFold(5).split(features, truth, groups):
        model = make_pipeline(StandardScaler(), RidgeCV(np.logspace(0, 5, 21)))
        found[test] = model.fit(features[train], truth[train]).predict(features[test])
    return found
