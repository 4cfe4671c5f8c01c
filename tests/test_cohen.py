"""The films of the COVID-19 Image Data Collection, their scores and boxes; what is left out."""

import warnings
from pathlib import Path

import pandas as pd
import pytest

from covidxr import InputError, cohen, datasets
from covidxr.datasets import MANIFEST_COLUMNS, MANIFEST_DTYPES, load

METADATA_COLUMNS = (
    "patientid,offset,sex,age,finding,went_icu,view,modality,location,filename,license,notes"
)


def collection(root: Path, rows: list[str], files=(), scores="") -> Path:
    (root / "images").mkdir(parents=True)
    for name in files:
        (root / "images" / name).write_bytes(b"pixels")
    text = "\n".join([METADATA_COLUMNS, *rows]) + "\n"
    (root / "metadata.csv").write_text(text)
    if scores:
        (root / "annotations").mkdir()
        (root / "annotations" / "covid-severity-scores.csv").write_text(scores)
    return root


def good_rows(n=6) -> tuple[list[str], list[str]]:
    """Rows and files of two classes of n frontal X-rays each."""
    rows, files = [], []
    for i in range(n):
        rows.append(f"{i},0,M,60,COVID-19,Y,PA,X-ray,Padova,c{i}.png,CC BY 4.0,")
        rows.append(f"{i + n},?,F,,No Finding,N,AP Supine,X-ray,,n{i}.jpg,,")
        files += [f"c{i}.png", f"n{i}.jpg"]
    return rows, files


def test_columns_and_types(tmp_path, recwarn):
    rows, files = good_rows()
    scores = "## three readers\n## CC BY-SA\nfilename,geographic_mean,opacity_mean\nc1.png,2.7,2\n"
    manifest, root = load("cohen", collection(tmp_path / "c", rows, files, scores=scores))
    assert tuple(manifest.columns[: len(MANIFEST_COLUMNS)]) == MANIFEST_COLUMNS
    assert {c: str(manifest[c].dtype) for c in MANIFEST_COLUMNS} == MANIFEST_DTYPES
    assert not recwarn
    covid = manifest[manifest["image_path"] == "images/c1.png"].iloc[0]
    assert covid[["label", "patient_id", "source", "view", "sex"]].tolist() == [
        *("COVID", "1", "Padova", "PA", "M")
    ]
    assert (covid["age_years"], covid["study_day"], covid["icu"]) == (60, 0, True)
    assert (covid["extent"], covid["opacity"], covid["licence"]) == (2.7, 2, "CC BY 4.0")
    normal = manifest[manifest["label"] == "Normal"].iloc[0]
    unknown = ["source", "age_years", "study_day", "extent", "licence", "extent_covidnet"]
    assert normal[unknown].isna().all() and normal["icu"] == False  # noqa: E712
    assert manifest["extent"].notna().sum() == 1


def test_counts_every_row_that_it_leaves_out(tmp_path):
    rows, files = good_rows()
    rows += [
        "90,0,M,60,COVID-19,Y,Axial,CT,,ct.png,,",
        "91,0,M,60,COVID-19,Y,L,X-ray,,lateral.png,,",
        "92,0,M,60,COVID-19,Y,,X-ray,,noview.png,,",
        "93,0,M,60,todo,Y,PA,X-ray,,todo.png,,",
        "94,0,M,60,COVID-19,Y,PA,X-ray,,absent.png,,",
        "95,9,M,60,COVID-19,Y,PA,X-ray,,c0.png,,",
    ]
    files += ["ct.png", "lateral.png", "noview.png", "todo.png"]
    root = collection(tmp_path / "c", rows, files)
    with pytest.warns(UserWarning) as caught:
        manifest, _ = load("cohen", root)
    (message,) = [str(w.message) for w in caught]
    assert message.startswith(
        "cohen: 12 of 18 rows kept; left out 1 not X-ray, 2 not frontal, "
        "1 without a usable finding, 1 without a file, 1 of a repeated file name"
    )
    assert "no severity scores" in message
    first = manifest[manifest["image_path"] == "images/c0.png"]
    assert first["patient_id"].tolist() == ["0"]


@pytest.mark.parametrize(
    ("finding", "label"),
    [
        ("COVID-19", "COVID"),
        ("COVID-19, ARDS", "COVID"),
        ("Pneumonia/Viral/COVID-19", "COVID"),
        ("Pneumonia/Viral/SARS", "Lung_Opacity"),
        ("Tuberculosis", "Lung_Opacity"),
        ("No Finding", "Normal"),
        ("todo", None),
        ("Unknown", None),
    ],
)
def test_findings(finding, label):
    found = cohen._finding_class(finding)
    assert pd.isna(found) if label is None else found == label


def test_covidnet_scores_and_boxes(tmp_path):
    rows, files = good_rows()
    scores = "filename,geographic_mean,opacity_mean\nc1.png,2.7,2\ngone.png,1,1\n"
    root = collection(tmp_path / "c", rows, files, scores=scores)
    (root / "annotations" / "severity_annotations.csv").write_text(
        "filename,Geographic,Opacity,dataset\nc1.png,4,3.5,cohen\nc2.png,8,8,actmed\n"
    )
    (root / "annotations" / "lung-bounding-boxes.csv").write_text(
        "filename,lung,x,y,width,height\nc1.png,left,1.5,2,30,40\n"
    )
    with pytest.warns(UserWarning, match="1 of 2 severity scores have no image"):
        manifest, _ = load("cohen", tmp_path / "c")
    scored = manifest.dropna(subset=["extent_covidnet"])
    assert scored["image_path"].tolist() == ["images/c1.png"]
    assert scored[["extent_covidnet", "opacity_covidnet"]].iloc[0].tolist() == [4, 3.5]
    boxed = manifest.dropna(subset=["left_x"])
    assert boxed["image_path"].tolist() == ["images/c1.png"]
    assert boxed[[f"left_{n}" for n in cohen.BOX]].iloc[0].tolist() == [1.5, 2, 30, 40]
    assert manifest["right_x"].isna().all()
    box = cohen.lung_boxes(root).iloc[0]
    assert box.tolist() == ["c1.png", "left", 1.5, 2, 30, 40]
    with pytest.raises(InputError, match="lung-bounding-boxes.csv not found"):
        cohen.lung_boxes(tmp_path)


def test_without_a_needed_column(tmp_path):
    root = collection(tmp_path / "c", [])
    (root / "metadata.csv").write_text("filename,finding\na.png,COVID-19\n")
    with pytest.raises(InputError, match="no column patientid, offset"):
        load("cohen", root)


def test_real_cohen(real_data):
    with pytest.warns(UserWarning, match="520 of 758 rows kept"):
        manifest, root = load("cohen", real_data)
    counts = datasets.class_counts(manifest).to_dict()
    assert counts == {"Normal": 13, "Lung_Opacity": 84, "COVID": 423}
    assert manifest["extent"].notna().sum() == 94
    assert manifest["extent"].max() <= 8 and manifest["opacity"].max() <= 6
    assert manifest["patient_id"].notna().all()
    assert cohen.lung_boxes(root)["filename"].nunique() == 609
    assert manifest["left_x"].notna().sum() + manifest["right_x"].notna().sum() > 1000


def test_reading_leaves_the_folder_as_it_was(tmp_path):
    rows, files = good_rows()
    root = collection(tmp_path / "c", rows, files)
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        load("cohen", root)
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*")} == before
