import dataclasses
import hashlib
import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import ndimage

from covidxr import CLASSES, InputError, phantom

SMALL = {"n_images": 28, "image_size": 96, "seed": 3, "progress": False}
COLUMNS = (
    "image_path label patient_id source view sex age_years study_day lung_fraction_right "
    "extent_right opacity_right lung_fraction_left extent_left opacity_left extent opacity "
    "pattern trajectory rotation_degrees marker lung_mask_path lesion_mask_path"
).split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return phantom.generate(tmp_path_factory.mktemp("phantom") / "set", workers=1, **SMALL)


@pytest.fixture(scope="module")
def table(folder):
    return pd.read_csv(folder / "metadata.csv")


def grey(folder, path):
    return np.asarray(Image.open(folder / path))


def digest(folder):
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    text = [(str(p.relative_to(folder)), hashlib.sha256(p.read_bytes()).hexdigest()) for p in files]
    assert len(text) == 3 * SMALL["n_images"] + 2
    return text


def two_lungs(mask):
    """The right lung (left in the image) and the left lung of a stored mask."""
    parts, count = ndimage.label(mask)
    assert count == 2
    first, second = ndimage.center_of_mass(mask, parts, [1, 2])
    return (parts == 1, parts == 2) if first[1] < second[1] else (parts == 2, parts == 1)


def test_same_seed_gives_same_bytes_whatever_the_workers(folder, tmp_path):
    (tmp_path / "again").mkdir()  # an empty folder may be there
    assert digest(phantom.generate(tmp_path / "again", workers=2, **SMALL)) == digest(folder)
    other = phantom.generate(tmp_path / "other", workers=1, **{**SMALL, "seed": 4})
    assert digest(other) != digest(folder)


def test_layout_and_truth_columns(folder, table):
    assert list(table.columns) == COLUMNS
    assert not table.isna().any().any()
    assert {p.name for p in folder.iterdir()} == {*CLASSES, "metadata.csv", "phantom.json"}
    for row in table.itertuples():
        kind, name = row.label, row.image_path.rsplit("/", 1)[1]
        assert row.image_path == f"{kind}/images/{name}"
        assert row.lung_mask_path == f"{kind}/masks/{name}"
        assert row.lesion_mask_path == f"{kind}/lesions/{name}"
        assert name.startswith(f"{kind}-")
    assert table["image_path"].is_unique
    assert set(table["source"]) == {"site A", "site B"}
    assert set(table["view"]) == {"PA", "AP"} and set(table["sex"]) == {"F", "M"}
    assert table["age_years"].between(20, 90).all()
    assert json.loads((folder / "phantom.json").read_text())["seed"] == 3


def test_masks_and_scores_agree(folder, table):
    for row in table.itertuples():
        image = grey(folder, row.image_path)
        assert image.shape == (96, 96) and image.dtype == np.uint8 and image.std() > 30
        lungs, lesion = grey(folder, row.lung_mask_path), grey(folder, row.lesion_mask_path)
        assert set(np.unique(lungs)) == {0, 255} and set(np.unique(lesion)) <= {0, 255}
        assert not (lesion[lungs == 0]).any()
        assert (lesion > 0).any() == (row.label != "Normal")
        fractions = [(lesion[lung] > 0).mean() for lung in two_lungs(lungs)]
        stored = (row.lung_fraction_right, row.lung_fraction_left)
        assert fractions == pytest.approx(stored, abs=1e-6)
        extents = [int(np.ceil(4 * f)) if f % 0.25 else int(4 * f) + (f > 0) for f in fractions]
        assert extents == [row.extent_right, row.extent_left]
        assert row.extent == sum(extents)
        assert row.opacity == row.opacity_right + row.opacity_left
        for extent, opacity in (
            (row.extent_right, row.opacity_right),
            (row.extent_left, row.opacity_left),
        ):
            assert (extent == 0) == (opacity == 0) and 0 <= opacity <= 3


def test_plan_has_the_shares_of_the_release():
    patients = phantom.plan(1200, seed=0)
    films = pd.Series({c: 0 for c in CLASSES})
    for patient in patients:
        films[patient.label] += len(patient.days)
        assert list(patient.days) == sorted(set(patient.days)) and patient.days[0] == 0
        assert len(patient.days) <= 6
    assert films.to_dict() == {"Normal": 617, "Lung_Opacity": 364, "COVID": 219}
    assert 760 <= len(patients) <= 840
    assert 0.10 < np.mean([len(p.days) >= 3 for p in patients]) < 0.18
    sites = pd.crosstab([p.label for p in patients], [p.site for p in patients], normalize="index")
    assert np.ptp(sites["site A"]) < 0.2
    order = pd.Series([p.label for p in patients])
    assert (order == order.shift()).mean() < 0.5  # patient numbers do not tell the class


