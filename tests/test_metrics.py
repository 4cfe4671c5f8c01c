import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest, norm
from sklearn import metrics as skm
from sklearn.calibration import calibration_curve

from covidxr import CLASSES, InputError, calibration, metrics
from covidxr.calibration import softmax

PAIR = ("Normal", "COVID")


def simulate(n=400, k=3, seed=0, decimals=None):
    """Labels and probabilities; rounding the scores makes ties."""
    rng = np.random.default_rng(seed)
    y = rng.choice(k, n, p=np.array([0.5, 0.3, 0.2])[:k] / sum([0.5, 0.3, 0.2][:k]))
    logits = rng.normal(size=(n, k))
    logits[np.arange(n), y] += 1.5
    if decimals is not None:
        logits = np.round(logits, decimals)
    return y, logits, softmax(logits)


def value(frame, metric, name=None, column="value"):
    match = frame["class"].isna() if name is None else frame["class"] == name
    return frame.loc[(frame["metric"] == metric) & match, column].item()


def sklearn_values(y, p, classes, weight=None):
    """Every figure of classification_metrics, in its order, from scikit-learn."""
    predicted = p.argmax(axis=1)
    w = {"sample_weight": weight}
    expected = [
        skm.accuracy_score(y, predicted, **w),
        skm.balanced_accuracy_score(y, predicted, **w),
        skm.f1_score(y, predicted, average="macro", **w),
    ]
    for c in range(len(classes)):
        own, flagged = y == c, predicted == c
        expected += [
            skm.recall_score(own, flagged, **w),
            skm.recall_score(~own, ~flagged, **w),
            skm.precision_score(own, flagged, **w),
            skm.precision_score(~own, ~flagged, **w),
            skm.roc_auc_score(own, p[:, c], **w),
            skm.average_precision_score(own, p[:, c], **w),
        ]
    return np.array(expected)


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("decimals", [None, 1, 0])
def test_values_equal_scikit_learn(k, decimals):
    y, _, p = simulate(k=k, decimals=decimals)
    frame = metrics.classification_metrics(y, p, CLASSES[:k], n_resamples=40)
    expected = sklearn_values(y, p, CLASSES[:k])
    np.testing.assert_allclose(frame["value"].to_numpy(float), expected, atol=1e-9)


@pytest.mark.parametrize("decimals", [None, 1, 0])
def test_every_resample_equals_scikit_learn_with_weights(decimals):
    y, _, p = simulate(n=150, decimals=decimals)
    groups = np.random.default_rng(1).integers(60, size=150)
    _, _, codes = metrics.check_probabilities(y, p, CLASSES, groups)
    (counts,) = metrics.resampled_counts(codes, 8, seed=0)
    ours = metrics._evaluator(y, p)(counts)
    for r in range(8):
        expected = sklearn_values(y, p, CLASSES, counts[:, r])
        np.testing.assert_allclose(ours[:, r], expected, atol=1e-6)


def test_resamples_draw_whole_groups_and_do_not_depend_on_the_chunk(monkeypatch):
    codes = np.array([0, 0, 1, 2, 2, 2, 3])
    (counts,) = metrics.resampled_counts(codes, 500, seed=3)
    assert (counts[0] == counts[1]).all() and (counts[3] == counts[5]).all()
    firsts = counts[[0, 2, 3, 6]]
    assert (firsts.sum(axis=0) == 4).all()
    assert firsts.mean() == pytest.approx(1) and firsts.var() == pytest.approx(0.75, abs=0.06)
    monkeypatch.setattr(metrics, "CHUNK", 70)
    parts = list(metrics.resampled_counts(codes, 500, seed=3))
    assert len(parts) == 50
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), counts)


