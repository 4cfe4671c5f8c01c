"""Every source becomes the same table; what is left out is said; failures say what to do."""

import io
import sys
import types
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from covidxr import InputError, datasets, phantom
from covidxr.datasets import MANIFEST_COLUMNS, MANIFEST_DTYPES, SOURCES, load
from covidxr.download import download


@pytest.fixture(autouse=True)
def data_root(tmp_path, monkeypatch):
    """An empty data root, so that no test sees the data of the machine."""
    root = tmp_path / "root"
    monkeypatch.setenv("COVIDXR_DATA", str(root))
    return root


EMPTY_ZIP = b"PK\5\6" + bytes(18)


def fill(folder: Path, names) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"pixels")


def release(root: Path, counts: dict[str, int], images="images", masks=True) -> Path:
    """A tree of empty stand-ins in the layout of the radiography release."""
    for label, n in counts.items():
        names = [f"{label}-{i + 1}.png" for i in range(n)]
        fill(root / label / images, names)
        if masks:
            fill(root / label / "masks", names)
    return root


def set_counts(monkeypatch, **counts) -> None:
    """Pretend that the release is as small as the stand-ins."""
    source = SOURCES["radiography"]
    counts = {name.replace("_Pneumonia", " Pneumonia"): n for name, n in counts.items()}
    small = datasets.Source(**{**vars(source), "counts": counts})
    monkeypatch.setitem(SOURCES, "radiography", small)


def check_types(manifest: pd.DataFrame) -> None:
    assert tuple(manifest.columns[: len(MANIFEST_COLUMNS)]) == MANIFEST_COLUMNS
    assert {c: str(manifest[c].dtype) for c in MANIFEST_COLUMNS} == MANIFEST_DTYPES


# radiography


def test_radiography_release_layout_with_masks(tmp_path, monkeypatch, recwarn):
    set_counts(monkeypatch, Normal=7, Lung_Opacity=6, COVID=5, Viral_Pneumonia=5)
    root = release(tmp_path / "db", {"COVID": 5, "Normal": 7, "Lung_Opacity": 6})
    manifest, found = load("radiography", root)
    check_types(manifest)
    assert found == root and not recwarn
    assert datasets.class_counts(manifest).to_dict() == {"Normal": 7, "Lung_Opacity": 6, "COVID": 5}
    row = manifest[manifest["image_path"] == "COVID/images/COVID-2.png"].iloc[0]
    assert row["lung_mask_path"] == "COVID/masks/COVID-2.png"
    unknown = ["patient_id", "source", "view", "sex", "age_years", "extent", "icu", "split"]
    assert manifest[unknown].isna().all().all()


def test_radiography_older_layout_and_names(tmp_path, monkeypatch):
    set_counts(monkeypatch, Normal=5, Lung_Opacity=0, COVID=6, Viral_Pneumonia=5)
    root = release(tmp_path / "db", {"COVID-19": 6, "NORMAL": 5}, images="", masks=False)
    manifest, _ = load("radiography", root)
    assert datasets.class_counts(manifest).to_dict() == {"Normal": 5, "COVID": 6}
    assert manifest["image_path"].str.startswith(("COVID-19/COVID-19-", "NORMAL/")).all()
    assert manifest["lung_mask_path"].isna().all()


def test_radiography_in_parent_folder_and_data_root(tmp_path, data_root):
    root = release(data_root / "COVID-19_Radiography_Dataset", {"COVID": 5, "Normal": 5})
    with pytest.warns(UserWarning):
        assert load("radiography", data_root)[1] == root
    with pytest.warns(UserWarning):
        assert load("radiography")[1] == root


def test_radiography_says_how_counts_differ_in_one_line(tmp_path):
    root = release(tmp_path / "db", {"COVID": 5, "Normal": 6, "Lung Opacity": 5})
    with pytest.warns(UserWarning) as caught:
        load("radiography", root)
    (message,) = [str(w.message) for w in caught]
    assert "\n" not in message
    assert "Normal 6 of 10,192, Lung_Opacity 5 of 6,012, COVID 5 of 3,616" in message


