"""Who is read first: urgency, abstention and the patients' histories of a predictions table.

**Urgency** (0-1) is P(disease) x extent / 8, with P(disease) = 1 - p_Normal: the severity to be
expected. Where the model has no severity head, urgency is P(disease).

**To a person.** A film of whose class or extent the model is unsure, or whose class and extent
contradict, carries a reason and is placed by the worst it could plausibly be: disease present,
extent at the upper end of its 95% range (all of the lungs where no extent is known), and never
below the middle of the scale.

Equal urgency keeps the order of arrival. Files that could not be read come last.
"""

import os
import posixpath
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from covidxr import InputError, datasets, runs
from covidxr.loaders import write_text

SEVERITY = ("extent", "extent_sd", "extent_right", "extent_left", "opacity", "opacity_sd")
HISTORY = ("image_path", "patient_id", "study_day", "view")
FORMULA = tuple("=+-@\t\r")  # a spreadsheet would run a cell that begins with one of these

ABSENT = "not in the table of patients: stands alone"
NO_PATIENT = "no patient id: stands alone"
NO_DAY = "no study day: left out of the course"
SINGLE = "one film only: no course"
SAME_DAY = "another film on the same day"
VIEWS = "views differ within the patient"


@dataclass(frozen=True)
class Rules:
    """When a film goes to a person; defaults set before any result was seen."""

    min_probability: float = 0.6  # of the leading class; less is unsure
    max_extent_sd: float = 2.0  # of 8; more is unsure
    normal_extent: float = 2.0  # of 8; a film called Normal shows less
    disease_extent: float = 0.5  # of 8; a film called diseased shows at least this


def classes_of(predictions: pd.DataFrame) -> list[str]:
    """Classes of a predictions table; InputError where Normal is not among them."""
    classes = [name[2:] for name in predictions if name.startswith("p_")]
    if "Normal" not in classes:
        raise InputError(
            f"triage: found classes {', '.join(classes) or 'none'}, expected Normal among them: "
            "urgency starts from the probability of disease; use a run that has this class"
        )
    return classes


def order(predictions: pd.DataFrame, rules: Rules | None = None) -> pd.DataFrame:
    """The worklist: all rows of the predictions, most urgent first, rejected files last.

    Columns added: `place` (1 is read first; NA where rejected), `disease` (probability), `urgency`
    (0-1) and `to_person` (the reason; NA where the model is sure).

    Raises:
        InputError: no class Normal, or a film that was read and has no probability.
    """
    classes = classes_of(predictions)
    names = [f"p_{name}" for name in classes]
    absent = [name for name in SEVERITY if name not in predictions]
    table = predictions.reindex(columns=[*predictions, *absent])
    numbers = [*names, *SEVERITY]
    table[numbers] = table[numbers].apply(pd.to_numeric).astype(float)
    read = table["status"] == "ok"
    if table.loc[read, names].isna().any(axis=None):
        raise InputError("triage: a film of status ok has no probability; predict it again")
    table["disease"] = 1 - table["p_Normal"]
    table["to_person"] = pd.Series(pd.NA, table.index, dtype="string")
    table.loc[read, "to_person"] = [
        _doubts(film, max(film[names]), rules or Rules(), has_severity(table))
        for _, film in table[read].iterrows()
    ]
    table["urgency"] = _urgency(table)
    table = table.sort_values("urgency", ascending=False, kind="stable", na_position="last")
    table = table.reset_index(drop=True)
    table["place"] = pd.Series(table.index + 1, dtype="Int64").where(table["status"] == "ok")
    return table


def has_severity(table: pd.DataFrame) -> bool:
    """Whether the model gave any film an extent."""
    return bool(table["extent"].notna().any())


def _doubts(film, top: float, rules: Rules, severity: bool):
    """Why a person must look first, or NA; `top` is the probability of the leading class."""
    extent, sd = film["extent"], film["extent_sd"]
    called, shown = film["predicted"], f"extent {extent:.1f} of 8"
    contradiction = (
        extent >= rules.normal_extent if called == "Normal" else extent < rules.disease_extent
    )
    doubts = {
        f"unsure of the class: {top:.0%} for {called}": top < rules.min_probability,
        f"unsure of the extent: {extent:.1f} ± {1.96 * sd:.1f} of 8": sd > rules.max_extent_sd,
        f"called {called}, yet {shown}": contradiction,
        "the model gave no extent": severity and pd.isna(extent),
    }
    return "; ".join(reason for reason, holds in doubts.items() if holds) or pd.NA


def _urgency(table: pd.DataFrame) -> pd.Series:
    """0-1 as the module says; NaN where the file was rejected."""
    share, worst = 1.0, 1.0
    if has_severity(table):
        share = table["extent"].clip(0, 8) / 8
        worst = (table["extent"] + 1.96 * table["extent_sd"].fillna(0)).clip(4, 8) / 8
        worst = worst.fillna(1)  # no extent: it could be all of the lungs
    usual = table["disease"] * share
    return usual.where(table["to_person"].isna(), worst)


