"""Who is read first: urgency and abstention, from a predictions table.

**Urgency** (0-1) is P(disease) x extent / 8, with P(disease) = 1 - p_Normal: the severity to be
expected. Where the model has no severity head, urgency is P(disease).

**To a person.** A film of whose class or extent the model is unsure, or whose class and extent
contradict, carries a reason and is placed by the worst it could plausibly be: disease present,
extent at the upper end of its 95% range. It never stands below the middle of the scale; without a
severity head that is all: above the films called Normal.

Equal urgency keeps the order of arrival. Files that could not be read come last.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from covidxr import InputError
from covidxr.severity import COLUMNS


@dataclass(frozen=True)
class Rules:
    """When a film goes to a person; defaults set before any result was seen."""

    min_probability: float = 0.6  # of the leading class; less is unsure
    max_extent_sd: float = 2.0  # of 8; more is unsure
    normal_extent: float = 2.0  # of 8; a film called Normal shows less
    disease_extent: float = 0.5  # of 8; a film called diseased shows at least this


def classes_of(columns: Iterable[str]) -> list[str]:
    """Classes of a predictions table by its columns; InputError where Normal is not one."""
    classes = [name[2:] for name in columns if name.startswith("p_")]
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
    absent = [name for name in COLUMNS if name not in predictions]
    table = predictions.reindex(columns=[*predictions, *absent])
    numbers = [*names, *COLUMNS]
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
    if not has_severity(table):
        return table["disease"].where(table["to_person"].isna(), table["disease"].clip(lower=0.5))
    worst = (table["extent"] + 1.96 * table["extent_sd"].fillna(0)).clip(4, 8) / 8
    expected = table["disease"] * table["extent"].clip(0, 8) / 8
    return expected.where(table["to_person"].isna(), worst.fillna(1))  # no extent: it may be all
