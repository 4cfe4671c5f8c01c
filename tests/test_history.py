"""Films find their patient by path; what is missing or odd is noted, what is wrong refused."""

import pandas as pd
import pytest

from covidxr import InputError, history


@pytest.fixture
def table_of(tmp_path):
    """A function that writes rows "image_path,patient_id,study_day,view" and reads them back."""

    def write(*rows, header="image_path,patient_id,study_day,view"):
        path = tmp_path / "patients.csv"
        path.write_text("\n".join([header, *rows]) + "\n")
        return history.read(path)

    return write


def joined(patients, *names, broken=()):
    films = [{"image_path": n, "status": "rejected" if n in broken else "ok"} for n in names]
    return history.join(pd.DataFrame(films), patients).set_index("image_path")


def test_without_a_table_every_film_stands_alone():
    table = joined(None, "a.png", "b.png")
    assert table[["patient_id", "study_day", "view", "note"]].isna().all(axis=None)


def test_paths_match_by_their_ends(table_of, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = ("COVID/images/1.png,P1,0,PA", f"{tmp_path}/far/2.png,P2,1,AP", "./3.png,P3,2,PA")
    table = joined(table_of(*rows), "data/COVID/images/1.png", "far/2.png", "3.png", "4.png")
    assert table["patient_id"].to_list()[:3] == ["P1", "P2", "P3"]
    assert table["study_day"].to_list()[:3] == [0, 1, 2]
    assert table["note"].iloc[3] == history.ABSENT
    monkeypatch.chdir(tmp_path.parent)
    assert joined(table_of(*rows), f"{tmp_path}/far/2.png")["patient_id"].to_list() == ["P2"]


def test_what_is_odd_about_a_course_is_noted(table_of):
    table = joined(
        table_of(
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
        "only.png": history.SINGLE,
        "b1.png": "",
        "b2.png": history.NO_DAY,
        "b3.png": "",
        "c1.png": history.SAME_DAY,  # AP and AP Supine are one projection
        "c2.png": history.SAME_DAY,
        "d1.png": history.VIEWS,
        "d2.png": history.VIEWS,
        "e.png": history.NO_PATIENT,
        "f.png": history.ABSENT,
    }


def test_a_rejected_film_is_no_part_of_a_course(table_of):
    table = joined(table_of("1.png,A,0,PA", "2.png,A,3,AP"), "1.png", "2.png", broken=["2.png"])
    assert table["note"].fillna("").to_list() == [history.SINGLE, ""]


def test_a_table_of_paths_and_patients_is_enough(table_of):
    table = joined(table_of("1.png,A", "2.png,A", header="image_path,patient_id"), "1.png", "2.png")
    assert table["note"].to_list() == [history.NO_DAY] * 2


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
def test_a_bad_table_is_refused_in_one_line(table_of, rows, header, message):
    with pytest.raises(InputError, match=message) as refusal:
        table_of(*rows, header=header)
    assert "\n" not in str(refusal.value) and "--manifest" in str(refusal.value)


def test_a_table_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        history.read(tmp_path / "none.csv")
    with pytest.raises(InputError, match="cannot be read"):
        history.read(tmp_path)


def test_a_table_of_other_films_is_refused(table_of):
    with pytest.raises(InputError, match="none of the 1 films is in it"):
        joined(table_of("1.png,A,1,PA"), "2.png")


def test_a_row_that_fits_two_films_is_refused(table_of):
    with pytest.raises(InputError, match="fits .*a/1.png and .*b/1.png"):
        joined(table_of("1.png,A,1,PA"), "a/1.png", "b/1.png")
    assert (
        len(history.join(pd.DataFrame([{"image_path": "a/1.png", "status": "ok"}] * 2), None)) == 2
    )
