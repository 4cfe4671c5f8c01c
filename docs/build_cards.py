"""Fill the tables of MODEL_CARD.md and DATASHEET.md; no figure in them is typed by hand.

They come from docs/results/*.json (datasets.json is made by count_films.py), the registry of data
sets and the plan of the phantoms.
"""

import json
from dataclasses import fields

import numpy as np
import pandas as pd
from build_readme import DATA, NOTES, RESULTS, ROOT, fill, with_interval

from covidxr import CLASSES, datasets, phantom
from covidxr.config import TrainConfig

DOCS = ROOT / "docs"
PAIR = "COVID against Normal"


def table(head: str, rows) -> str:
    """A Markdown table; `head` names the columns, separated by |."""
    columns = [name.strip() for name in head.split("|")]
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def with_n(row: dict) -> str:
    return f"{with_interval(row)}, n = {row['n']:,}"


def by_class(films: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {label}" for label, count in films.items())


# --- model card -------------------------------------------------------------------------------


def results() -> dict[str, dict]:
    """The stored results by name, phantoms first."""
    paths = {name: RESULTS / f"{name}.json" for name in DATA}
    return {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}


def training() -> str:
    """Every option of every run that led to a result."""
    runs = {}
    for result in results().values():
        runs |= {run["name"]: run["config"] for run in result["earlier"]}
        runs[result["run"]] = result["config"]
    configs = {name: TrainConfig.from_dict(config) for name, config in runs.items()}
    rows = []
    for option in fields(TrainConfig):
        if option.name != "data_dir":
            name = "learning_rate" if option.name == "lr" else option.name
            rows.append([f"`{option.name}`", *(getattr(c, name) for c in configs.values())])
    return table("option | " + " | ".join(f"`{name}`" for name in configs), rows)


def split() -> str:
    """Films per split, and the classes of the test split."""
    rows = []
    for name, result in results().items():
        n = [f"{result['n'][part]:,}" for part in ("train", "val", "test")]
        rows.append([DATA[name], *n, by_class(result["test_counts"]), f"{result['test_groups']:,}"])
    return table("films | training | validation | test | test films by class | test groups", rows)


def figures() -> str:
    """Every figure of merit on the test splits."""
    parts = []
    for name, result in results().items():
        parts.append(f"**{DATA[name]}.** {NOTES.get(name, '')}".strip())
        parts += [merits(result), calibration(result)]
        if result.get("operating_point"):
            parts.append(operating_point(result["operating_point"]))
    return "\n\n".join(parts)


def merits(result: dict) -> str:
    """Figures of merit (rows) over all classes, of each class, and of COVID against Normal."""
    cells = {(row["metric"], row["class"] or "all classes"): row for row in result["metrics"]}
    pair = [row for row in result["covid_vs_normal"] if row["class"] != "Normal"]
    cells |= {(row["metric"], PAIR): row for row in pair}
    columns = ["all classes", *(c for c in CLASSES if c in result["test_counts"]), PAIR]
    rows = []
    for metric in dict.fromkeys(row["metric"] for row in result["metrics"]):
        found = [cells.get((metric, column)) for column in columns]
        title = metric.replace("_", " ").replace("auroc", "AUROC").replace("f1", "F1")
        title = title.upper() if metric in ("ppv", "npv") else title
        rows.append([title, *(with_n(row) if row else "" for row in found)])
    return table("figure | " + " | ".join(columns), rows)


def calibration(result: dict) -> str:
    """Calibration error in words, before temperature scaling too where that is stored."""
    error = result["calibration_error"]
    text = f"Expected calibration error {with_n(error)}; "
    if "calibration_error_before" in result:
        before = with_interval(result["calibration_error_before"])
        text += f"before temperature scaling (T = {result['temperature']:.2f}) {before}; "
    return text + (
        f"by chance alone a perfectly calibrated model with this n shows "
        f"{error['perfect_model_median']:.3f} (median) and at most "
        f"{error['perfect_model_high']:.3f} in 39 of 40 draws."
    )


def operating_point(point: dict) -> str:
    """The threshold chosen on validation, applied to test, and what an alarm is worth."""
    found = "; ".join(f"{row['metric']} {with_n(row)}" for row in point["figures"])
    rows = [
        [f"{row['prevalence']:.0%}", row["metric"].upper(), with_interval(row)]
        for row in point["predictive_values"]
    ]
    return (
        "COVID threshold chosen on validation for a sensitivity of 0.95: "
        f"p ≥ {point['threshold']:.3f}. On test: {found}. Predictive values, with ends from those "
        "of sensitivity and specificity together:\n\n"
        + table("prevalence | figure | value [interval]", rows)
    )


def subgroups() -> str:
    """Figures per source, view, sex and age band of the test splits."""
    parts = []
    for name, result in results().items():
        if "subgroups" not in result:
            parts.append(f"**{DATA[name]}**: not in the stored result.")
            continue
        records = result["subgroups"]
        known = {row["subgroup"] for row in records if row["level"] != "unknown"}
        unknown = [
            name for name in dict.fromkeys(r["subgroup"] for r in records) if name not in known
        ]
        parts.append(
            f"**{DATA[name]}**: unknown for every film: {', '.join(unknown) or 'nothing'}."
        )
        rows = []
        for row in (row for row in records if row["subgroup"] in known):
            figure = row["metric"] + (f", {row['class']}" if row["class"] else "")
            films = f"{row['subgroup']}: {row['level']}"
            n = f"{row['n']:,}"
            rows.append([films, figure, with_interval(row), n, row["reason"] or ""])
        if rows:
            parts.append(table("films | figure | value [95% interval] | n | remark", rows))
    return "\n\n".join(parts)


# --- datasheet --------------------------------------------------------------------------------


def phantom_counts() -> str:
    """What phantom.plan() plans for the default set, per class."""
    everyone, rows = pd.DataFrame(phantom.plan()), []
    everyone["films"] = everyone["days"].map(len)
    for label in (*CLASSES, "all"):
        own = everyone[(everyone["label"] == label) | (label == "all")]
        at_a = int(own.loc[own["site"] == "site A", "films"].sum())
        films, ages = int(own["films"].sum()), own["age"]
        row = [label, f"{films:,}", len(own), (own["films"] > 1).sum(), f"{at_a} / {films - at_a}"]
        row += [(own["sex"] == "F").sum(), f"{np.median(ages):.0f} ({min(ages)}–{max(ages)})"]
        rows.append([*row, f"{phantom.AP_SHARE[label]:.2f}" if label in CLASSES else ""])
    head = "class | films | patients | of these with follow-up | films at site A / B"
    return table(head + " | women | age, median (range) | chance of an AP film", rows)


def real(name: str) -> str:
    """Registry entry of a real set, and what was counted in the copy at hand."""
    source = datasets.SOURCES[name]
    stock = json.loads((RESULTS / "datasets.json").read_text())[name]
    known = ", ".join(f"{k.replace('_years', '')} {v:,}" for k, v in stock["known"].items())
    facts = {
        "address": f"<{source.url}>",
        "licence": source.licence,
        "citation": source.citation,
        "selection": source.note,
        "release": by_class(source.counts or {}) or "no counts kept",
        "films counted here": by_class(stock["films"]),
        "the loader said": "; ".join(stock["said"]),
        "patients named": f"{stock['patients']:,}",
        "of these with several films": f"{stock['patients_followed']:,}",
        "films with known": known,
        "films with a near-duplicate in the set": by_class(stock["with_near_duplicate"]),
    }
    if "already_in_radiography" in stock:
        shared = by_class(stock["already_in_radiography"])
        facts["films that also stand among the `radiography` films counted here"] = shared
        facts["licences of the films"] = licences(stock["licences"])
    return table("what | found", facts.items())


def licences(found: dict[str, int]) -> str:
    """Counts of films by kind of licence."""
    none = found.get("none given", 0)
    restricted = sum(n for name, n in found.items() if "NC" in name)
    other = sum(found.values()) - none - restricted
    return f"none given {none:,}, non-commercial {restricted:,}, other {other:,}"


def blocks() -> dict[str, dict[str, str]]:
    """Content of every marked block, by file."""
    return {
        "MODEL_CARD.md": {
            "training": training(),
            "split": split(),
            "figures": figures(),
            "subgroups": subgroups(),
        },
        "DATASHEET.md": {
            "phantom": phantom_counts(),
            "radiography": real("radiography"),
            "cohen": real("cohen"),
        },
    }


def main() -> None:
    for file, contents in blocks().items():
        text = (DOCS / file).read_text()
        for name, content in contents.items():
            text = fill(text, name, content)
        (DOCS / file).write_text(text)


if __name__ == "__main__":
    main()