def test_radiography_viral_pneumonia_is_left_out_unless_asked(tmp_path, monkeypatch, recwarn):
    set_counts(monkeypatch, Normal=5, COVID=5, Viral_Pneumonia=8)
    root = release(tmp_path / "db", {"COVID": 5, "Normal": 5, "Viral Pneumonia": 8})
    with pytest.warns(UserWarning, match="8 Viral Pneumonia .* left out"):
        manifest, _ = load("radiography", root)
    assert datasets.classes_of(manifest) == ("Normal", "COVID")
    manifest, _ = load("radiography", root, viral_pneumonia=True)
    assert datasets.classes_of(manifest) == ("Normal", "COVID", "Viral Pneumonia")
    assert len(manifest) == 18 and not recwarn
    with pytest.raises(InputError, match="viral_pneumonia"):
        load("folder", root, viral_pneumonia=True)


def test_radiography_sources_from_metadata_sheets(tmp_path, monkeypatch):
    set_counts(monkeypatch, Normal=5, COVID=5)
    root = release(tmp_path / "db", {"COVID": 5, "Normal": 5})
    sheets = {
        "COVID": ["https://sirm.org/x"] * 4 + ["https://new.example"],
        "Normal": ["https://www.kaggle.com/c/rsna-pneumonia-detection-challenge/data"] * 3
        + ["https://www.kaggle.com/paultimothymooney/chest-xray-pneumonia"],
    }
    for label in sheets:
        (root / f"{label}.metadata.xlsx").write_bytes(EMPTY_ZIP)

    def read_excel(path, dtype):
        label = path.name.split(".")[0]
        names = [f"{label.upper()}-{i + 1}" for i in range(len(sheets[label]))]
        return pd.DataFrame({"FILE NAME": names, "URL": sheets[label]}, dtype=dtype)

    monkeypatch.setattr(pd, "read_excel", read_excel)
    with pytest.warns(UserWarning, match="1 images without a source"):
        manifest, _ = load("radiography", root)
    check_types(manifest)
    counts = manifest.groupby("source").size().to_dict()
    assert counts == {"SIRM": 4, "https://new.example": 1, "RSNA": 3, "Kaggle paediatric": 1}
    assert datasets.summary(manifest).loc["unknown"].to_dict() == {"Normal": 1, "COVID": 0}


def test_radiography_says_that_openpyxl_is_missing(tmp_path, monkeypatch):
    set_counts(monkeypatch, Normal=5, COVID=5)
    root = release(tmp_path / "db", {"COVID": 5, "Normal": 5})
    (root / "COVID.metadata.xlsx").write_bytes(EMPTY_ZIP)

    def read_excel(path, dtype):
        raise ImportError("Missing optional dependency 'openpyxl'")

    monkeypatch.setattr(pd, "read_excel", read_excel)
    with pytest.warns(UserWarning, match="pip install openpyxl"):
        manifest, _ = load("radiography", root)
    assert manifest["source"].isna().all()


def test_real_radiography(real_data):
    with pytest.warns(UserWarning, match="differ from the release"):
        manifest, root = load("radiography", real_data)
    counts = datasets.class_counts(manifest).to_dict()
    assert counts == {"Normal": 2500, "Lung_Opacity": 400, "COVID": 2000}
    assert all((root / path).is_file() for path in manifest["image_path"].iloc[::100])


# phantom