def read_history(path) -> pd.DataFrame:
    """A table of films by patient: image_path, patient_id and, where known, study_day and view."""
    try:
        table = runs.read_csv(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise InputError(
            f"--manifest {path}: cannot be read ({reason}); expected a CSV with the columns "
            "image_path, patient_id, study_day (a number) and view"
        ) from error
    missing = {"image_path", "patient_id"} - set(table)
    if missing or table["image_path"].isna().any():
        raise InputError(
            f"--manifest {path}: found no {' and no '.join(sorted(missing)) or 'path in some row'}"
            ", expected image_path, patient_id, study_day and view; add what is missing"
        )
    table = table.reindex(columns=list(HISTORY))
    table = table.astype({name: datasets.MANIFEST_DTYPES[name] for name in HISTORY})
    table["image_path"] = [posixpath.normpath(p) for p in table["image_path"]]
    twice = table["image_path"][table.drop_duplicates()["image_path"].duplicated()]
    if len(twice):
        raise InputError(
            f"--manifest {path}: {twice.iloc[0]} stands in several rows that differ; expected one "
            "row per film, remove the others"
        )
    return table.drop_duplicates(ignore_index=True)


def add_history(predictions: pd.DataFrame, history: pd.DataFrame | None) -> pd.DataFrame:
    """Give predictions `patient_id`, `study_day`, `view` and `note`, joined by the files' paths.

    A path of the history may be absolute, or the end of a film's path (relative to any folder above
    it). `note` says what is missing or odd about a film's place in its patient's course. Without a
    history nothing is known and nothing is noted.

    Raises:
        InputError: no film is in the history, or two films fit one of its rows.
    """
    table = predictions.copy()
    columns = ["patient_id", "study_day", "view"]
    if history is None:
        unknown = {"patient_id": "string", "study_day": "Float64", "view": "string"}
        table[columns] = pd.NA
        return table.assign(note=pd.NA).astype(unknown | {"note": "string"})
    rows = {path: row for row, path in enumerate(history["image_path"])}
    found = pd.array([_find(path, rows) for path in table["image_path"]], dtype="Int64")
    found = pd.Series(found, table.index)
    _check_match(table["image_path"], found, history)
    known = history[columns].reindex(found.fillna(-1).astype(int)).set_index(table.index)
    table[columns] = known
    return table.assign(note=_notes(table, found))


def _find(path: str, rows: dict[str, int]):
    """Row of the longest end of a path that is in `rows`, or NA."""
    path = Path(os.path.abspath(path)).as_posix()
    while path not in rows:
        path = path.lstrip("/").partition("/")[2]
        if not path:
            return pd.NA
    return rows[path]


def _check_match(paths: pd.Series, found: pd.Series, history: pd.DataFrame) -> None:
    if len(paths) and found.isna().all():
        raise InputError(
            f"--manifest: none of the {len(paths)} films is in it; the first film is "
            f"{paths.iloc[0]}, the first image_path {next(iter(history['image_path']), 'absent')}"
            ": expected paths that end alike, correct image_path"
        )
    files = paths.map(os.path.abspath)[found.notna()]
    for row, same in files.groupby(found.dropna()):
        if same.nunique() > 1:
            raise InputError(
                f"--manifest: {history['image_path'].iloc[row]} fits {same.iloc[0]} and "
                f"{same.iloc[1]}; expected one film, write a longer path"
            )


def _notes(table: pd.DataFrame, found: pd.Series) -> pd.Series:
    """What is missing or odd about each film's place in its patient's course; NA if nothing."""
    read, patient = table["status"] == "ok", table["patient_id"]
    groups = table[read].groupby("patient_id")
    films = patient.map(groups.size()).fillna(0)
    per_day = table[read].groupby(["patient_id", "study_day"])["image_path"].transform("size")
    projection = table["view"].str.split().str[0]
    views = patient.map(projection[read].groupby(patient[read]).nunique()).fillna(0)
    several = patient.notna() & (films > 1)
    conditions = {
        ABSENT: found.isna(),
        NO_PATIENT: found.notna() & patient.isna(),
        SINGLE: patient.notna() & (films == 1),
        NO_DAY: several & table["study_day"].isna(),
        SAME_DAY: several & (per_day.reindex(table.index).fillna(0) > 1),
        VIEWS: several & (views > 1),
    }
    flags = pd.DataFrame(conditions).astype(bool)
    texts = ["; ".join(flags.columns[row]) or pd.NA for row in flags.to_numpy()]
    return pd.Series(texts, table.index, dtype="string").where(read)


def write_csv(path, table: pd.DataFrame) -> None:
    """Write a table as CSV in which no text can be taken for a formula by a spreadsheet.

    A text cell that begins with =, +, -, @, a tabulator or a line end gets an apostrophe before it.
    """
    text = table.select_dtypes(exclude=["number", "bool"]).columns
    safe = table.assign(**{name: table[name].map(_harmless) for name in text})
    write_text(Path(path), safe.to_csv(index=False))


def _harmless(cell):
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell
