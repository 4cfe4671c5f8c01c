import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import auc

from covidxr import (
    CLASSES,
    InputError,
    calibration,
    metrics,
    plots,
    progression,
    triage,
    waiting,
)

PAIR = ("Normal", "COVID")


@pytest.fixture(autouse=True)
def centred_titles():
    """Whatever style another test has set."""
    with plt.rc_context({"axes.titlelocation": "center"}):
        yield


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture(params=[PAIR, CLASSES], ids=["two", "three"])
def predictions(request):
    """Labels, probabilities and class names of 120 images, for two and for three classes."""
    classes = request.param
    rng = np.random.default_rng(0)
    y = np.arange(120) % len(classes)
    return (
        y,
        calibration.softmax(rng.normal(size=(120, len(classes))) + np.eye(3)[y][:, : len(classes)]),
        classes,
    )


@pytest.fixture
def scores(predictions):
    return metrics.classification_metrics(*predictions, n_resamples=100)


@pytest.fixture
def manifest():
    return pd.DataFrame(
        {
            "label": pd.array(["COVID", "Normal", "COVID", "Lung_Opacity"], dtype="string"),
            "source": pd.array(["A", "B", "A", pd.NA], dtype="string"),
            "age_years": pd.array([40, 60, pd.NA, 71], dtype="Float64"),
            "extent": pd.array([pd.NA] * 4, dtype="Float64"),
        }
    )


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def texts(ax):
    return [text.get_text() for text in ax.texts]


def check(ax, title, xlabel, ylabel):
    """Labels and title are as stated, and the figure can be drawn."""
    assert (ax.get_title() or ax.get_title(loc="left")) == title
    assert (ax.get_xlabel(), ax.get_ylabel()) == (xlabel, ylabel)
    ax.figure.canvas.draw()


def test_confusion_matrix(predictions):
    y, p, classes = predictions
    _, ax = plt.subplots()
    assert plots.confusion_matrix(y, p.argmax(axis=1), classes, ax=ax) is ax
    check(ax, "Confusion matrix (n = 120)", "predicted class", "true class")
    cells = [int(text.split("\n")[0]) for text in texts(ax)]
    assert len(cells) == len(classes) ** 2 and sum(cells) == 120
    assert cells[0] == np.sum((y == 0) & (p.argmax(axis=1) == 0))
    rows = [label.get_text() for label in ax.get_yticklabels()]
    assert rows == [f"{name}\nn = {120 // len(classes)}" for name in classes]


def test_confusion_matrix_keeps_an_absent_class():
    ax = plots.confusion_matrix([0, 0], [0, 2], CLASSES, title="Test split")
    check(ax, "Test split (n = 2)", "predicted class", "true class")
    assert texts(ax)[:3] == ["1\n50%", "0\n0%", "1\n50%"] and texts(ax)[-1] == "0\n0%"


def test_roc_curves(predictions, scores):
    y, p, classes = predictions
    _, ax = plt.subplots()
    assert plots.roc_curves(y, p, classes, scores, ax=ax) is ax
    title = "ROC, one class against the rest (n = 120)"
    check(ax, title, "1 − specificity", "sensitivity")
    row = scores[(scores["metric"] == "auroc") & (scores["class"] == "COVID")].iloc[0]
    interval = f"AUROC {row['value']:.3f} [{row['low']:.3f}–{row['high']:.3f}]"
    assert legend(ax)[-1] == f"COVID, n = {120 // len(classes)}: {interval}"
    curve = ax.lines[-1]
    area = auc(curve.get_xdata(), curve.get_ydata())
    assert area == pytest.approx(row["value"])
    drawn = ax.lines[1:]
    for look in ("get_color", "get_marker", "get_linestyle"):
        assert len({getattr(line, look)() for line in drawn}) == len(classes)


def test_precision_recall_curves(predictions, scores):
    y, p, classes = predictions
    _, ax = plt.subplots()
    assert plots.precision_recall_curves(y, p, classes, scores, ax=ax) is ax
    check(ax, "Precision and recall (n = 120)", "recall (sensitivity)", "precision (PPV)")
    assert len(legend(ax)) == len(classes)
    assert legend(ax)[0].startswith(f"Normal, n = {120 // len(classes)}: AP 0.")


def test_curves_name_the_reason_where_a_class_is_absent():
    y = np.repeat([0, 2], 20)
    p = np.tile([0.5, 0.2, 0.3], (40, 1))
    scores = metrics.classification_metrics(y, p, CLASSES, n_resamples=40)
    for draw in (plots.roc_curves, plots.precision_recall_curves):
        entry = legend(draw(y, p, CLASSES, scores))[-2]
        assert entry.endswith("NA: no images of Lung_Opacity")
    ax = plots.forest(scores)
    assert "NA: no images of Lung_Opacity" in texts(ax)
    ax.figure.canvas.draw()