def test_interval_covers_the_truth_95_times_in_100():
    """300 patients with 1 to 5 images that resemble each other; the truth is known in closed form.

    The logit is ±1.2 plus a patient's and an image's standard normal deviate; 40% are COVID.
    """
    right = norm.cdf(1.2 / np.sqrt(2))
    f1 = 0.4 * right / (0.4 * right + 0.6 * (1 - right) + 0.4)
    f1 += 0.6 * right / (0.6 * right + 0.4 * (1 - right) + 0.6)
    truth = np.array([right, right, f1, right, right])  # the last: sensitivity, specificity
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(300), np.tile(np.arange(1, 6), 60))
    covered, auroc_covered = [], []
    for seed in range(500):
        y = (rng.random(300) < 0.4).astype(int)[group]
        logit = (2 * y - 1) * 1.2 + rng.normal(size=300)[group] + rng.normal(size=len(group))
        p = softmax(np.stack([0 * logit, logit], axis=1))
        _, (draws,) = metrics._replicates(group, [metrics._evaluator(y, p)], 200, seed)
        low, high = metrics.percentile_interval(draws)
        covered.append((low[:5] <= truth) & (truth <= high[:5]))
        auroc_covered.append(low[7] <= norm.cdf(1.2) <= high[7])
    coverage = np.append(np.mean(covered, axis=0), np.mean(auroc_covered))
    assert ((coverage >= 0.93) & (coverage <= 0.97)).all(), coverage


def test_interval_leaves_out_resamples_where_the_figure_is_undefined():
    draws = np.append(np.arange(1, 40.0), np.nan)
    assert metrics.percentile_interval(draws).tolist() == [1, 39]


def test_grouping_widens_the_interval_of_copied_images():
    y, _, p = simulate(n=200)
    copies = np.repeat(np.arange(200), 5)
    alone = metrics.classification_metrics(y, p, CLASSES)
    naive = metrics.classification_metrics(y[copies], p[copies], CLASSES)
    grouped = metrics.classification_metrics(y[copies], p[copies], CLASSES, copies)
    width = [(f["high"] - f["low"])[0] for f in (alone, naive, grouped)]
    assert width[2] == pytest.approx(width[0]) and width[1] < 0.6 * width[2]


def test_same_seed_same_table_and_n_counts_images():
    y, _, p = simulate()
    frame = metrics.classification_metrics(y, p, CLASSES, seed=5)
    pd.testing.assert_frame_equal(frame, metrics.classification_metrics(y, p, CLASSES, seed=5))
    assert list(frame) == ["metric", "class", "value", "low", "high", "n", "reason"]
    assert value(frame, "accuracy", column="n") == 400
    assert value(frame, "sensitivity", "COVID", "n") == np.sum(y == 2)
    assert value(frame, "specificity", "COVID", "n") == np.sum(y != 2)
    assert value(frame, "ppv", "COVID", "n") == np.sum(p.argmax(axis=1) == 2)
    inside = (frame["low"] < frame["value"]) & (frame["value"] < frame["high"])
    assert inside.all() and frame["reason"].isna().all()


def test_absent_class_gives_na_with_its_reason():
    y, _, p = simulate()
    keep = y != 1
    frame = metrics.classification_metrics(y[keep], p[keep], CLASSES)
    for metric in ("sensitivity", "auroc", "average_precision"):
        assert value(frame, metric, "Lung_Opacity") is pd.NA
        assert value(frame, metric, "Lung_Opacity", "reason") == "no images of Lung_Opacity"
    assert value(frame, "macro_f1") is pd.NA and value(frame, "balanced_accuracy") is pd.NA
    assert value(frame, "specificity", "Lung_Opacity") > 0.5
    assert value(frame, "auroc", "COVID") == pytest.approx(
        skm.roc_auc_score(y[keep] == 2, p[keep, 2])
    )


def test_one_class_only_and_a_class_never_predicted():
    y, _, p = simulate()
    frame = metrics.classification_metrics(y[y == 0], p[y == 0], CLASSES)
    assert value(frame, "accuracy") == value(frame, "sensitivity", "Normal")
    assert value(frame, "auroc", "Normal") is pd.NA
    assert value(frame, "auroc", "Normal", "reason") == "no images of other classes than Normal"
    never = np.tile([0.6, 0.3, 0.1], (len(y), 1))
    frame = metrics.classification_metrics(y, never, CLASSES)
    assert value(frame, "ppv", "COVID", "reason") == "no images predicted COVID"
    assert value(frame, "npv", "Normal", "reason") == "no images not predicted Normal"
    assert value(frame, "auroc", "COVID") == 0.5


def test_few_groups_give_a_value_without_interval():
    y, _, p = simulate(n=90)
    frame = metrics.classification_metrics(y, p, CLASSES, np.arange(90) % 9)
    assert frame["value"].notna().all() and frame["low"].isna().all()
    assert frame["reason"].str.contains("9 groups with").all()
    rare = np.r_[np.flatnonzero(y != 2), np.flatnonzero(y == 2)[:4]]
    frame = metrics.classification_metrics(y[rare], p[rare], CLASSES)
    assert value(frame, "sensitivity", "COVID", "reason").startswith("no interval: 4 groups with")
    assert value(frame, "specificity", "COVID", "low") > 0


