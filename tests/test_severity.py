"""Severity: the head, its loss, the spread of its errors, agreement with known scores."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn.metrics import mean_absolute_error, r2_score
from torch import nn

from covidxr import severity
from covidxr.models import HeadsAlone, XrayResNet18
from covidxr.severity import JointLoss

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def scored():
    """Truth 0-8, estimates that follow it with noise, and patients of two films each."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 9, 120).astype(float)
    return truth, np.clip(truth + rng.normal(0.3, 1, 120), 0, 8), np.arange(120) // 2


def test_known_scores_prefer_the_collections_own():
    manifest = pd.DataFrame(
        {
            "extent": [3.0, None, None],
            "opacity": [2.0, None, None],
            "extent_covidnet": [8.0, 4.0, None],
            "opacity_covidnet": [8.0, 4.0, None],
        }
    ).astype("Float64")
    scores = severity.known_scores(manifest)
    assert scores.shape == (3, 6) and np.isnan(scores[:, :4]).all() and np.isnan(scores[2]).all()
    np.testing.assert_allclose(scores[:2, 4:], [[3, 2], [4, 3]])


def test_nothing_known_is_none():
    assert severity.known_scores(pd.DataFrame({"label": ["COVID"]})) is None


def test_heads_agree_however_they_are_called():
    torch.manual_seed(0)
    model = XrayResNet18(3, severity=True).eval()
    images = torch.rand(2, 1, 96, 96)
    pooled = model.pooled(images)
    assert pooled.shape == (2, 3, 512)
    torch.testing.assert_close(pooled[:, 0], model.features(images))
    outputs = model.outputs(images)
    assert outputs.shape == (2, 3 + severity.OUTPUTS)
    torch.testing.assert_close(outputs[:, :3], model(images))
    torch.testing.assert_close(outputs, HeadsAlone(model)(pooled))


def test_each_lung_is_scored_from_its_half_of_the_film():
    """The features' left half, the patient's right lung, decides the first four outputs alone."""
    model = XrayResNet18(3, severity=True).eval()
    pooled = torch.rand(1, 3, 512)
    changed = pooled.clone()
    changed[:, 1] += 1
    before, after = (model.heads(p)[0, 3:] for p in (pooled, changed))
    assert (before[:4] != after[:4]).all() and torch.equal(before[4:], after[4:])


def test_joint_loss_by_hand_and_without_known_scores():
    loss = JointLoss(nn.CrossEntropyLoss())
    outputs = torch.zeros(2, 3 + 8)
    unknown = torch.full((2, 7), float("nan"))
    unknown[:, 0] = torch.tensor([0.0, 2.0])
    assert loss(outputs, unknown).item() == pytest.approx(np.log(3))
    known = unknown.clone()
    known[0, 5] = 3.0  # extent of the film: found 0, variance 1 + 1
    spread = 0.5 * (np.log(2) + 9 / 2)
    assert loss(outputs, known).item() == pytest.approx(np.log(3) + 2.5 + 0.1 * spread, rel=1e-5)


def test_the_spread_does_not_shape_the_features():
    model = XrayResNet18(3, severity=True)
    halves = torch.rand(4, 2, 512, requires_grad=True)
    model.score_lungs(halves)[:, :, 2:].sum().backward()
    assert halves.grad is None or not halves.grad.any()


def test_spread_is_fitted_to_the_errors():
    """Log-variance 0 says sd sqrt(2) for two lungs; errors of sd 1 need the factor 1 / sqrt(2)."""
    rng = np.random.default_rng(1)
    outputs, scores = np.zeros((4000, 8), np.float32), np.full((4000, 6), np.nan)
    outputs[:, [0, 4]] = 2.0
    scores[:, 4] = 4 + rng.normal(0, 1, 4000)
    factors = severity.fit_spread(outputs, scores)
    assert factors["extent"] == pytest.approx(np.sqrt(0.5), rel=0.03) and factors["opacity"] is None
    table = severity.table(outputs[:2], factors)
    assert list(table) == list(severity.COLUMNS)
    np.testing.assert_allclose(table["extent_sd"], 1, rtol=0.03)
    assert table["opacity_sd"].isna().all() and table["extent"].tolist() == [4.0, 4.0]


def test_estimates_stay_in_range():
    outputs = np.tile(np.array([-9, -9, 0, 0, 99, 99, 0, 0], np.float32), (3, 1))
    found, _ = severity.estimates(outputs)
    np.testing.assert_allclose(found[0], [0, 0, 4, 3, 4, 3])


def test_agreement_is_what_scipy_and_sklearn_say(scored):
    truth, found, groups = scored
    frame = severity.agreement(truth, found, groups).set_index("metric")
    error = found - truth
    assert frame.loc["pearson_r", "value"] == pytest.approx(stats.pearsonr(truth, found)[0])
    assert frame.loc["r2", "value"] == pytest.approx(r2_score(truth, found))
    assert frame.loc["mae", "value"] == pytest.approx(mean_absolute_error(truth, found))
    assert frame.loc["bias", "value"] == pytest.approx(error.mean())
    assert frame.loc["limits_high", "value"] == pytest.approx(error.mean() + 1.96 * error.std())
    assert (frame["low"] < frame["value"]).all() and (frame["value"] < frame["high"]).all()
    assert set(frame["n"]) == {120}


def test_agreement_of_too_little_is_unknown(scored):
    truth, found, groups = scored
    assert severity.agreement(truth[:2], found[:2], groups[:2])["value"].isna().all()
    few = severity.agreement(truth[:8], found[:8], groups[:8])
    assert few["value"].notna().all() and few["low"].isna().all()
    holes = severity.agreement([None, *truth[1:]], found, groups)
    assert set(holes["n"]) == {119}


def test_evaluate_sets_the_training_mean_beside(scored):
    truth, found, groups = scored
    frame = severity.evaluate(
        pd.DataFrame({"extent": found}), pd.DataFrame({"extent": truth}), groups, {"extent": 4.0}
    ).set_index("metric")
    assert frame.loc["mae_of_mean", "value"] == pytest.approx(np.abs(truth - 4).mean())
    assert set(frame["score"]) == {"extent"}


def test_ridge_predicts_every_film_without_its_group(scored):
    truth, _, groups = scored
    rng = np.random.default_rng(0)
    names = rng.normal(size=(60, 40))[groups]  # features that tell the patient and nothing else
    per_patient = np.repeat(truth[::2], 2)
    assert (
        abs(stats.pearsonr(severity.ridge_crossval(names, per_patient, groups), per_patient)[0])
        < 0.4
    )
    found = severity.ridge_crossval(truth[:, None] + rng.normal(0, 0.1, (120, 3)), truth, groups)
    assert stats.pearsonr(found, truth)[0] > 0.99


def test_scores_of_the_real_collection(real_data):
    """94 films have the collection's own scores; COVID-Net's readers add those it lacks."""
    from covidxr import datasets

    with pytest.warns(UserWarning, match="cohen"):
        manifest, _ = datasets.load("cohen", real_data)
    scores = severity.known_scores(manifest)
    extent, opacity = scores[:, 4], scores[:, 5]
    assert manifest["extent"].notna().sum() == 94 < np.isfinite(extent).sum()
    assert np.nanmax(extent) <= 8 and np.nanmax(opacity) <= 6 and np.nanmin(scores) >= 0
    assert np.isnan(scores[:, :4]).all()
