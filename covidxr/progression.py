"""Is it getting worse: extent over days, and which changes exceed the limit of repeatability.

The **limit** is the smallest detectable change, 1.96 x sqrt(2) x SEM (Bland & Altman, 1996): two
measurements of an unchanged patient differ by more in 5% of cases. SEM, the standard error of
measurement, is the standard deviation of repeated measurements of one patient.

- A model's: its own `extent_sd`, or `repeatability` of validation films whose truth is known. The
  second is the better one, because errors that all films of a patient share cancel in a change.
- A reader's: `READER_SEM`.

Only what is called a change is one; everything within the limit is stable.
"""

import math
from typing import NamedTuple

import numpy as np
import pandas as pd

from covidxr import InputError, metrics

CALLS = ("worse", "stable", "better")

# One reader of the Brixia score (0-18) on 192 public films: senior and junior reader differ by
# 1.94 on average, with a standard deviation of 2.519 (github.com/BrixIA/Brixia-score-COVID-19,
# public-annotations.csv), so SEM = 2.519 / sqrt(2). Carried over to 0-8 in proportion.
READER_SEM = 2.519 / math.sqrt(2) * 8 / 18


def smallest_change(sem: float) -> float:
    """Smallest detectable change between two measurements."""
    return 1.96 * math.sqrt(2) * sem


def repeatability(patients, estimates, truths) -> dict:
    """SEM of estimates from films of the same patients whose true extent is known.

    The standard deviation, within patients, of the errors (N,): what is wrong in the same way on
    all films of a patient makes no false change and does not count. Patients with one film do not
    count. With unchanging truths this is the within-subject standard deviation of Bland & Altman.

    Returns:
        value, low, high (95%, bootstrap over patients), n (films), patients. value is None without
        a pair, low and high with fewer than 10 patients.
    """
    frame = pd.DataFrame({"patient": np.asarray(patients, dtype=object)})
    frame["error"] = np.asarray(estimates, float) - np.asarray(truths, float)
    groups = frame.dropna().groupby("patient")["error"]
    squares = groups.apply(lambda errors: np.sum((errors - errors.mean()) ** 2))
    freedom = groups.size() - 1
    squares, freedom = (x[freedom > 0].to_numpy(float) for x in (squares, freedom))
    result = {"value": None, "low": None, "high": None}
    result |= {"n": int(freedom.sum() + len(freedom)), "patients": len(freedom)}
    if not len(freedom):
        return result
    result["value"] = float(np.sqrt(squares.sum() / freedom.sum()))
    if len(freedom) >= metrics.MIN_GROUPS:
        draws = metrics.resampled(
            lambda counts: np.sqrt(squares @ counts / (freedom @ counts)), np.arange(len(freedom))
        )
        low, high = metrics.percentile_interval(draws)
        result |= {"low": float(low), "high": float(high)}
    return result


class Course(NamedTuple):
    """A straight line through a patient's films, and what it says."""

    call: str  # worse, stable or better
    change: float  # of the line, last day minus first
    limit: float  # smallest change that is called
    first_day: float
    last_day: float
    line: tuple[float, float, float]  # mean day, value there, slope per day
    variances: tuple[float, float]  # of that value, and of the slope

    def at(self, days) -> tuple[np.ndarray, np.ndarray]:
        """Value of the line on `days`, and half the width of its 95% band."""
        centre, level, slope = self.line
        away = np.asarray(days, float) - centre
        width = 1.96 * np.sqrt(self.variances[0] + self.variances[1] * away**2)
        return level + slope * away, width