def test_no_zero_width_interval_when_every_image_is_right():
    y = np.repeat([0, 1, 2], 20)
    p = np.eye(3)[y] * 0.7 + 0.1
    frame = metrics.classification_metrics(y, p, CLASSES)
    low = binomtest(60, 60).proportion_ci(method="wilson").low
    assert value(frame, "accuracy", column="low") == pytest.approx(low)
    assert "Wilson on 60 groups" in value(frame, "accuracy", column="reason")
    assert value(frame, "auroc", "COVID") == 1 and value(frame, "auroc", "COVID", "low") is pd.NA


def bad_row(row):
    _, _, p = simulate(n=20)
    p[3] = row
    return p


@pytest.mark.parametrize(
    ("y", "p", "groups", "message"),
    [
        (np.zeros(20, int), bad_row([np.nan, 0.5, 0.5]), None, "NaN .* row 3"),
        (np.zeros(20, int), bad_row([0.2, 0.2, 0.2]), None, "a sum other than 1 in 1 of 20"),
        (np.zeros(20, int), bad_row([1.2, -0.1, -0.1]), None, "outside 0 to 1"),
        (np.zeros(19, int), bad_row([1, 0, 0]), None, "19 labels for 20 rows"),
        (np.full(20, 3), bad_row([1, 0, 0]), None, "class indices 0 to 2"),
        (np.full(20, "COVID"), bad_row([1, 0, 0]), None, "class indices 0 to 2"),
        (np.zeros(20, int), bad_row([1, 0, 0])[:, :2], None, "one column per class"),
        (np.zeros(0, int), np.zeros((0, 3)), None, "at least one"),
        (np.zeros(20, int), bad_row([1, 0, 0]), ["a"] * 19, "one per image"),
        (np.zeros(20, int), bad_row([1, 0, 0]), ["a"] * 19 + [None], "1 images have none"),
    ],
)
def test_bad_predictions_are_refused(y, p, groups, message):
    with pytest.raises(InputError, match=message):
        metrics.classification_metrics(y, p, CLASSES, groups)


def test_too_few_resamples_are_refused():
    y, _, p = simulate()
    with pytest.raises(InputError, match="expected 40 or more"):
        metrics.classification_metrics(y, p, CLASSES, n_resamples=10)


def test_wilson_equals_scipy():
    for k, n in ((0, 7), (7, 7), (3, 11), (950, 1000)):
        expected = binomtest(k, n).proportion_ci(0.95, method="wilson")
        assert metrics.wilson_interval(k, n) == pytest.approx(tuple(expected), abs=1e-12)
    low, high = metrics.wilson_interval([1, 2], [10, 10])
    assert low.shape == high.shape == (2,)
    with pytest.raises(InputError, match="found 5 of 4"):
        metrics.wilson_interval(5, 4)


def test_paired_bootstrap_is_narrower_than_unpaired_and_zero_for_one_model():
    y, logits, a = simulate(n=600)
    b = softmax(logits + np.random.default_rng(1).normal(size=logits.shape) * 0.3)
    frame = metrics.paired_bootstrap(y, a, b, CLASSES)
    assert not set(frame["metric"]) & {"ppv", "npv"}
    expected = skm.roc_auc_score(y == 2, b[:, 2]) - skm.roc_auc_score(y == 2, a[:, 2])
    assert value(frame, "auroc", "COVID", "difference") == pytest.approx(expected)
    assert value(frame, "accuracy", column="value_b") == np.mean(b.argmax(axis=1) == y)
    alone = metrics.classification_metrics(y, a, CLASSES)
    assert (frame["high"] - frame["low"])[0] < 0.8 * (alone["high"] - alone["low"])[0]
    same = metrics.paired_bootstrap(y, a, a, CLASSES)
    assert (same["difference"] == 0).all() and same["low"].isna().all()


def test_paired_bootstrap_leaves_an_absent_class_na():
    y, _, p = simulate()
    keep = y != 2
    frame = metrics.paired_bootstrap(y[keep], p[keep], p[keep], CLASSES)
    assert value(frame, "auroc", "COVID", "difference") is pd.NA
    assert value(frame, "macro_f1", column="value_a") is pd.NA