def test_phantom_is_made_once_where_absent(data_root, monkeypatch, capsys):
    calls = []

    def generate(folder):
        calls.append(folder)
        release(folder, {"COVID": 5, "Normal": 5})
        pd.DataFrame(
            {
                "image_path": [f"{c}/images/{c}-{i}.png" for c in ("COVID", "Normal")
                               for i in range(1, 6)],
                "label": ["COVID"] * 5 + ["Normal"] * 5,
                "patient_id": [f"P{i:03d}" for i in range(10)],
                "age_years": 50,
                "extent_left": 1.5,
            }
        ).to_csv(folder / "metadata.csv", index=False)  # fmt: skip
        return folder

    monkeypatch.setattr(phantom, "generate", generate)
    manifest, root = load("phantom")
    load("phantom")
    assert calls == [data_root / "phantom"] == [root]
    assert capsys.readouterr().err.count("phantom: making the default synthetic set") == 1
    check_types(manifest)
    assert manifest["patient_id"].iloc[0] == "P000" and manifest["extent_left"].iloc[0] == 1.5
    assert set(manifest["licence"]) == {"MIT (synthetic)"} and manifest["icu"].isna().all()


def test_phantom_of_the_package_is_read(tmp_path, recwarn):
    folder = tmp_path / "phantom"
    phantom.generate(folder, n_images=40, image_size=64, progress=False)
    manifest, root = load("phantom", folder)
    check_types(manifest)
    assert len(manifest) == 40 and not recwarn
    assert datasets.classes_of(manifest) == ("Normal", "Lung_Opacity", "COVID")
    columns = ["image_path", "lung_mask_path", "lesion_mask_path"]
    paths = manifest[columns].stack().dropna()
    assert len(paths) > 40 and all((root / path).is_file() for path in paths)
    assert manifest[["patient_id", "source", "view", "age_years"]].notna().all().all()


def test_phantom_folder_with_something_else(tmp_path):
    fill(tmp_path / "phantom", ["notes.txt"])
    with pytest.raises(InputError, match="no metadata.csv"):
        load("phantom", tmp_path / "phantom")


# folder


def test_folder_takes_any_tree(tmp_path):
    root = tmp_path / "mine"
    fill(root / "sick" / "images" / "ward", [f"{i}.PNG" for i in range(5)])
    fill(root / "sick" / "masks" / "ward", ["0.PNG"])
    fill(root / "sick" / "lesions", ["9.png"])
    fill(root / "healthy", ["a.jpg", "b.jpeg", "c.tif", "d.webp", "e.dcm", "f.txt", "._a.jpg"])
    fill(root / ".cache", ["x.png"])
    manifest, found = load("folder", root)
    check_types(manifest)
    assert found == root and datasets.classes_of(manifest) == ("healthy", "sick")
    healthy = manifest[manifest["label"] == "healthy"]["image_path"].tolist()
    assert healthy == [f"healthy/{n}" for n in ("a.jpg", "b.jpeg", "c.tif", "d.webp", "e.dcm")]
    sick = manifest[manifest["label"] == "sick"].iloc[0]
    assert sick["image_path"] == "sick/images/ward/0.PNG"
    assert sick["lung_mask_path"] == "sick/masks/ward/0.PNG"
    assert manifest["lesion_mask_path"].isna().all()


def test_folder_keeps_the_order_of_the_course_classes(tmp_path):
    root = release(tmp_path / "mine", {"COVID": 5, "Lung_Opacity": 5, "Normal": 5})
    manifest, _ = load("folder", root)
    assert datasets.classes_of(manifest) == ("Normal", "Lung_Opacity", "COVID")


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"a": 9}, "expected at least two"),
        ({}, "expected at least two"),
        ({"a": 9, "b": 4}, "b has 4 images, expected at least 5"),
        ({"a": 9, "b": 0}, "no images in .*b"),
        ({"train": 9, "test": 9}, "are splits"),
    ],
)
def test_folder_that_cannot_be_classified(tmp_path, counts, message):
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputError, match=message) as error:
        load("folder", release(tmp_path / "mine", counts))
    assert "\n" not in str(error.value)


def test_folder_needs_a_folder(tmp_path):
    with pytest.raises(InputError, match="--data-dir"):
        load("folder")
    with pytest.raises(InputError, match="is not a folder"):
        load("folder", tmp_path / "absent")


# errors and download


def test_unknown_name_lists_the_names():
    with pytest.raises(InputError, match="choose one of phantom, radiography, cohen, folder"):
        load("kaggle")
    with pytest.raises(InputError, match="choose one of"):
        download("kaggle")