def test_a_patient_has_one_class_and_rising_days(table):
    patients = table.groupby("patient_id", sort=False)
    assert (patients["label"].nunique() == 1).all()
    assert (patients["source"].nunique() == 1).all()
    assert (patients["study_day"].diff().dropna() > 0).all()


def test_disease_follows_its_course():
    base = phantom.Patient(1, 0, "COVID", "site A", "M", 60, (0, 5, 10), "worse")
    for trajectory, sign in (("worse", 1), ("better", -1)):
        share = np.zeros(3)
        for index in range(6):
            patient = dataclasses.replace(base, index=index, trajectory=trajectory)
            for visit in range(3):
                film = phantom.render(patient, visit, 96)
                share[visit] += film.lesion.sum() / (film.lungs["right"] | film.lungs["left"]).sum()
        assert (sign * np.diff(share) > 0).all()


def test_difficulty_makes_lesions_fainter():
    patient = phantom.Patient(1, 0, "COVID", "site A", "M", 60, (0,), "stable")
    added = [phantom.render(patient, 0, 96, d).paths["lesion"].sum() for d in (0.5, 1, 2, 4)]
    assert (np.diff(added) < 0).all()


@pytest.mark.parametrize("sex", ["F", "M"])
def test_a_normal_film_looks_like_a_chest(sex):
    for index in range(4):
        film = phantom.render(
            phantom.Patient(5, index, "Normal", "site A", sex, 50, (0,), "stable")
        )
        image, (right, left) = film.image.astype(float), film.lungs.values()
        rows, columns = np.nonzero(right | left)
        lower = slice(int(np.percentile(rows, 55)), int(np.percentile(rows, 85)))
        middle = film.paths["bone"][150:200].sum(0)[90:134].argmax() + 90  # the spine
        beside = slice(14, 45)  # pixels from the spine: heart on one side, lung on the other
        towards_left = image[lower, middle:][:, beside].mean()
        towards_right = image[lower, :middle][:, ::-1][:, beside].mean()
        assert towards_left > towards_right + 10
        assert right.sum() > left.sum()  # the heart takes its room from the left lung
        assert np.nonzero(right)[1].max() < np.nonzero(left)[1].max()
        assert image[right | left].mean() + 40 < image[lower, middle - 4 : middle + 4].mean()
        assert not film.lesion.any() and film.truth["extent"] == 0


def test_findings_differ_by_class():
    both = {}
    for label in ("Lung_Opacity", "COVID"):
        patients = [p for p in phantom.plan(1200, seed=0) if p.label == label][:30]
        truth = [phantom.render(p, 0, 64).truth for p in patients]
        both[label] = np.mean([t["extent_right"] > 0 and t["extent_left"] > 0 for t in truth])
    assert 0 < both["Lung_Opacity"] < 0.35 and 0.65 < both["COVID"] < 1


def test_failed_run_leaves_nothing(tmp_path, monkeypatch):
    real, calls = phantom._save, []

    def full_disk(array, path):
        calls.append(path)
        if len(calls) == 30:
            raise OSError("disk full")
        real(array, path)

    monkeypatch.setattr(phantom, "_save", full_disk)
    with pytest.raises(InputError, match=r"set: cannot be made \(disk full\)"):
        phantom.generate(tmp_path / "set", workers=1, **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "data").write_text("in the way")
    with pytest.raises(InputError, match="data: cannot be made"):
        phantom.generate(tmp_path / "data" / "phantom", **SMALL)


def test_existing_folders(folder, tmp_path):
    before = (folder / "metadata.csv").stat().st_mtime_ns
    assert phantom.generate(folder, workers=1, **SMALL) == folder
    assert (folder / "metadata.csv").stat().st_mtime_ns == before
    with pytest.raises(InputError, match="another folder"):
        phantom.generate(folder, **{**SMALL, "seed": 9})
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="not a phantom set"):
        phantom.generate(tmp_path, **SMALL)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_a_set_that_lost_an_image_is_refused(tmp_path):
    folder = phantom.generate(tmp_path / "set", 20, 64, progress=False, workers=1)
    (folder / "COVID" / "images" / "COVID-1.png").unlink()
    with pytest.raises(InputError, match="lacks 1 of its images"):
        phantom.generate(folder, 20, 64, progress=False)


@pytest.mark.parametrize(
    "wrong", [{"n_images": 19}, {"image_size": 63}, {"difficulty": 0}, {"seed": -1}]
)
def test_wrong_arguments(wrong, tmp_path):
    with pytest.raises(InputError, match=next(iter(wrong))):
        phantom.generate(tmp_path / "set", **wrong)
    assert list(tmp_path.iterdir()) == []