def test_reliability_diagram_before_and_after(predictions):
    y, p, _ = predictions
    ax = plots.reliability_diagram(y, p, n_bins=5, label="before")
    assert plots.reliability_diagram(y, p**2 / (p**2).sum(1, keepdims=True), 5, "after", ax) is ax
    check(ax, "Reliability (n = 120)", "confidence (top-label probability)", "accuracy")
    assert [entry.split(":")[0] for entry in legend(ax)] == [
        "perfect calibration",
        "before",
        "after",
    ]
    before, after = (c for c in ax.collections if hasattr(c, "get_sizes") and len(c.get_offsets()))
    bins = calibration.reliability_bins(y, p, 5)
    np.testing.assert_allclose(before.get_offsets(), bins[["confidence", "accuracy"]])
    assert before.get_sizes().argmax() == bins["n"].argmax()
    assert before.get_facecolor().tolist() != after.get_facecolor().tolist()


def test_learning_curves_of_one_run_and_of_several():
    history = pd.DataFrame({"epoch": [1, 2], "train_loss": [1.0, 0.5], "val_loss": [1.1, 0.8]})
    ax = plots.learning_curves(history)
    check(ax, "Learning curves", "epoch", "cross-entropy (nats)")
    assert legend(ax) == ["train loss, n = 2 epochs", "val loss, n = 2 epochs"]
    _, ax = plt.subplots()
    runs = {"frozen": history, "from scratch": history}
    assert plots.learning_curves(runs, ["val_loss"], "loss", ax=ax) is ax
    assert legend(ax) == ["frozen val loss, n = 2 epochs", "from scratch val loss, n = 2 epochs"]
    assert ax.lines[0].get_marker() != ax.lines[1].get_marker()


