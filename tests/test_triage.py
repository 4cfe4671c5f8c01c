"""The worklist's order, who is asked, patients' histories, and a table no spreadsheet will run."""

import numpy as np
import pandas as pd
import pytest

from covidxr import InputError, triage

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
    for predictions in (bare, bare.drop(columns=list(triage.SEVERITY))):
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


def test_unsure_without_severity_stands_first():
    table = worklist(film("sure", SURE_COVID), film("unsure", (0.45, 0.1, 0.45)))
    assert table.index[0] == "unsure" and table["urgency"].iloc[0] == 1


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


# --- patients' histories ----------------------------------------------------------------------


@pytest.fixture
def history(tmp_path):
    """A function that writes rows "image_path,patient_id,study_day,view" and reads them back."""

    def write(*rows, header="image_path,patient_id,study_day,view"):
        path = tmp_path / "patients.csv"
        path.write_text("\n".join([header, *rows]) + "\n")
        return triage.read_history(path)

    return write


def joined(history, *names, broken=()):
    films = [rejected(n) if n in broken else film(n, SURE_COVID, 2) for n in names]
    return triage.add_history(pd.DataFrame(films), history).set_index("image_path")


def test_without_a_table_every_film_stands_alone():
    table = joined(None, "a.png", "b.png")
    assert table[["patient_id", "study_day", "view", "note"]].isna().all(axis=None)


def test_paths_match_by_their_ends(history, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = ("COVID/images/1.png,P1,0,PA", f"{tmp_path}/far/2.png,P2,1,AP", "./3.png,P3,2,PA")
    table = joined(history(*rows), "data/COVID/images/1.png", "far/2.png", "3.png", "4.png")
    assert table["patient_id"].to_list()[:3] == ["P1", "P2", "P3"]
    assert table["study_day"].to_list()[:3] == [0, 1, 2]
    assert table["note"].iloc[3] == triage.ABSENT
    monkeypatch.chdir(tmp_path.parent)
    assert joined(history(*rows), f"{tmp_path}/far/2.png")["patient_id"].to_list() == ["P2"]


def test_what_is_odd_about_a_course_is_noted(history):
    table = joined(
        history(
            "only.png,A,0,PA",
            "b1.png,B,0,PA",
            "b2.png,B,,PA",
            "b3.png,B,5,PA",
            "c1.png,C,3,AP",
            "c2.png,C,3,AP Supine",
            "d1.png,D,1,PA",
            "d2.png,D,2,AP",
            "e.png,,4,PA",
        ),
        *"only.png b1.png b2.png b3.png c1.png c2.png d1.png d2.png e.png f.png".split(),
    )
    assert table["note"].fillna("").to_dict() == {
        "only.png": triage.SINGLE,
        "b1.png": "",
        "b2.png": triage.NO_DAY,
        "b3.png": "",
        "c1.png": triage.SAME_DAY,  # AP and AP Supine are one projection
        "c2.png": triage.SAME_DAY,
        "d1.png": triage.VIEWS,
        "d2.png": triage.VIEWS,
        "e.png": triage.NO_PATIENT,
        "f.png": triage.ABSENT,
    }


def test_a_rejected_film_is_no_part_of_a_course(history):
    table = joined(history("1.png,A,0,PA", "2.png,A,3,AP"), "1.png", "2.png", broken=["2.png"])
    assert table["note"].fillna("").to_list() == [triage.SINGLE, ""]


def test_a_table_of_paths_and_patients_is_enough(history):
    table = joined(history("1.png,A", "2.png,A", header="image_path,patient_id"), "1.png", "2.png")
    assert table["note"].to_list() == [triage.NO_DAY] * 2


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        (["1.png,0"], "image_path,day", "found no patient_id, expected"),
        (["1.png,A,tomorrow,PA"], "image_path,patient_id,study_day,view", "cannot be read"),
        (["1.png,A,1,PA", "1.png,B,1,PA"], "image_path,patient_id,study_day,view", "several rows"),
        ([",A,1,PA"], "image_path,patient_id,study_day,view", "no path in some row"),
        ([], "", "cannot be read"),
    ],
)
def test_a_bad_table_is_refused_in_one_line(history, rows, header, message):
    with pytest.raises(InputError, match=message) as refusal:
        history(*rows, header=header)
    assert "\n" not in str(refusal.value) and "--manifest" in str(refusal.value)


def test_a_table_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        triage.read_history(tmp_path / "none.csv")
    with pytest.raises(InputError, match="cannot be read"):
        triage.read_history(tmp_path)


def test_a_table_of_other_films_is_refused(history):
    with pytest.raises(InputError, match="none of the 1 films is in it"):
        joined(history("1.png,A,1,PA"), "2.png")


def test_a_row_that_fits_two_films_is_refused(history):
    with pytest.raises(InputError, match="fits .*a/1.png and .*b/1.png"):
        joined(history("1.png,A,1,PA"), "a/1.png", "b/1.png")
    assert len(triage.add_history(pd.DataFrame([film("a/1.png", SURE_COVID, 1)] * 2), None)) == 2


# --- the table on disk ------------------------------------------------------------------------


def test_no_cell_can_be_taken_for_a_formula(tmp_path):
    nasty = ["=1+1", "+2", "-cmd", "@SUM(A1)", "\tx", "plain=1", "", None]
    table = pd.DataFrame({"name": nasty, "category": pd.Categorical(["=x"] * 8), "change": -1.5})
    triage.write_csv(tmp_path / "t.csv", table)
    found = pd.read_csv(tmp_path / "t.csv", keep_default_na=False)
    expected = ["'=1+1", "'+2", "'-cmd", "'@SUM(A1)", "'\tx", "plain=1", "", ""]
    assert found["name"].to_list() == expected
    assert found["category"].to_list() == ["'=x"] * 8
    assert found["change"].to_list() == [-1.5] * 8
