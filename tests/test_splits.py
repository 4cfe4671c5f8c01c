"""Groups hold what belongs together, and no group crosses the split."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from covidxr import InputError, datasets, splits


def smooth_image(seed: int, size: int = 128) -> np.ndarray:
    """Random blobs under a shading that all share, as the bodies on radiographs do."""
    rng = np.random.default_rng(seed)
    blobs = gaussian_filter(rng.standard_normal((size, size)), size / 16)
    shade = np.cos(np.linspace(-1.5, 1.5, size))[:, None] * blobs.std()
    both = blobs + shade
    return np.uint8(20 + 200 * (both - both.min()) / np.ptp(both))


def manifest_of(labels, patients=None, groups=None, paths=None) -> pd.DataFrame:
    rows = {
        "image_path": paths or [f"{i}.png" for i in range(len(labels))],
        "label": labels,
        "patient_id": patients,
        "group_id": groups,
    }
    return datasets._manifest(pd.DataFrame(rows))


@pytest.fixture
def patients() -> pd.DataFrame:
    """About 1,200 images in the class shares of the release; a third of the patients come again."""
    rng = np.random.default_rng(1)
    labels = rng.choice(datasets.CLASSES, 800, p=[0.51, 0.31, 0.18])
    visits = np.where(rng.random(800) < 0.33, rng.integers(2, 6, 800), 1)
    ids = [f"P{i:04d}" for i in range(800)]
    return manifest_of(np.repeat(labels, visits), groups=np.repeat(ids, visits))


def test_thumbnails_are_normalised_and_rejected_files_are_nan(tmp_path):
    Image.fromarray(smooth_image(0)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"not an image")
    thumbs = splits.thumbnails([tmp_path / "a.png", tmp_path / "b.png"])
    assert thumbs.shape == (2, 1024) and thumbs.dtype == np.float32
    assert abs(thumbs[0].mean()) < 1e-6 and np.linalg.norm(thumbs[0]) == pytest.approx(1, abs=1e-5)
    assert np.isnan(thumbs[1]).all()


def test_copies_share_a_group_and_strangers_do_not(tmp_path):
    paths = []

    def save(image, name, **options):
        image.save(tmp_path / name, **options)
        paths.append(name)

    film = Image.fromarray(smooth_image(0))
    save(film, "film.png")
    save(Image.fromarray(np.uint8(np.asarray(film) * 0.7 + 60)), "brighter.png")
    save(film.resize((96, 96)), "smaller.png")
    save(film, "again.jpg", quality=50)
    marked = np.array(film)
    marked[4:8, 4:14] = 255
    save(Image.fromarray(marked), "marked.png")
    for seed in range(1, 40):
        save(Image.fromarray(smooth_image(seed)), f"stranger{seed}.png")
    for name in ("broken1.png", "broken2.png", "broken3.png"):
        (tmp_path / name).write_bytes(b"same" if name != "broken3.png" else b"other")
        paths.append(name)
    groups = splits.add_groups(manifest_of(["COVID"] * len(paths), paths=paths), tmp_path)
    found = dict(zip(paths, groups["group_id"], strict=True))
    assert {found[name] for name in paths[:5]} == {"dup-000000"}
    assert groups["group_id"].iloc[5:44].nunique() == 39
    assert found["broken1.png"] == found["broken2.png"] != found["broken3.png"]
    assert groups["group_id"].nunique() == 1 + 39 + 2


def test_groups_are_joined_through_a_third_image_and_across_blocks(monkeypatch):
    monkeypatch.setattr(splits, "BLOCK", 2)
    angles = np.deg2rad([0, 90, 10, 200, 20])  # neighbours of 10 degrees: cos 10 = 0.985
    thumbs = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert splits.near_duplicate_groups(thumbs).tolist() == [0, 1, 0, 2, 0]
    assert splits.near_duplicate_groups(thumbs, threshold=0.99).tolist() == [0, 1, 2, 3, 4]
    hashes = ["a", "b", "c", "b", "e"]
    assert splits.near_duplicate_groups(thumbs, hashes, 0.99).tolist() == [0, 1, 2, 1, 3]
    assert splits.near_duplicate_groups(np.empty((0, 4))).tolist() == []


def test_patient_where_known_else_image(tmp_path):
    for seed, name in enumerate(["a", "b", "c"]):
        Image.fromarray(smooth_image(seed)).save(tmp_path / f"{name}.png")
    (tmp_path / "copy.png").write_bytes((tmp_path / "a.png").read_bytes())
    manifest = manifest_of(
        ["COVID"] * 5,
        patients=["7", None, "7", None, None],
        paths=["never_opened.png", "a.png", "b.png", "copy.png", "c.png"],
    )
    groups = splits.add_groups(manifest, tmp_path)["group_id"].tolist()
    assert groups == ["7", "dup-000000", "7", "dup-000000", "dup-000001"]
    assert manifest["group_id"].isna().all()


def test_split_keeps_groups_whole_and_classes_in_proportion(patients):
    manifest = splits.assign_split(patients)
    assert splits.split_overlap(manifest) == 0
    shares = manifest["split"].value_counts(normalize=True)
    table = splits.split_table(manifest)
    assert table.columns.tolist() == ["train", "val", "test"]
    assert table.index.tolist() == list(datasets.CLASSES)
    assert table.to_numpy().sum() == len(manifest)
    whole = table.sum(axis=1) / len(manifest)
    for name, share in {"train": 0.6, "val": 0.2, "test": 0.2}.items():
        assert shares[name] == pytest.approx(share, abs=0.02)
        assert (table[name] / table[name].sum() - whole).abs().max() < 0.02


def test_split_follows_its_seed_alone(patients):
    first = splits.assign_split(patients, seed=3)["split"]
    assert first.equals(splits.assign_split(patients, seed=3)["split"])
    assert not first.equals(splits.assign_split(patients, seed=4)["split"])
    assert patients["split"].isna().all()
    backwards = splits.assign_split(patients[::-1], seed=3)["split"].sort_index()
    assert first.equals(backwards)


def test_split_is_the_same_on_every_version_of_the_libraries():
    groups = [f"g{i // 2}" for i in range(12)] + [f"h{i}" for i in range(8)]
    manifest = splits.assign_split(manifest_of(["Normal"] * 12 + ["COVID"] * 8, groups=groups), 3)
    assert "".join(name[1] for name in manifest["split"]) == "rrrraaeeaaeeaearreea"


def test_every_image_is_tested_once(patients):
    rounds = [splits.assign_split(patients, test_fold=fold)["split"] for fold in range(5)]
    assert (sum((s == "test").astype(int) for s in rounds) == 1).all()
    assert (sum((s == "val").astype(int) for s in rounds) == 1).all()
    assert all((rounds[i] == "val").equals(rounds[(i + 1) % 5] == "test") for i in range(5))


def test_few_images_still_reach_every_split():
    labels = ["Normal"] * 5 + ["COVID"] * 40
    manifest = manifest_of(labels, groups=[str(i) for i in range(45)])
    for seed in range(20):
        table = splits.split_table(splits.assign_split(manifest, seed=seed))
        assert table.loc["Normal"].tolist() == [3, 1, 1]


def test_overlap_counts_the_groups_that_leak():
    manifest = manifest_of(["COVID"] * 5, groups=["a", "a", "b", "b", "c"])
    manifest["split"] = pd.array(["train", "test", "val", "val", "test"], dtype="string")
    assert splits.split_overlap(manifest) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test_fold": 5}, "test_fold is 5, expected 0 to 4"),
        ({"test_fold": -1}, "test_fold is -1"),
        ({"n_folds": 2}, "n_folds is 2"),
        ({"n_folds": 7}, "class COVID has 6 patients or groups"),
    ],
)
def test_impossible_splits(options, message):
    groups = [str(i) for i in range(20)] + [f"c{i // 2}" for i in range(12)]
    manifest = manifest_of(["Normal"] * 20 + ["COVID"] * 12, groups=groups)
    with pytest.raises(InputError, match=message):
        splits.assign_split(manifest, **options)


def test_split_needs_groups():
    with pytest.raises(InputError, match="1 rows have no group_id"):
        splits.assign_split(manifest_of(["COVID"] * 2, groups=["a", None]))


def test_real_covid_class_has_near_duplicates(real_data):
    with pytest.warns(UserWarning):
        manifest, root = datasets.load("radiography", real_data)
    covid = manifest[manifest["label"] == "COVID"].iloc[::2]
    sizes = splits.add_groups(covid, root)["group_id"].value_counts()
    assert 0 < (sizes > 1).sum() < 100
    assert sizes.max() <= 7
