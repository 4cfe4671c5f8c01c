"""Courses of known patients: the limit is kept, and the line is that of least squares."""

import numpy as np
import pandas as pd
import pytest

from covidxr import InputError, progression


def films(n_patients, slope, sem, n_films=4, bias=0.0, seed=0):
    """Films of patients with a straight course and independent errors; `truth` without them."""
    rng = np.random.default_rng(seed)
    rows = []
    for patient in range(n_patients):
        start, own = rng.uniform(2, 6), rng.normal(0, bias)
        for day in np.cumsum(rng.integers(1, 6, n_films)):
            truth = start + slope * day
            rows.append((f"P{patient}", day, truth, truth + own + rng.normal(0, sem)))
    table = pd.DataFrame(rows, columns=["patient_id", "study_day", "truth", "extent"])
    return table.assign(extent_sd=sem)


def test_two_films_have_the_smallest_detectable_change_as_limit():
    found = progression.course([3, 10], [2.0, 5.0], 0.8)
    assert found.limit == pytest.approx(progression.smallest_change(0.8))
    assert found.limit == pytest.approx(1.96 * np.sqrt(2) * 0.8)
    assert (found.call, found.change) == ("worse", pytest.approx(3))
    assert progression.course([3, 10], [2, 5], [0.3, 0.4]).limit == pytest.approx(1.96 * 0.5)


def test_the_readers_constant_is_the_documented_one():
    """Senior and junior reader of the Brixia score differ with a standard deviation of 2.519."""
    of_18 = progression.smallest_change(progression.READER_SEM) * 18 / 8
    assert of_18 == pytest.approx(1.96 * 2.519)


def test_line_band_and_limit_are_those_of_weighted_least_squares():
    days, extent, sd = [0, 2, 2, 7, 9], [1, 2, 2.5, 5, 4], [0.5, 0.4, 1, 0.7, 0.5]
    line, covariance = np.polyfit(days, extent, 1, w=1 / np.array(sd), cov="unscaled")
    found = progression.course(days, extent, sd)
    value, width = found.at(days)
    assert value == pytest.approx(np.polyval(line, days))
    assert found.change == pytest.approx(9 * line[0])
    assert found.limit == pytest.approx(1.96 * 9 * np.sqrt(covariance[0, 0]))
    basis = np.stack([days, np.ones(5)])
    assert width == pytest.approx(1.96 * np.sqrt(np.sum(basis * (covariance @ basis), axis=0)))


def test_order_of_films_does_not_matter_and_reversal_turns_worse_into_better():
    one = progression.course([0, 3, 8], [1, 3, 6], 0.5)
    two = progression.course([8, 0, 3], [6, 1, 3], 0.5)
    back = progression.course([0, 5, 8], [6, 3, 1], 0.5)
    assert one.call == two.call == "worse" and one.change == pytest.approx(two.change)
    assert (back.call, back.change) == ("better", pytest.approx(-one.change))
    assert (one.first_day, one.last_day) == (0, 8)


@pytest.mark.parametrize("n_films", [2, 5])
def test_the_limit_keeps_its_share_of_false_calls(n_films):
    table = films(2000, slope=0, sem=0.6, n_films=n_films)
    calls = pd.Series([c.call for c in progression.courses(table).values()])
    assert np.mean(calls != "stable") == pytest.approx(0.05, abs=0.02)


def test_repeatability_finds_the_error_and_ignores_what_films_of_a_patient_share():
    table = films(600, slope=0.2, sem=0.5, bias=2)
    found = progression.repeatability(table["patient_id"], table["extent"], table["truth"])
    assert found["value"] == pytest.approx(0.5, abs=0.03)
    assert found["low"] < 0.5 < found["high"] and found["high"] - found["low"] < 0.1
    assert (found["n"], found["patients"]) == (2400, 600)
    plain = np.std(table["extent"] - table["truth"])
    assert plain > 4 * found["value"]


def test_repeatability_of_unchanged_pairs_is_the_within_subject_deviation():
    pairs = np.random.default_rng(0).normal(4, 1, (12, 2))
    patients = np.repeat(np.arange(12), 2)
    found = progression.repeatability(patients, pairs.ravel(), np.full(24, 4))
    assert found["value"] == pytest.approx(np.sqrt(np.mean(np.diff(pairs) ** 2) / 2))


def test_repeatability_of_few_or_no_pairs():
    nothing = progression.repeatability(["a", "b"], [1, 2], [1, 1])
    assert nothing == {"value": None, "low": None, "high": None, "n": 0, "patients": 0}
    one = progression.repeatability(["a", "a", "a", "b"], [1, 3, np.nan, 2], [1, 1, 1, 1])
    assert one["value"] == pytest.approx(np.sqrt(2)) and one["low"] is None
    assert (one["n"], one["patients"]) == (2, 1)


def test_only_patients_with_films_on_two_days_have_a_course():
    table = pd.DataFrame(
        {
            "patient_id": ["one film", "one day", "one day", "no day", "no day", "two", "two", None]
            + ["half known"] * 2,
            "study_day": [1, 2, 2, 3, None, 4, 8, 5, 1, 2],
            "extent": [1, 2, 3, 4, 5, 1, 7, 3, 4, None],
            "extent_sd": 0.5,
        }
    )
    found = progression.courses(table)
    assert list(found) == ["two"] and found["two"].call == "worse"
    unknown = table.assign(extent_sd=np.nan)
    assert progression.courses(unknown) == {}
    assert progression.courses(unknown, sem=3.0)["two"].call == "stable"


def test_score_counts_right_false_and_direction():
    change = [3, 1, -3, 0.5, 3, -0.4, 3]
    truth = [4, 3, -4, 0, 0, 1.0, -3]
    counts, rows = progression.score(change, [2] * 7, truth)
    assert counts.to_numpy().tolist() == [[1, 1, 0], [1, 2, 0], [1, 0, 1]]
    assert list(counts.index) == list(counts) == ["worse", "stable", "better"]
    figures = rows.set_index("metric")
    assert figures["n"].to_dict() == {"right": 4, "false calls": 2, "direction": 5}
    assert figures["value"].to_dict() == {"right": 0.5, "false calls": 0.5, "direction": 0.6}
    assert (figures["low"] < figures["value"]).all() and (figures["value"] < figures["high"]).all()


def test_score_without_cases_is_not_a_number():
    _, rows = progression.score([1.0], [2.0], [0.5])
    assert rows["n"].tolist() == [0, 0, 0] and rows["value"].isna().all()


@pytest.mark.parametrize(
    ("days", "sd", "message"), [([3, 3], 1, "two days or more"), ([1, 2], [0, 1], "above 0")]
)
def test_bad_courses_are_refused(days, sd, message):
    with pytest.raises(InputError, match=message):
        progression.course(days, [1, 2], sd)