@pytest.mark.parametrize("name", ["radiography", "cohen"])
def test_missing_folder_names_place_layout_and_command(tmp_path, data_root, name):
    for folder, looked in ((tmp_path / "nowhere", tmp_path / "nowhere"), (None, data_root)):
        with pytest.raises(InputError) as error:
            load(name, folder)
        text = str(error.value)
        assert str(looked) in text and "expected" in text and "\n" not in text
        assert f"python -m covidxr data download {name}" in text
    assert not data_root.exists()


def fake_kagglehub(monkeypatch, result):
    def dataset_download(handle):
        assert handle == "tawsifurrahman/covid19-radiography-database"
        if isinstance(result, Exception):
            raise result
        return str(result)

    module = types.SimpleNamespace(dataset_download=dataset_download)
    monkeypatch.setitem(sys.modules, "kagglehub", module)


def test_download_radiography_is_found_afterwards(tmp_path, data_root, monkeypatch):
    set_counts(monkeypatch, Normal=6, COVID=5)
    cache = tmp_path / "cache" / "versions" / "5"
    root = release(cache / "COVID-19_Radiography_Dataset", {"COVID": 5, "Normal": 6})
    fake_kagglehub(monkeypatch, cache)
    assert download("radiography") == cache
    manifest, found = load("radiography")
    assert found == root and len(manifest) == 11


def test_download_radiography_incomplete(tmp_path, data_root, monkeypatch):
    set_counts(monkeypatch, Normal=6, COVID=6)
    release(tmp_path / "cache", {"COVID": 5, "Normal": 6})
    fake_kagglehub(monkeypatch, tmp_path / "cache")
    with pytest.raises(InputError, match="incomplete.*COVID 5 of 6"):
        download("radiography")
    assert not (data_root / "radiography.txt").exists()


def test_download_radiography_offline_or_without_kagglehub(data_root, monkeypatch):
    fake_kagglehub(monkeypatch, ConnectionError("no route\nto host"))
    with pytest.raises(InputError, match="no route to host") as error:
        download("radiography")
    assert SOURCES["radiography"].url in str(error.value) and str(data_root) in str(error.value)
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    with pytest.raises(InputError, match="pip install kagglehub"):
        download("radiography")


class FakeResponse(io.BytesIO):
    headers = {}


def packed(names) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name in names:
            archive.writestr(name, "content")
    return data.getvalue()


def serve(monkeypatch, data):
    def urlopen(url, timeout):
        assert url == SOURCES["cohen"].download
        if isinstance(data, Exception):
            raise data
        return FakeResponse(data)

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)


def test_download_cohen(data_root, monkeypatch):
    top = "covid-chestxray-dataset-master"
    serve(monkeypatch, packed([f"{top}/metadata.csv", f"{top}/images/a.png"]))
    target = download("cohen")
    assert target == data_root / "covid-chestxray-dataset"
    assert (target / "images" / "a.png").read_text() == "content"
    assert list(data_root.iterdir()) == [target]
    serve(monkeypatch, AssertionError("fetched again"))
    assert download("cohen") == target


@pytest.mark.parametrize(
    "data",
    [
        urllib.error.URLError("offline"),
        packed(["top/metadata.csv", "top/images/a.png"])[:60],
        packed(["top/readme.md"]),
        packed(["one/metadata.csv", "two/images/a.png"]),
    ],
    ids=["offline", "truncated", "wrong content", "two folders"],
)
def test_download_cohen_all_or_nothing(data_root, monkeypatch, data):
    serve(monkeypatch, data)
    with pytest.raises(InputError, match="by hand") as error:
        download("cohen")
    assert SOURCES["cohen"].download in str(error.value) and "\n" not in str(error.value)
    assert str(data_root / "covid-chestxray-dataset") in str(error.value)
    assert list(data_root.iterdir()) == []


def test_download_folder_is_refused():
    with pytest.raises(InputError, match="nothing to download"):
        download("folder")