def test_two_class_restricts_and_renormalises():
    y, _, p = simulate()
    groups = np.char.add("patient", (np.arange(400) // 2).astype(str))
    y2, p2, names, g2 = metrics.two_class(y, p, CLASSES, "Normal", "COVID", groups)
    keep = y != 1
    np.testing.assert_array_equal(y2, y[keep] == 2)
    np.testing.assert_allclose(p2[:, 1], p[keep, 2] / (p[keep, 0] + p[keep, 2]))
    assert names == PAIR and (np.bincount(g2) <= 2).all()
    frame = metrics.classification_metrics(y2, p2, names, g2)
    assert value(frame, "auroc", "COVID") == pytest.approx(skm.roc_auc_score(y2, p2[:, 1]))
    assert metrics.two_class(y, p, CLASSES, "Normal", "COVID")[3] is None


def test_two_class_refuses_what_it_cannot_do():
    y, _, p = simulate()
    with pytest.raises(InputError, match="'Flu'"):
        metrics.two_class(y, p, CLASSES, "Normal", "Flu")
    with pytest.raises(InputError, match="no images of COVID"):
        metrics.two_class(y[y != 2], p[y != 2], CLASSES, "Normal", "COVID")
    p[np.flatnonzero(y == 0)[0]] = [0, 1, 0]
    with pytest.raises(InputError, match="more digits"):
        metrics.two_class(y, p, CLASSES, "Normal", "COVID")


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_temperature_is_recovered(temperature):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 3)) * 2
    y = (softmax(logits).cumsum(axis=1) < rng.random((20_000, 1))).sum(axis=1)
    assert calibration.fit_temperature(logits * temperature, y) == pytest.approx(
        temperature, rel=0.03
    )


def test_temperature_minimises_the_log_loss():
    y, logits, _ = simulate()
    best = calibration.fit_temperature(3 * logits, y)
    losses = [skm.log_loss(y, softmax(3 * logits, best * f)) for f in (0.99, 1, 1.01)]
    assert losses[1] == min(losses)


def test_temperature_stays_one_with_a_warning_where_none_is_best():
    y = np.repeat([0, 1, 2], 10)
    for logits in (np.eye(3)[y], 1 - np.eye(3)[y]):
        with pytest.warns(UserWarning, match="kept at 1"):
            assert calibration.fit_temperature(logits, y) == 1
    with pytest.raises(InputError, match="finite"):
        calibration.fit_temperature(np.full((30, 3), np.nan), y)
    with pytest.raises(InputError, match="above 0"):
        softmax(np.eye(3), temperature=0)


def test_softmax_survives_large_logits():
    np.testing.assert_allclose(softmax([[1000.0, 999.0]]), [[0.731058579, 0.268941421]])


def calibrated(n, seed=0):
    rng = np.random.default_rng(seed)
    p = softmax(rng.normal(size=(n, 3)) * 2)
    return (p.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1), p


def test_ece_is_small_when_calibrated_and_right_when_not():
    y, p = calibrated(50_000)
    ece = calibration.expected_calibration_error(y, p)
    assert ece < 0.01
    median, high = calibration.calibration_error_by_chance(p, n_draws=40)
    assert median < high < 0.01
    sure = np.tile([0.9, 0.1], (100, 1))
    y = (np.arange(100) < 40).astype(int)
    assert calibration.expected_calibration_error(y, sure) == pytest.approx(0.3)
    low, high = calibration.calibration_error_interval(y, sure)
    wilson = metrics.wilson_interval(60, 100)
    assert (0.9 - high, 0.9 - low) == pytest.approx(wilson, abs=0.02)


def test_ece_and_bins_equal_scikit_learn():
    y, _, p = simulate(n=1000)
    right, confidence = p.argmax(axis=1) == y, p.max(axis=1)
    bins = calibration.reliability_bins(y, p)
    accuracy, mean = skm_curve(right, confidence)
    np.testing.assert_allclose(bins["accuracy"], accuracy)
    np.testing.assert_allclose(bins["confidence"], mean)
    assert bins["n"].sum() == 1000 and (bins["n"] > 0).all()
    ece = (bins["n"] * np.abs(accuracy - mean)).sum() / 1000
    assert calibration.expected_calibration_error(y, p) == pytest.approx(ece)


def skm_curve(right, confidence):
    return calibration_curve(right, confidence, n_bins=15, strategy="uniform")