def test_class_by_source_counts_the_unknown(manifest):
    ax = plots.class_by_source(manifest)
    check(ax, "Class by source (n = 4)", "source", "class")
    assert [t.get_text() for t in ax.get_yticklabels()] == ["Normal", "Lung_Opacity", "COVID"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["A", "B", "unknown"]
    assert [t.split("\n")[0] for t in texts(ax)] == ["0", "1", "0", "0", "0", "1", "2", "0", "0"]


def test_histogram_by_class(manifest):
    ax = plots.histogram_by_class(manifest, "age_years", bins=4)
    check(ax, "Age (years) (n = 3 known)", "age (years)", "share of the class's images")
    assert legend(ax) == ["Normal, n = 1", "Lung_Opacity, n = 1", "COVID, n = 1, 1 unknown"]
    assert [patch.get_data().values.sum() for patch in ax.patches] == [1, 1, 1]
    assert len({patch.get_linestyle() for patch in ax.patches}) == 3


def test_histogram_says_where_nothing_is_known(manifest):
    ax = plots.histogram_by_class(manifest, "extent", title="Extent")
    assert ax.get_title() == "Extent (n = 0 known)"
    assert texts(ax) == ["unknown for all 4 images"]


def test_average_images_and_grid():
    averages = {name: np.full((8, 8), 50.0 * i) for i, name in enumerate(CLASSES)}
    axes = plots.average_images(averages, dict.fromkeys(CLASSES, 1200))
    assert [ax.get_title() for ax in axes.flat] == [f"{name}, n = 1,200" for name in CLASSES]
    assert {ax.images[0].get_clim() for ax in axes.flat} == {(0.0, 100.0)}
    axes = plots.image_grid(list(averages.values()), list("abc"), columns=2)
    assert axes.shape == (2, 2) and not axes[1, 1].images
    _, given = plt.subplots(1, 3)
    assert plots.image_grid(list(averages.values()), list("abc"), axes=given) is given
    with pytest.raises(InputError, match="3 images, 2 titles"):
        plots.image_grid(list(averages.values()), list("ab"))
    with pytest.raises(InputError, match="3 axes"):
        plots.image_grid([np.eye(2)] * 4, list("abcd"), axes=given)


def test_net_benefit_and_abstention(predictions):
    y, p, classes = predictions
    covid = len(classes) - 1
    curve = calibration.net_benefit(y == covid, p[:, covid], np.linspace(0.05, 0.9, 18))
    _, ax = plt.subplots()
    assert plots.net_benefit(curve, n=120, ax=ax) is ax
    ylabel = "net benefit (true positives per image)"
    check(ax, "Net benefit (n = 120)", "threshold probability", ylabel)
    assert legend(ax) == ["model", "treat all", "treat none"]
    assert len({line.get_linestyle() for line in ax.lines}) == 3
    ax = plots.abstention(calibration.abstention_curve(y, p))
    xlabel = "coverage (share of images answered)"
    check(ax, "Abstention (n = 120 at full coverage)", xlabel, "accuracy on those")
    assert ax.lines[0].get_ydata()[-1] == pytest.approx(np.mean(p.argmax(axis=1) == y))


def test_forest(predictions, scores):
    ax = plots.forest(scores)
    check(ax, "Figures of merit (n = 120)", "value, with 95% interval", "")
    rows = [label.get_text() for label in ax.get_yticklabels()]
    assert len(rows) == len(scores) == 3 + 6 * len(predictions[2])
    assert rows[2] == "macro F1, n = 120"
    assert f"AUROC COVID, n = {120 // len(predictions[2])}" in rows
    dot, line = ax.lines[:2]
    assert dot.get_xdata()[0] == scores["value"][0]
    assert list(line.get_xdata()) == [scores["low"][0], scores["high"][0]]


def test_only_phantoms_are_marked_synthetic():
    figure, ax = plt.subplots()
    plots.mark_synthetic(ax, "radiography")
    plots.mark_synthetic(figure, "radiography")
    assert not texts(ax) and not figure.get_supxlabel()
    plots.mark_synthetic(ax, "phantom")
    plots.mark_synthetic(figure, "phantom")
    assert texts(ax) == ["synthetic phantom"]
    assert figure.get_supxlabel() == "synthetic phantom"
    figure.canvas.draw()


def test_classes_keep_their_look_and_others_get_their_own():
    both, alone = plots._styles(CLASSES), plots._styles(["COVID", "Viral Pneumonia"])
    assert both["COVID"] == alone["COVID"]
    assert alone["Viral Pneumonia"]["color"] not in plots.CLASS_COLOURS.values()
    assert list(plots.CLASS_COLOURS) == list(CLASSES)


def test_style_is_set_only_on_request():
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        assert plt.rcParams["axes.titlelocation"] == "center"
        plots.use_style()
        assert plt.rcParams["figure.dpi"] == 100 and plt.rcParams["axes.titlelocation"] == "left"


def test_intervals_writes_what_is_na():
    table = pd.DataFrame(
        {
            "input": ["full", "full", "lungs"],
            "where": ["in", "out", "in"],
            "metric": "accuracy",
            "value": pd.array([0.8, 0.6, pd.NA], "Float64"),
            "low": pd.array([0.7, pd.NA, pd.NA], "Float64"),
            "high": pd.array([0.9, pd.NA, pd.NA], "Float64"),
            "n": pd.array([1200, 90, 0], "Int64"),
            "chance": pd.array([0.5, 0.5, pd.NA], "Float64"),
            "reason": [pd.NA, "too few groups", "no masks"],
        }
    )
    ax = plots.intervals(table, by="input", series="where", title="Audit")
    check(ax, "Audit", "accuracy, with 95% interval", "")
    assert legend(ax) == ["in", "out"]
    assert texts(ax) == ["n = 1,200", "n = 90", "NA: no masks"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["full", "lungs"]


def test_timeline():
    films = pd.DataFrame({"study_day": [0, 3, 9], "extent": [1, 3, 6.0], "extent_sd": [0.5] * 3})
    course = progression.course(films["study_day"], films["extent"], films["extent_sd"])
    _, ax = plt.subplots()
    assert plots.timeline(films.assign(true=[1, 2, 5]), course, ax=ax) is ax
    title = f"worse: {course.change:+.1f}, limit {course.limit:.1f} (n = 3 films)"
    check(ax, title, "study day", "extent (0–8)")
    assert set(legend(ax)) == {
        "no change",
        "95% band",
        "line through the films",
        "films, with 95% range",
        "truth",
    }
    zone = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert np.ptp(zone) == pytest.approx(2 * course.limit)
    assert "truth" not in legend(plots.timeline(films, course))


def test_waits():
    severity = np.arange(40) % 9
    table = waiting.summary(waiting.simulate(severity, severity, n_runs=20))
    _, ax = plt.subplots()
    assert plots.waits(table, ax=ax) is ax
    label = "minutes until reading starts, sickest tenth (log)"
    check(ax, "The sickest tenth (n = 20 runs)", label, "")
    assert [label.get_text() for label in ax.get_yticklabels()] == list(waiting.ORDERS)
    for row, text in zip(table.itertuples(), texts(ax), strict=True):
        assert text.startswith(f"{row.minutes:.1f} [") and text.endswith(f"× {row.ratio:.2f}")


def test_triage():
    predictions = pd.DataFrame(
        {
            "p_Normal": [0.9, 0.1, 0.5, None],
            "p_COVID": [0.1, 0.9, 0.5, None],
            "predicted": ["Normal", "COVID", "Normal", None],
            "status": ["ok"] * 3 + ["rejected"],
        }
    )
    worklist = triage.order(predictions)
    _, ax = plt.subplots()
    assert plots.triage(worklist, [7, 4, 0, None], ax=ax) is ax
    xlabel = "place in the worklist (1 is read first)"
    check(ax, "Worklist (n = 3)", xlabel, "true extent (0–8)")
    assert legend(ax) == ["called Normal, n = 2", "called COVID, n = 1", "in doubt, n = 1"]
    dots = np.concatenate([c.get_offsets() for c in ax.collections if len(c.get_offsets())])
    assert sorted(dots.tolist()) == [[1, 7], [2, 4], [3, 0]]
