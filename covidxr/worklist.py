"""The worklist as one page: a self-contained HTML file in order of urgency, and the CSV beside it.

The page holds its pictures, style and script, and its content security policy forbids all requests.
"""

import base64
import hashlib
import os
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from covidxr import history, launch, progression, runs, triage
from covidxr.files import one_line, write_csv, write_text
from covidxr.metrics import MIN_GROUPS
from covidxr.models import load_checkpoint
from covidxr.pictures import pictures

LEFT, RIGHT, TOP, BOTTOM = 5, 127, 5, 41  # the sparkline's axes in its 132 x 46 units


def make(run, paths, out, manifest=None) -> pd.DataFrame:
    """Predict image files and write their worklist: `out` (HTML) and a CSV of the same stem.

    Args:
        run: a run folder.
        paths: image files, as `runs.list_files` gives them.
        manifest: CSV of films by patient (see `covidxr.history`); None: every film stands alone.

    Returns:
        The worklist: predictions in order, with the columns that `history.join`, `triage.order` and
        `progression.add_courses` add.

    Raises:
        InputError: a run without Normal, a table of patients that does not fit, or a file that
            cannot be written.
    """
    run, out = Path(run), Path(out)
    patients = None if manifest is None else history.read(manifest)
    model, meta = load_checkpoint(run / "model.safetensors")
    triage.classes_of([f"p_{name}" for name in meta["classes"]])  # refused before any work
    table = triage.order(history.join(runs.predict_files(run, paths), patients))
    if launch.rank() > 0:
        return table
    sem = validation_sem(run)
    table = progression.add_courses(table, sem["value"])
    about = {"run": run.resolve().name, "meta": meta, "sem": sem, "patients": manifest is not None}
    write_text(out, render(table, pictures(model, meta["image_size"], table), about))
    write_csv(out.with_suffix(".csv"), table)
    return table


def validation_sem(run: Path) -> dict:
    """`progression.repeatability` of a run on its validation films of diseased patients.

    Patients whose true extent is 0 throughout are left out: their small errors would narrow the
    limit of the others. value is None where fewer than 10 patients have two films with a true and
    an estimated extent each.
    """
    unknown = {"value": None, "patients": 0}
    if not all((run / name).is_file() for name in ("manifest.csv", "predictions_val.csv")):
        return unknown
    films, manifest = (runs.read_csv(run / f"{n}.csv") for n in ("predictions_val", "manifest"))
    films["true"] = films["image_path"].map(manifest.set_index("image_path")["extent"])
    films = films.dropna(subset=["patient_id", "extent", "true"])
    films = films[films.groupby("patient_id")["true"].transform("max") > 0]
    found = progression.repeatability(films["patient_id"], films["extent"], films["true"])
    return found if found["patients"] >= MIN_GROUPS else unknown


def render(worklist: pd.DataFrame, films: dict[str, dict], about: dict) -> str:
    """The page as text.

    Args:
        worklist: with courses, as `make` returns it.
        films: by path, what `pictures` gives.
        about: `run` (its name), `meta` (of its checkpoint), `sem` (of `validation_sem`) and
            `patients` (whether a table of patients was given).
    """
    common, worklist = _name(worklist)
    read = worklist[worklist["status"] == "ok"]
    style, script = (files("covidxr").joinpath(f"templates/worklist.{x}") for x in ("css", "js"))
    style, script = Markup(style.read_text("utf-8")), Markup(script.read_text("utf-8"))
    environment = Environment(
        loader=PackageLoader("covidxr"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("worklist.html").render(
        rows=_rows(read, films, about["sem"]["value"]),
        rejected=worklist[worklist["status"] != "ok"].to_dict("records"),
        common=common,
        classes=triage.classes_of(worklist),
        severity=triage.has_severity(worklist),
        notes=read["note"].str.split("; ").explode().value_counts().to_dict(),
        n_patients=read["patient_id"].nunique(),
        rules=triage.Rules(),
        style=style,
        script=script,
        policy=f"default-src 'none'; img-src data:; style-src {_digest(style)}; "
        f"script-src {_digest(script)}; base-uri 'none'; form-action 'none'",
        **about,
    )


def _name(worklist: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    """What all paths begin with, and the worklist with the rest of each as `folder` and `name`."""
    paths = [one_line(Path(path).as_posix()) for path in worklist["image_path"]]
    common = "".join(os.path.commonprefix(paths).rpartition("/")[:2])
    parts = [path[len(common) :].rpartition("/") for path in paths]
    folders, names = [a + b for a, b, _ in parts], [c for *_, c in parts]
    return common, worklist.assign(folder=folders, name=names)


def _rows(read: pd.DataFrame, films: dict[str, dict], sem: float | None) -> list[dict]:
    """What the template shows of every film; None where something is unknown."""
    read = read.assign(newest=_newest(read), sem=sem or read["extent_sd"])
    by_patient = dict(list(read.groupby("patient_id")))
    return [
        film
        | films[film["image_path"]]
        | {"spark": _spark(film, by_patient.get(film["patient_id"]))}
        for film in read.astype(object).where(read.notna(), None).to_dict("records")
    ]


def _digest(text: str) -> str:
    """The source expression by which a content security policy allows exactly this text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _newest(read: pd.DataFrame) -> pd.Series:
    """Whether a film is its patient's newest; films of the same day all are, lone films too."""
    days = read["study_day"].astype("Float64").fillna(float("-inf"))
    last = days.groupby(read["patient_id"]).transform("max")
    return read["patient_id"].isna() | (days == last).fillna(False)


def _spark(film: dict, own: pd.DataFrame | None) -> dict | None:
    """Geometry of a patient's course: extent (0-8), or P(disease) where no film has an extent.

    None where fewer than two days are known.
    """
    if own is None:
        return None
    value, top = ("extent", 8) if triage.has_severity(own) else ("disease", 1)
    own = own.dropna(subset=["study_day", value]).sort_values("study_day", kind="stable")
    days, levels = own["study_day"].astype(float), own[value].astype(float)
    if days.nunique() < 2:
        return None
    sd = own["sem"].astype(float) if value == "extent" else pd.Series(float("nan"), own.index)
    x = _scale(days.min(), days.max(), LEFT, RIGHT)
    y = _scale(0, top, BOTTOM, TOP)
    points = [
        {
            "x": x(day),
            "y": y(level),
            "bar": None if pd.isna(width) else (y(level - 1.96 * width), y(level + 1.96 * width)),
            "own": path == film["image_path"],
            "text": f"day {day:g}: {level:.1f}" if top == 8 else f"day {day:g}: {level:.0%}",
        }
        for day, level, width, path in zip(days, levels, sd, own["image_path"], strict=True)
    ]
    spark = {"points": points, "first": f"{days.min():g}", "last": f"{days.max():g}"}
    if sd.isna().any():
        return spark | {"line": None, "zone": None}
    course = progression.course(days, levels, sd)
    start, end = course.at([days.min(), days.max()])[0]
    zone = y(start + course.limit), y(start - course.limit)
    return spark | {"line": (y(start), y(end)), "zone": zone}


def _scale(low: float, high: float, start: float, end: float):
    """A function from [low, high] to [start, end], clipped, for use in SVG."""
    return lambda value: round(float(np.interp(value, (low, high), (start, end))), 1)
