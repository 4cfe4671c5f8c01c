"""Opening the test split: metrics with intervals, figures, cross-validation."""

import json
import warnings
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from covidxr import InputError, calibration, metrics, plots, severity, shift
from covidxr.config import TrainConfig
from covidxr.loaders import XrayDataset, make_loader
from covidxr.runs import (
    RUNS,
    Data,
    load_run,
    predict_test,
    prepare,
    read_csv,
    run_name,
    split,
    train,
    write_csv,
    write_json,
)
from covidxr.training import choose_compute, predict

SUBGROUPS = ("source", "view", "sex")
AGES = (18, 40, 60, 75)
AGE_BANDS = ("under 18", "18 to 39", "40 to 59", "60 to 74", "75 and over")


def evaluate(run, data: Data | None = None, audit: bool = False) -> dict:
    """Open the test split of a run, once: predictions_test.csv, metrics.json and figures/.

    An accuracy above 99% is warned of, and audited (covidxr.shift) even where `audit` is False.
    """
    run = Path(run)
    config, manifest, model, meta = load_run(run)
    data = data or prepare(config)
    table = predict_test(run, data)
    groups = manifest.loc[manifest["split"] == "test", "group_id"].to_numpy()
    result = {
        "config": asdict(config),
        "n": {str(k): int(v) for k, v in manifest["split"].value_counts().sort_index().items()},
        "test_counts": {str(k): int(v) for k, v in table["label"].value_counts().items()},
        "test_groups": len(set(groups)),
        **score(table, groups),
        **decisions(table, groups, meta),
        "subgroups": records(subgroups(table, manifest[manifest["split"] == "test"])),
        "severity": records(severity_scores(table, manifest)),
    }
    accuracy = result["metrics"][0]["value"]
    if accuracy > 0.99:
        warnings.warn(
            f"{run}: accuracy {accuracy:.3f} on the test split; so high a figure is more often a "
            "leak or a shortcut than a detector: read the audit in metrics.json",
            UserWarning,
            stacklevel=2,
        )
    if audit or accuracy > 0.99:
        predict_pixels = predictor(model, meta["temperature"], config.precision)
        result["audit"] = records(shift.audit(data, predict_pixels))
    write_json(run / "metrics.json", result)
    draw(run / "figures", table, result)
    return result


def severity_scores(table: pd.DataFrame, manifest: pd.DataFrame) -> pd.DataFrame:
    """Agreement of predicted and known severity of the test split, `table` row for row."""
    train, test = (manifest[manifest["split"] == split] for split in ("train", "test"))
    truth = test.reset_index(drop=True)
    return severity.evaluate(table, truth, test["group_id"], severity.means(train))


def records(frame: pd.DataFrame) -> list[dict]:
    """Rows for a JSON file, NA as null."""
    return json.loads(frame.to_json(orient="records"))


def predictor(
    model, temperature: float = 1.0, precision: str = "auto"
) -> Callable[[np.ndarray], np.ndarray]:
    """A model as a function: pixels uint8 (N, S, S) to probabilities (N, K)."""
    compute = choose_compute(precision)
    model.to(compute.device)

    def probabilities(pixels: np.ndarray) -> np.ndarray:
        loader = make_loader(XrayDataset(pixels, np.zeros(len(pixels))), 64)
        return calibration.softmax(predict(model, loader, compute), temperature)

    return probabilities


