"""Which patient, day and view a film belongs to, and what is odd about its place in the course.

The model sees films alone. A table of patients, a CSV with the manifest's columns `image_path`,
`patient_id` and, where known, `study_day` and `view`, joins them into courses.
"""

import os
import posixpath
from pathlib import Path

import pandas as pd

from covidxr import InputError, datasets, runs

COLUMNS = ("image_path", "patient_id", "study_day", "view")

ABSENT = "not in the table of patients: stands alone"
NO_PATIENT = "no patient id: stands alone"
NO_DAY = "no study day: left out of the course"
SINGLE = "one film only: no course"
SAME_DAY = "another film on the same day"
VIEWS = "views differ within the patient"


def read(path) -> pd.DataFrame:
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
    table = table.reindex(columns=list(COLUMNS))
    table = table.astype({name: datasets.MANIFEST_DTYPES[name] for name in COLUMNS})
    table["image_path"] = [posixpath.normpath(path) for path in table["image_path"]]
    table = table.drop_duplicates(ignore_index=True)
    twice = table["image_path"][table["image_path"].duplicated()]
    if len(twice):
        raise InputError(
            f"--manifest {path}: {twice.iloc[0]} stands in several rows that differ; expected one "
            "row per film, remove the others"
        )
    return table


def join(predictions: pd.DataFrame, history: pd.DataFrame | None) -> pd.DataFrame:
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
