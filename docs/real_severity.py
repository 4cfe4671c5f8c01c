"""Severity, progression and triage on real films: covidxr/results/severity.json.

`real_severity.py RUN...` takes cross-validations of `cohen` (folders that `python -m covidxr
crossval` wrote) whose seeds differ. Every film's score is the mean of its predictions, each by a
model that saw no film of its patient or near-duplicate group.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from build_readme import ROOT, earlier_runs, train_command
from scipy.stats import rankdata

from covidxr import metrics, progression, runs, severity

RESULT = ROOT / "covidxr" / "results" / "severity.json"
SOURCE = "COVID-19 Image Data Collection, patient-grouped 5-fold cross-validation"


def pooled(run: Path) -> pd.DataFrame:
    """Test films of all folds: manifest columns and, as `found_*`, what was predicted."""
    parts = []
    for fold in sorted(run.glob("fold-*")):
        manifest = runs.read_csv(fold / "manifest.csv")
        test = manifest[manifest["split"] == "test"].reset_index(drop=True)
        found = runs.read_csv(fold / "predictions_test.csv")
        assert found["image_path"].tolist() == test["image_path"].tolist()
        for name in severity.HIGHEST:
            test[f"found_{name}"] = found[name].astype(float)
        parts.append(test)
    return pd.concat(parts, ignore_index=True).set_index("image_path").sort_index()


def averaged(folders: list[Path]) -> pd.DataFrame:
    """The films with the mean of their predictions over the cross-validations."""
    tables = [pooled(folder) for folder in folders]
    films = tables[0].copy()
    for name in severity.HIGHEST:
        column = f"found_{name}"
        films[column] = np.mean([table[column] for table in tables], axis=0)
    films["expert"] = films["extent"].fillna(films.get("extent_covidnet"))
    return films.reset_index()


def of_scores(films: pd.DataFrame) -> list[dict]:
    """Agreement with the collection's own readers on the films that they scored."""
    rows, titles = [], {"pearson_r": "r", "mae": "MAE", "r2": "R²", "bias": "bias"}
    titles |= {"limits_low": "lower limit of agreement", "limits_high": "upper limit of agreement"}
    for name, highest in severity.HIGHEST.items():
        mean = {name: films[name].mean()}
        table = films.rename(columns={f"found_{name}": "found"})
        found = pd.DataFrame({name: table["found"]})
        frame = severity.evaluate(found, films[[name]], films["group_id"], mean)
        for row in frame.to_dict("records"):
            title = titles.get(row["metric"], "MAE of always answering the mean")
            scale = "" if row["metric"] in ("pearson_r", "r2") else f" (of {highest:.0f})"
            rows.append(row | {"figure": f"{name}, {title}{scale}"})
    return rows


def of_progression(films: pd.DataFrame, at_least: float = 1.0) -> list[dict]:
    """Direction of the change from a patient's first to last scored day."""
    known = films.dropna(subset=["patient_id", "study_day", "expert"])
    courses = {
        name: progression.courses(known.assign(extent=known[name]), sem=1.0)
        for name in ("expert", "found_extent")
    }
    pairs = [(courses["found_extent"][p].change, c.change) for p, c in courses["expert"].items()]
    found, true = np.array(pairs).T
    shares = progression.score(found, np.full(len(found), np.inf), true, at_least)[1]
    (row,) = shares[shares["metric"] == "direction"].to_dict("records")
    return [row | {"figure": "progression, direction right (change >= 1)"}]


def auroc(score: np.ndarray, truth: np.ndarray) -> float:
    """Area under the ROC curve from ranks (Mann & Whitney, 1947)."""
    ill = int(truth.sum())
    ranks = rankdata(score)[truth].sum() - ill * (ill + 1) / 2
    return ranks / (ill * (len(truth) - ill))


def of_triage(films: pd.DataFrame) -> list[dict]:
    """Extent of a patient's first film against admission to intensive care."""
    known = films.dropna(subset=["patient_id", "icu", "expert"])
    known = known[known["label"] == "COVID"].sort_values(["study_day", "image_path"])
    first = known.drop_duplicates("patient_id")
    truth, rng = first["icu"].to_numpy(bool), np.random.default_rng(0)
    rows = []
    for name, title in {"found_extent": "model", "expert": "expert scores"}.items():
        score, draws = first[name].to_numpy(float), []
        for _ in range(2000):
            rows_drawn = rng.integers(len(truth), size=len(truth))
            if 0 < truth[rows_drawn].sum() < len(truth):
                draws.append(auroc(score[rows_drawn], truth[rows_drawn]))
        low, high = metrics.percentile_interval(np.array(draws))
        figure = f"extent of the first film for ICU, AUROC, {title}"
        interval = {"low": float(low), "high": float(high)}
        rows.append({"figure": figure, "value": auroc(score, truth), **interval, "n": len(truth)})
    return rows


def recipe(folders: list[Path]) -> list[str]:
    """The commands that made the cross-validations, the backbone's training first."""
    configs = [json.loads((folder / "metrics.json").read_text())["config"] for folder in folders]
    lines = [
        train_command(run["name"], run["config"]) for run in earlier_runs(configs[0]["weights"])
    ]
    if lines:
        lines.insert(0, "python docs/without_overlap.py <cohen> <radiography> <folder>")
    for folder, config in zip(folders, configs, strict=True):
        config["data_dir"] = None
        lines.append(
            train_command(folder.name, config).replace("covidxr train", "covidxr crossval")
        )
    return lines


def main() -> None:
    folders = [Path(folder) for folder in sys.argv[1:]]
    films = averaged(folders)
    rows = of_scores(films) + of_progression(films) + of_triage(films)
    kept = ("figure", "value", "low", "high", "n")
    rows = [{key: row[key] for key in kept} for row in rows]
    for row in rows:
        row |= {key: None for key in ("low", "high") if not np.isfinite(row[key])}
    about = {"source": SOURCE, "crossvalidations": len(folders), "commands": recipe(folders)}
    result = about | {"rows": rows}
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