def test_calibration_interval_needs_groups():
    y, p = calibrated(100)
    with pytest.raises(InputError, match="found 5"):
        calibration.calibration_error_interval(y, p, np.arange(100) % 5)


def test_threshold_is_the_highest_that_reaches_the_sensitivity():
    y, _, p = simulate()
    y, score = y == 2, p[:, 2]
    threshold = calibration.threshold_at_sensitivity(y, score, 0.95)
    assert np.mean(score[y] >= threshold) >= 0.95
    assert np.mean(score[y] >= np.nextafter(threshold, 1)) < 0.95
    assert calibration.threshold_at_sensitivity([0] + [1] * 20, np.arange(21), 0.95) == 2
    assert calibration.threshold_at_sensitivity([0, 1, 1], [5, 1, 2], 1.0) == 1
    with pytest.raises(InputError, match="sensitivity"):
        calibration.threshold_at_sensitivity(y, score, 95)


def test_operating_point_equals_scikit_learn_and_scipy():
    y, _, p = simulate()
    y, score = y == 2, p[:, 2]
    sensitivity, specificity = calibration.operating_point(y, score, 0.3).itertuples(index=False)
    assert sensitivity.value == pytest.approx(skm.recall_score(y, score >= 0.3))
    assert specificity.value == pytest.approx(skm.recall_score(~y, score < 0.3))
    assert (sensitivity.n, specificity.n) == (y.sum(), (~y).sum())
    test = binomtest(int((score[y] >= 0.3).sum()), int(y.sum()))
    assert (sensitivity.low, sensitivity.high) == pytest.approx(
        tuple(test.proportion_ci(method="wilson"))
    )


def test_predictive_values_by_counting():
    ppv, npv = calibration.predictive_values(0.9, 0.8, [0.01, 0.2])
    np.testing.assert_allclose(ppv, [9 / (9 + 198), 180 / (180 + 160)])
    np.testing.assert_allclose(npv, [792 / (792 + 1), 640 / (640 + 20)])
    assert np.isnan(calibration.predictive_values(0, 1, 0.1)[0])
    with pytest.raises(InputError, match="0 to 1"):
        calibration.predictive_values(0.9, 0.8, 5)


def test_net_benefit_by_counting():
    y, score = np.array([1, 1, 0, 0, 0]), np.array([0.9, 0.3, 0.6, 0.2, 0.1])
    curve = calibration.net_benefit(y, score, [0.25, 0.5])
    np.testing.assert_allclose(curve["model"], [2 / 5 - 1 / 5 / 3, 1 / 5 - 1 / 5])
    np.testing.assert_allclose(curve["treat_all"], [2 / 5 - 3 / 5 / 3, 2 / 5 - 3 / 5])
    assert (curve["treat_none"] == 0).all()
    with pytest.raises(InputError, match="between 0 and 1"):
        calibration.net_benefit(y, score, [0.5, 1.0])


def test_abstention_keeps_the_most_confident_and_ties_together():
    y = np.array([0, 0, 1, 1])
    p = np.array([[0.9, 0.1], [0.7, 0.3], [0.7, 0.3], [0.4, 0.6]])
    curve = calibration.abstention_curve(y, p)
    assert curve["coverage"].tolist() == [0.25, 0.75, 1.0]
    assert curve["n"].tolist() == [1, 3, 4]
    np.testing.assert_allclose(curve["accuracy"], [1, 2 / 3, 3 / 4])
    assert curve["confidence"].tolist() == [0.9, 0.7, 0.6]


@pytest.mark.parametrize(
    ("y", "score", "message"),
    [
        ([1, 1, 1], [0.1, 0.2, 0.3], r"found the values \[1\], expected both 0 and 1"),
        ([0, 1, 2], [0.1, 0.2, 0.3], "expected both"),
        ([], [], "expected both"),
        ([0, 1, 1], [0.1, np.nan, 0.3], "1 of 3 are NaN"),
        ([0, 1, 1], [0.1, 0.3], "one per label"),
    ],
)
def test_binary_functions_refuse_bad_input(y, score, message):
    with pytest.raises(InputError, match=message):
        calibration.threshold_at_sensitivity(y, score)
    with pytest.raises(InputError, match=message):
        calibration.operating_point(y, score, 0.5)
    with pytest.raises(InputError, match=message):
        calibration.net_benefit(y, score, [0.5])
