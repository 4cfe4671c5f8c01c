"""Tables of others are read whatever their encoding, or refused in a line that says why."""

import zipfile

import pandas as pd
import pytest

from covidxr import InputError, tables


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1"])
def test_csv_of_any_encoding_as_trimmed_text(tmp_path, encoding):
    path = tmp_path / "films.csv"
    path.write_bytes("place,age\n Hôpital ,60\n,\n".encode(encoding))
    table = tables.read_csv(path)
    assert table["place"].iloc[0] == "Hôpital" and table["age"].iloc[0] == "60"
    assert table.iloc[1].isna().all()


def test_csv_without_its_leading_comments(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text("## three readers\n## CC BY-SA\nfilename,extent\na.png,2\n")
    assert tables.read_csv(path).to_dict("list") == {"filename": ["a.png"], "extent": ["2"]}


def test_damaged_tables_are_named(tmp_path):
    path = tmp_path / "films.csv"
    path.write_bytes(b"")
    with pytest.raises(InputError, match="films.csv: cannot be read .*get the data set anew"):
        tables.read_csv(path)
    with pytest.raises(InputError, match="films.csv: no column age; found place: "):
        tables.need_columns(pd.DataFrame(columns=["place"]), ("place", "age"), path)


def test_workbook_that_unpacks_to_too_much(tmp_path, monkeypatch):
    path = tmp_path / "COVID.metadata.xlsx"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as book:
        book.writestr("sheet", bytes(10**7))
    monkeypatch.setattr(tables, "MAX_SHEET", 10**6)
    with pytest.raises(InputError, match="10 MB when unpacked, expected at most 1 MB"):
        tables.read_sheet(path)


@pytest.mark.parametrize("path", ["/etc/passwd", "../a.png", "images/../../a.png", "..\\a.png"])
def test_paths_that_leave_the_folder(path):
    assert tables.is_inside("images/a..b.png") and not tables.is_inside(path)