def arrays(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Class indices (N,), probabilities (N, C) and class names of a predictions table."""
    classes = tuple(column[2:] for column in table.columns if column.startswith("p_"))
    labels = table["label"].map(classes.index).to_numpy(int)
    return labels, table[[f"p_{name}" for name in classes]].to_numpy(float), classes


def score(table: pd.DataFrame, groups) -> dict:
    """Metrics of a predictions table as records; COVID against Normal beside all classes."""
    labels, probabilities, classes = arrays(table)
    frames = {"metrics": metrics.classification_metrics(labels, probabilities, classes, groups)}
    if len(classes) > 2 and {"Normal", "COVID"} <= set(classes):
        pair = metrics.two_class(labels, probabilities, classes, "Normal", "COVID", groups)
        frames["covid_vs_normal"] = metrics.classification_metrics(*pair)
    result = {key: records(frame) for key, frame in frames.items()}
    return result | {"calibration_error": calibration_error(labels, probabilities, groups)}


def positive_class(classes) -> str:
    """The class that a threshold asks about: COVID, else the last one."""
    return "COVID" if "COVID" in classes else classes[-1]


def uncalibrated(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """What the softmax gave before temperature scaling: probabilities (N, C) ** T, normalised."""
    return calibration.softmax(np.log(np.maximum(probabilities, 1e-300)), 1 / temperature)


def decisions(table: pd.DataFrame, groups, checkpoint: dict) -> dict:
    """Calibration before temperature scaling, and the operating point chosen on validation.

    Args:
        checkpoint: its metadata, of which `temperature` and `threshold` are used.
    """
    labels, probabilities, classes = arrays(table)
    before = uncalibrated(probabilities, checkpoint["temperature"])
    result = {
        "temperature": checkpoint["temperature"],
        "calibration_error_before": calibration_error(labels, before, groups),
    }
    truth, threshold = table["label"] == "COVID", checkpoint["threshold"]
    if threshold is None or truth.nunique() < 2:
        return result | {"operating_point": None}
    point = calibration.operating_point(truth, table["p_COVID"], threshold)
    return result | {
        "operating_point": {
            "threshold": threshold,
            "figures": records(point),
            "predictive_values": records(predictive_values(point)),
        }
    }


def predictive_values(point: pd.DataFrame, prevalences=(0.01, 0.05, 0.20)) -> pd.DataFrame:
    """PPV and NPV of an operating point at several prevalences.

    Returns:
        prevalence, metric, value, low, high; the ends come from those of sensitivity and
        specificity together, which makes the interval cautious (wider than 95%).
    """
    rows = []
    for prevalence in prevalences:
        ends = [
            calibration.predictive_values(*point[end], prevalence)
            for end in ("value", "low", "high")
        ]
        for metric, values in zip(("ppv", "npv"), zip(*ends, strict=True), strict=True):
            rows.append((prevalence, metric, *map(float, values)))
    return pd.DataFrame(rows, columns=["prevalence", "metric", "value", "low", "high"])


def subgroups(table: pd.DataFrame, manifest: pd.DataFrame) -> pd.DataFrame:
    """Accuracy, and the positive class's sensitivity, specificity and AUROC, per subgroup.

    Args:
        table: predictions of the rows of `manifest`, in its order.

    Returns:
        subgroup, level, then the columns of metrics.classification_metrics. Images whose level is
        not known form a level of their own.
    """
    labels, probabilities, classes = arrays(table)
    ages = pd.cut(manifest["age_years"], [0, *AGES, 200], right=False, labels=AGE_BANDS)
    columns = {name: manifest[name] for name in SUBGROUPS} | {"age": ages}
    frames = []
    for subgroup, column in columns.items():
        column = column.astype("string").fillna("unknown").to_numpy()
        for level in np.unique(column):
            rows = column == level
            groups = manifest["group_id"].to_numpy()[rows]
            frame = metrics.classification_metrics(
                labels[rows], probabilities[rows], classes, groups
            )
            mine = frame["class"].eq(positive_class(classes)) & frame["metric"].isin(
                ["sensitivity", "specificity", "auroc"]
            )
            frame = frame[mine.fillna(False) | frame["metric"].eq("accuracy")]
            frames.append(frame.assign(subgroup=subgroup, level=level))
    result = pd.concat(frames, ignore_index=True)
    return result[["subgroup", "level", *result.columns[:-2]]]


def calibration_error(labels, probabilities, groups) -> dict:
    """ECE with its interval, beside what a perfectly calibrated model would show by chance."""
    low = high = None
    if len(set(groups)) >= metrics.MIN_GROUPS:
        low, high = calibration.calibration_error_interval(labels, probabilities, groups)
    median, at_most = calibration.calibration_error_by_chance(probabilities)
    return {
        "value": calibration.expected_calibration_error(labels, probabilities),
        "low": low,
        "high": high,
        "perfect_model_median": median,
        "perfect_model_high": at_most,
        "n": len(labels),
    }


def draw(folder: Path, table: pd.DataFrame, result: dict) -> None:
    """Every figure of the evaluation as a PNG file."""
    labels, probabilities, classes = arrays(table)
    frame, positive = pd.DataFrame(result["metrics"]), positive_class(classes)
    truth, score = table["label"] == positive, table[f"p_{positive}"]
    before = uncalibrated(probabilities, result["temperature"])

    def reliability(ax):
        plots.reliability_diagram(labels, before, 10, "before temperature scaling", ax=ax)
        return plots.reliability_diagram(labels, probabilities, 10, "after", ax=ax)

    def net_benefit(ax):
        curve = calibration.net_benefit(truth, score, np.linspace(0.01, 0.99, 99))
        return plots.net_benefit(curve, len(table), ax=ax, title=f"Net benefit, {positive}")

    drawings = {
        "confusion_matrix": lambda ax: plots.confusion_matrix(
            labels, probabilities.argmax(axis=1), classes, ax=ax
        ),
        "roc": lambda ax: plots.roc_curves(labels, probabilities, classes, frame, ax=ax),
        "precision_recall": lambda ax: plots.precision_recall_curves(
            labels, probabilities, classes, frame, ax=ax
        ),
        "reliability": reliability,
        "abstention": lambda ax: plots.abstention(
            calibration.abstention_curve(labels, probabilities), ax=ax
        ),
    }
    if truth.nunique() == 2:
        drawings["net_benefit"] = net_benefit
    folder.mkdir(exist_ok=True)
    for name, drawing in drawings.items():
        figure, ax = plt.subplots(layout="constrained")
        plots.mark_synthetic(drawing(ax), result["config"]["dataset"])
        temporary = folder / f".{name}.part.png"
        figure.savefig(temporary)
        temporary.replace(folder / f"{name}.png")
        plt.close(figure)


def crossval(config: TrainConfig, run: Path | None = None) -> tuple[Path, dict]:
    """Train and test once per fold, each fold a run folder; pooled metrics over all images.

    A fold that is finished already is not trained again.
    """
    run = Path(run or RUNS / f"{run_name(config)}-crossval")
    if (run / "metrics.json").exists():
        raise InputError(f"{run}: holds a finished cross-validation; choose another name")
    data, folds, tables, manifests = prepare(config), [], [], []
    for fold in range(config.folds):
        fold_config, fold_run = replace(config, test_fold=fold), run / f"fold-{fold}"
        fold_data = split(data, fold_config)
        if not (fold_run / "model.safetensors").exists():
            train(fold_config, fold_run, fold_data, resume=True)
        folds.append(evaluate(fold_run, fold_data)["metrics"])
        manifest = fold_data.manifest
        manifests.append(manifest[manifest["split"] == "test"])
        tables.append(read_csv(fold_run / "predictions_test.csv"))
    pooled = pd.concat(tables, ignore_index=True)
    manifest = pd.concat(manifests, ignore_index=True)
    groups = manifest["group_id"].to_numpy()
    result = {"config": asdict(config), "folds": folds, **score(pooled, groups)}
    constant = severity.means(manifest)  # of all folds, which flatters it a little
    result["severity"] = records(severity.evaluate(pooled, manifest, groups, constant))
    write_csv(run / "predictions.csv", pooled)
    write_json(run / "metrics.json", result)
    return run, result
