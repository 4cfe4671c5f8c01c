"""Source probes, ablations and grouping, on images whose secret is known."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from covidxr import metrics, shift

CLASSES = ("Normal", "COVID")
SIZE = 64


@pytest.fixture
def films():
    """240 noise images of 64 px; class in the border's brightness, source in the centre's."""
    rng = np.random.default_rng(0)
    n = 240
    y, at_b = rng.integers(0, 2, n), rng.integers(0, 2, n)
    pixels = rng.integers(80, 160, (n, SIZE, SIZE))
    edge = shift.frame(SIZE)
    pixels += 40 * (y[:, None, None] & edge)
    pixels[:, 24:40, 24:40] += 40 * at_b[:, None, None]
    manifest = pd.DataFrame(
        {
            "label": pd.array(np.array(CLASSES)[y], dtype="string"),
            "source": pd.array(np.where(at_b, "B", "A"), dtype="string"),
            "group_id": np.arange(n) // 2,
            "split": np.where(np.arange(n) < 120, "train", "test"),
            "lung_mask_path": pd.array([pd.NA] * n, dtype="string"),
        }
    )
    return SimpleNamespace(
        manifest=manifest, pixels=pixels.astype(np.uint8), classes=CLASSES, targets=y, root=None
    )


def reads_border(pixels):
    """A "model" that looks at the border only."""
    bright = pixels[:, shift.frame(SIZE)].mean(axis=1)
    p = 1 / (1 + np.exp(-(bright - 140) / 5))
    return np.stack([1 - p, p], axis=1)


def value(table, name, metric="balanced_accuracy", target="class"):
    found = table["input"].eq(name) & table["metric"].eq(metric) & table["target"].eq(target)
    (row,) = table[found].to_dict("records")
    return row


def test_frame():
    mask = shift.frame(32)
    assert mask.sum() == 32**2 - 28**2 and mask[0, 16] and mask[1, 1] and not mask[2, 2]
    assert shift.frame(4).sum() == 12


def test_shrink_hides_what_is_not_kept():
    pixels = np.full((2, 64, 64), 200, np.uint8)
    hidden = shift.shrink(pixels, 16, ~shift.frame(64, 0.25)).reshape(2, 16, 16)
    assert hidden.dtype == np.uint8 and hidden[:, 0].max() == 0 and hidden[0, 8, 8] == 200


def test_score_equals_scikit_learn():
    rng = np.random.default_rng(1)
    y, p = rng.integers(0, 3, 90), rng.dirichlet(np.ones(3), 90)
    table = shift.score(y, p, ("a", "b", "c"), np.arange(90)).set_index("metric")
    assert table.loc["balanced_accuracy", "value"] == pytest.approx(
        balanced_accuracy_score(y, p.argmax(axis=1))
    )
    assert table.loc["macro_auroc", "value"] == pytest.approx(
        roc_auc_score(y, p, multi_class="ovr", average="macro")
    )
    assert table["chance"].tolist() == pytest.approx([np.bincount(y).max() / 90, 1 / 3, 0.5])
    assert (table["low"] < table["value"]).all() and (table["value"] < table["high"]).all()


def test_macro_auroc_of_one_class_is_na():
    p = np.full((30, 2), 0.5)
    table = metrics.macro_auroc(np.zeros(30, int), p, CLASSES)
    assert table["value"].isna().all() and table["reason"].iloc[0] == "no images of COVID"


def test_probes_find_what_was_planted(films):
    table = shift.probes(films)
    assert value(table, "border")["value"] > 0.95
    assert value(table, "border", "accuracy")["low"] > 0.8
    assert value(table, "border", target="source")["low"] < 0.5
    assert value(table, "thumbnail", target="source")["value"] > 0.95
    assert value(table, "border")["n"] == 120
    lost = value(table, "thumbnail, lungs blacked out")
    assert pd.isna(lost["value"]) and lost["reason"] == "no lung masks or boxes"


def test_probe_without_sources_is_na_with_its_reason(films):
    films.manifest["source"] = pd.array([pd.NA] * 240, dtype="string")
    row = value(shift.probes(films), "border", target="source")
    assert pd.isna(row["value"]) and row["reason"].startswith("0 to tell apart")
    films.manifest["source"] = "A"
    row = value(shift.probes(films), "border", target="source")
    assert pd.isna(row["value"]) and row["reason"].startswith("1 to tell apart")


def test_probe_leaves_small_sources_out_and_says_so(films):
    films.manifest.loc[:9, "source"] = "C"
    row = value(shift.probes(films), "thumbnail", target="source")
    assert row["value"] > 0.9 and "left out: C with fewer than 10 groups" in row["reason"]


def test_ablations_of_a_model_that_reads_the_border(films):
    table = shift.ablations(reads_border, films)
    assert value(table, "full image")["value"] > 0.95
    assert value(table, "border only")["value"] == value(table, "full image")["value"]
    assert value(table, "border only")["reason"].endswith(shift.UNTRAINED)
    assert value(table, "lungs only")["reason"] == "no lung masks or boxes"
    lungs = np.broadcast_to(~shift.frame(SIZE, 0.2), films.pixels.shape)
    known = np.arange(240) >= 140
    table = shift.ablations(reads_border, films, lungs, known)
    assert value(table, "lungs blacked out")["value"] > 0.95
    assert value(table, "lungs only")["value"] == 0.5
    assert set(table["n"]) == {100}


def test_lung_masks_from_files_and_boxes(tmp_path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (100, 200), np.uint8)).save(tmp_path / "film.png")
    mask = np.zeros((80, 80), np.uint8)
    mask[:, :40] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    box = {"left_x": 100, "left_y": 0, "left_width": 100, "left_height": 50}
    box |= {"right_x": 0, "right_y": 0, "right_width": 50, "right_height": 100}
    manifest = pd.DataFrame(
        {
            "image_path": ["film.png"] * 4,
            "lung_mask_path": ["mask.png", "absent.png", pd.NA, pd.NA],
            **{name: [pd.NA, pd.NA, size, pd.NA] for name, size in box.items()},
        }
    )
    lungs, known = shift.lung_masks(manifest, tmp_path, 32)
    assert known.tolist() == [True, False, True, False]
    assert lungs[0][:, :15].all() and not lungs[0][:, 17:].any()
    expected = np.zeros((32, 32), bool)
    expected[:16, 16:] = expected[:, :8] = True
    assert (lungs[2] == expected).all()
    assert not shift.lung_masks(manifest.iloc[:, :2][1:], tmp_path, 32)[1].any()


def test_a_leak_between_relatives_shows():
    """Films of a patient are alike and the label is arbitrary: only a twin can give it away."""
    rng = np.random.default_rng(0)
    patients = rng.integers(0, 256, (60, 16, 16))
    groups = np.repeat(np.arange(60), 3)
    pixels = np.clip(patients[groups] + rng.normal(0, 5, (180, 16, 16)), 0, 255).astype(np.uint8)
    table = shift.grouping(pixels, rng.integers(0, 2, 60)[groups], CLASSES, groups)
    table = table.set_index("input")
    assert table.loc["split at random", "value"] > 0.9
    assert table.loc["split by group", "value"] < 0.7
    assert table.loc["difference", "low"] > 0.2 and table.loc["difference", "n"] == 180


def test_grouping_without_relatives_is_na():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 16, 16)).astype(np.uint8)
    table = shift.grouping(pixels, np.arange(40) % 2, CLASSES, np.arange(40))
    assert table["value"].isna().all() and len(table) == 3
    assert table["reason"].str.contains("fewer than 10 groups").all()


def test_in_and_out(films):
    home = (films.manifest["source"] == "A").to_numpy()
    groups = films.manifest["group_id"]
    arguments = films.pixels, films.targets, CLASSES, groups
    table = shift.in_and_out(reads_border, *arguments, home)
    assert value(table, "in")["n"] == home.sum() and value(table, "out")["n"] == (~home).sum()
    table = shift.in_and_out(reads_border, *arguments, np.ones(240, bool))
    assert value(table, "in")["n"] == 240
    assert pd.isna(value(table, "out")["value"]) and "no film" in value(table, "out")["reason"]


def test_audit_has_both_parts(films):
    table = shift.audit(films, reads_border)
    assert set(table["part"]) == {"probe", "ablation"}
    assert (table["value"].notna() | table["reason"].notna()).all()
