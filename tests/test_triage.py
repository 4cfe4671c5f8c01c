"""The worklist's order, who is asked, and a table that no spreadsheet will run."""

import numpy as np
import pandas as pd
import pytest

from covidxr import InputError, severity, triage

CLASSES = ("Normal", "Lung_Opacity", "COVID")


def film(name, p, extent=None, sd=0.5, status="ok", reason=None):
    """One row of a predictions table; `p` (3,) are probabilities of CLASSES."""
    row = {"image_path": name, "patient_id": None, "label": None}
    row |= {f"p_{c}": p and p[i] for i, c in enumerate(CLASSES)}
    row["predicted"] = CLASSES[int(np.argmax(p))] if p else None
    known = extent is not None
    row |= {"extent": extent, "extent_sd": sd if known else None}
    row |= {"extent_right": extent / 2 if known else None}
    row |= {"extent_left": extent / 2 if known else None}
    return row | {"opacity": extent, "opacity_sd": None, "status": status, "reason": reason}


def rejected(name, reason="empty file"):
    return film(name, None, status="rejected", reason=reason)


def worklist(*films, rules=None):
    table = triage.order(pd.DataFrame(films), rules)
    return table.set_index("image_path")


SURE_NORMAL, SURE_COVID = (0.9, 0.05, 0.05), (0.05, 0.05, 0.9)


def test_urgency_is_expected_severity():
    table = worklist(
        film("mild", SURE_COVID, 2), film("severe", SURE_COVID, 6), film("well", SURE_NORMAL, 0.1)
    )
    assert list(table.index) == ["severe", "mild", "well"]
    assert table["urgency"].to_list() == pytest.approx([0.95 * 6 / 8, 0.95 * 2 / 8, 0.1 * 0.1 / 8])
    assert table["place"].to_list() == [1, 2, 3] and table["to_person"].isna().all()
    assert table["disease"].to_list() == pytest.approx([0.95, 0.95, 0.1])


def test_without_severity_urgency_is_the_probability_of_disease():
    bare = pd.DataFrame([film("a", SURE_NORMAL), film("b", SURE_COVID)])
    for predictions in (bare, bare.drop(columns=list(severity.COLUMNS))):
        table = triage.order(predictions)
        assert not triage.has_severity(table)
        assert table["image_path"].to_list() == ["b", "a"]
        assert table["urgency"].to_list() == pytest.approx([0.95, 0.1])


@pytest.mark.parametrize(
    ("unsure", "reason"),
    [
        (film("x", (0.4, 0.1, 0.5), 1), "unsure of the class: 50% for COVID"),
        (film("x", SURE_COVID, 1, sd=2.5), "unsure of the extent: 1.0 ± 4.9 of 8"),
        (film("x", SURE_NORMAL, 3), "called Normal, yet extent 3.0 of 8"),
        (film("x", SURE_COVID, 0.2), "called COVID, yet extent 0.2 of 8"),
        (film("x", SURE_COVID), "the model gave no extent"),
        (
            film("x", (0.5, 0.4, 0.1), 3, sd=3),
            "unsure of the class: 50% for Normal; unsure of the extent: 3.0 ± 5.9 of 8; "
            "called Normal, yet extent 3.0 of 8",
        ),
    ],
)
def test_an_unsure_film_goes_to_a_person_and_stands_high(unsure, reason):
    table = worklist(film("mild", SURE_COVID, 2), film("well", SURE_NORMAL, 0), unsure)
    assert table.loc["x", "to_person"] == reason
    assert table.loc["x", "place"] == 1 and table.loc["x", "urgency"] >= 0.5
    assert table["to_person"].notna().sum() == 1


def test_the_certain_and_severe_stay_before_the_unsure_and_mild():
    table = worklist(film("unsure", (0.5, 0.4, 0.1), 1), film("severe", SURE_COVID, 7))
    assert list(table.index) == ["severe", "unsure"]
    assert table.loc["unsure", "urgency"] == 0.5
    worst = worklist(film("unsure", (0.5, 0.1, 0.4), 5, sd=1.0), film("severe", SURE_COVID, 7))
    assert worst.loc["unsure", "urgency"] == pytest.approx((5 + 1.96) / 8)


def test_unsure_without_severity_stands_above_the_films_called_normal():
    table = worklist(
        film("well", (0.6, 0.2, 0.2)), film("unsure", (0.55, 0.2, 0.25)), film("sick", SURE_COVID)
    )
    assert list(table.index) == ["sick", "unsure", "well"]
    assert table["urgency"].to_list() == pytest.approx([0.95, 0.5, 0.4])


def test_rules_can_be_changed():
    lax = triage.Rules(min_probability=0.4, max_extent_sd=9, normal_extent=9, disease_extent=0)
    assert worklist(film("x", (0.5, 0.4, 0.1), 3, sd=3), rules=lax)["to_person"].isna().all()


def test_rejected_files_come_last_with_their_reasons_and_nothing_is_lost():
    table = worklist(rejected("broken"), film("well", SURE_NORMAL, 0), rejected("gone", "no file"))
    assert list(table.index) == ["well", "broken", "gone"]
    assert table["reason"].to_list()[1:] == ["empty file", "no file"]
    assert table["place"].isna().to_list() == [False, True, True]
    assert table["to_person"].isna().all() and table["urgency"].isna().sum() == 2
    assert len(worklist(rejected("a"), rejected("b"))) == 2


def test_equal_urgency_keeps_the_order_of_arrival():
    names = [f"{n}.png" for n in np.random.default_rng(0).permutation(40)]
    assert list(worklist(*(film(name, SURE_COVID, 4) for name in names)).index) == names


def test_a_table_without_films_gives_an_empty_worklist():
    assert triage.order(pd.DataFrame([film("x", SURE_COVID, 1)]).iloc[:0]).empty


def test_input_that_cannot_be_ordered_is_refused():
    other = pd.DataFrame([film("x", SURE_COVID, 1)]).rename(columns={"p_Normal": "p_Healthy"})
    with pytest.raises(InputError, match="found classes Healthy, Lung_Opacity, COVID, expected No"):
        triage.order(other)
    with pytest.raises(InputError, match="no probability"):
        triage.order(pd.DataFrame([film("x", SURE_COVID, 1)]).assign(p_COVID=np.nan))