def course(days, extent, sd) -> Course:
    """Line through the extent (N,) of a patient's films by weighted least squares.

    All films count, not the first and the last alone. For two films the limit on the change is
    1.96 x sqrt(sd1^2 + sd2^2), hence 1.96 x sqrt(2) x SEM where both are equal. A line misses a
    peak: the course of a patient who got worse and then better may be called stable.

    Args:
        days: (N,), in any order; several films may share a day.
        sd: standard error of measurement of each film (N,), or one for all.

    Raises:
        InputError: fewer than two distinct days, or an sd that is not above 0.
    """
    days, extent = np.asarray(days, float), np.asarray(extent, float)
    sd = np.broadcast_to(np.asarray(sd, float), days.shape)
    if len(np.unique(days)) < 2:
        raise InputError(f"course: found films on days {days.tolist()}, expected two days or more")
    if not (sd > 0).all():
        raise InputError(f"course: found sd {sd.tolist()}, expected numbers above 0")
    weight = 1 / sd**2
    centre, level = np.average(days, weights=weight), np.average(extent, weights=weight)
    spread = weight @ (days - centre) ** 2
    slope = weight @ ((days - centre) * (extent - level)) / spread
    change, limit = slope * np.ptp(days), 1.96 * np.ptp(days) / np.sqrt(spread)
    return Course(
        call_of(change, limit),
        float(change),
        float(limit),
        float(days.min()),
        float(days.max()),
        (float(centre), float(level), float(slope)),
        (float(1 / weight.sum()), float(1 / spread)),
    )


def call_of(change: float, limit: float) -> str:
    """worse, stable or better: a change is called only where it exceeds the limit."""
    return "stable" if abs(change) <= limit else "worse" if change > 0 else "better"


def courses(table: pd.DataFrame, sem: float | None = None) -> dict[str, Course]:
    """The course of every patient with films on two days or more, by patient id.

    Args:
        table: columns patient_id, study_day, extent and, where `sem` is None, extent_sd. Films
            that lack one of them are left out.
        sem: one standard error of measurement for all films; None: each film's own extent_sd.
    """
    used = table.assign(sd=table["extent_sd"] if sem is None else sem)
    used = used[["patient_id", "study_day", "extent", "sd"]].dropna()
    return {
        patient: course(films["study_day"], films["extent"], films["sd"])
        for patient, films in used.groupby("patient_id")
        if films["study_day"].nunique() > 1
    }


def add_courses(worklist: pd.DataFrame, sem: float | None = None) -> pd.DataFrame:
    """A worklist with the columns `course`, `change` and `change_limit`; NA without a course."""
    read = worklist[worklist["status"] == "ok"]
    found = courses(read, sem)
    own = [found.get(patient) for patient in read["patient_id"]]
    fields = {"course": "call", "change": "change", "change_limit": "limit"}
    columns = {
        name: pd.Series([c and getattr(c, field) for c in own], read.index, dtype=object)
        for name, field in fields.items()
    }
    kinds = {"course": "string", "change": "Float64", "change_limit": "Float64"}
    return worklist.assign(**columns).astype(kinds)


def score(change, limit, truth, at_least: float = 1.0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Called changes against true ones, one patient per row.

    Args:
        change, limit, truth: estimated change, limit and true change (N,).
        at_least: true change from which on the direction is asked for.

    Returns:
        Counts of true (rows; a true change within the limit is stable) against called (columns),
        and a table of shares with Wilson's 95% interval and n (value is NaN where n is 0):
        `right` among true changes that exceed the limit; `false calls` among true changes of zero;
        `direction`, the sign of the estimated change whether called or not, among true changes of
        `at_least`.
    """
    change, limit, truth = (np.asarray(values, float) for values in (change, limit, truth))
    called, true = (
        np.array([call_of(*pair) for pair in zip(values, limit, strict=True)], dtype=object)
        for values in (change, truth)
    )
    counts = pd.crosstab(pd.Series(true, name="true"), pd.Series(called, name="called"))
    counts = counts.reindex(index=CALLS, columns=CALLS, fill_value=0)
    asked = {
        "right": (np.abs(truth) > limit, called == true),
        "false calls": (np.isclose(truth, 0), called != "stable"),
        "direction": (np.abs(truth) >= at_least, np.sign(change) == np.sign(truth)),
    }
    rows = []
    for name, (which, holds) in asked.items():
        n, k = int(which.sum()), int((which & holds).sum())
        low, high = metrics.wilson_interval(k, n) if n else (np.nan, np.nan)
        value = k / n if n else np.nan
        rows.append({"metric": name, "value": value, "low": low, "high": high, "n": n})
    return counts, pd.DataFrame(rows)
