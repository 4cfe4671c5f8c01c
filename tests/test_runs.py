"""A run folder: what training writes, when the test split opens, what comes back for each file."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import accuracy_score, roc_auc_score

from covidxr import CLASSES, InputError, calibration, evaluation, runs, splits
from covidxr.models import load_checkpoint, save_checkpoint
from covidxr.training import Compute, TrainConfig

pytestmark = [
    pytest.mark.usefixtures("one_thread", "elsewhere"),
    pytest.mark.filterwarnings("ignore:no temperature"),  # a few random images cannot be calibrated
]

TRAINED = "config.json history.csv manifest.csv model.safetensors predictions_val.csv".split()
FIGURES = tuple("abstention confusion_matrix net_benefit precision_recall reliability roc".split())
COLUMNS = [
    *("image_path", "patient_id", "label", "p_Normal", "p_Lung_Opacity", "p_COVID"),
    *("predicted", "extent", "extent_sd", "extent_right", "extent_left", "opacity", "opacity_sd"),
    *("status", "reason"),
]
FOLDER = {"image_size": 32, "epochs": 1, "folds": 3}


@pytest.fixture
def run(tiny_run, tmp_path):
    """A copy of the tiny run, to write into."""
    return shutil.copytree(tiny_run, tmp_path / "copy")


@pytest.fixture(scope="module")
def evaluated(tiny_run, tmp_path_factory):
    """A copy of the tiny run whose test split has been opened, and its metrics."""
    folder = shutil.copytree(tiny_run, tmp_path_factory.mktemp("evaluated") / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder.parent)
        return folder, evaluation.evaluate(folder)


def change_checkpoint(run, **changes) -> None:
    model, metadata = load_checkpoint(run / "model.safetensors")
    save_checkpoint(run / "model.safetensors", model, metadata | changes)


def check_table(table: pd.DataFrame, rows: pd.DataFrame) -> None:
    """The contract of a predictions table of images that were all read."""
    assert list(table) == COLUMNS
    assert table["image_path"].tolist() == rows["image_path"].tolist()
    assert table["label"].tolist() == rows["label"].tolist()
    assert table["patient_id"].tolist() == rows["patient_id"].tolist()
    probabilities = table[COLUMNS[3:6]].to_numpy(float)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-9)
    assert table["predicted"].tolist() == [CLASSES[k] for k in probabilities.argmax(axis=1)]
    assert set(table["status"]) == {"ok"}
    assert table["extent"].between(0, 8).all() and table["opacity"].between(0, 6).all()
    sides = table["extent_right"] + table["extent_left"]
    np.testing.assert_allclose(sides.to_numpy(float), table["extent"].to_numpy(float), atol=1e-5)
    assert (table[["extent_sd", "opacity_sd"]] > 0).all(axis=None) and table["reason"].isna().all()


def test_train_writes_a_run_and_leaves_the_test_split_closed(tiny_run, tiny_config, listing):
    assert listing(tiny_run) == TRAINED
    config, manifest = runs.read_run(tiny_run)
    assert config == tiny_config and len(manifest) == 60
    assert len(pd.read_csv(tiny_run / "history.csv")) == 1
    check_table(
        runs.read_csv(tiny_run / "predictions_val.csv"), manifest[manifest["split"] == "val"]
    )


def test_groups_never_cross_splits(tiny_run):
    manifest = runs.read_run(tiny_run)[1]
    assert splits.split_overlap(manifest) == 0
    assert (manifest.groupby("patient_id")["split"].nunique() == 1).all()
    assert set(manifest["split"]) == {"train", "val", "test"}
    assert manifest["patient_id"].nunique() < len(manifest)  # some patients have several films


def test_checkpoint_carries_its_metadata(tiny_run, tiny_config):
    _, metadata = load_checkpoint(tiny_run / "model.safetensors")
    assert tuple(metadata["classes"]) == CLASSES and metadata["image_size"] == 64
    assert metadata["weights"] == "phantom" and metadata["dataset"] == "phantom"
    assert metadata["temperature"] > 0 and "torch" in metadata["versions"]
    val = runs.read_csv(tiny_run / "predictions_val.csv")
    covid = val.loc[val["label"] == "COVID", "p_COVID"]
    assert (covid >= metadata["threshold"]).mean() >= 0.95
    manifest = runs.read_run(tiny_run)[1]
    assert metadata["dataset_fingerprint"] == runs.fingerprint(manifest)
    assert runs.fingerprint(manifest.assign(label="COVID")) != metadata["dataset_fingerprint"]


def test_a_finished_run_is_never_overwritten(run, tiny_config):
    before = (run / "model.safetensors").read_bytes()
    with pytest.raises(InputError, match="holds a finished run"):
        runs.train(tiny_config, run)
    assert (run / "model.safetensors").read_bytes() == before


def test_the_same_seed_gives_the_same_bytes(tiny_run, tiny_config, evaluated, tmp_path):
    again = runs.train(tiny_config, tmp_path / "again")
    runs.predict_test(again)
    for name in ("predictions_val.csv", "history.csv", "manifest.csv", "model.safetensors"):
        assert (again / name).read_bytes() == (tiny_run / name).read_bytes(), name
    name = "predictions_test.csv"
    assert (again / name).read_bytes() == (evaluated[0] / name).read_bytes()


def test_evaluate_agrees_with_a_recomputation(evaluated, listing):
    folder, result = evaluated
    figures = [f"figures/{name}.png" for name in FIGURES]
    made = [name for name in listing(folder) if name not in TRAINED and name != "figures"]
    assert sorted(made) == sorted(["metrics.json", "predictions_test.csv", *figures])
    manifest = runs.read_run(folder)[1]
    test = manifest[manifest["split"] == "test"]
    table = runs.read_csv(folder / "predictions_test.csv")
    check_table(table, test)
    stored = json.loads((folder / "metrics.json").read_text())
    assert stored == json.loads(json.dumps(result))
    metrics = pd.DataFrame(stored["metrics"]).set_index(["metric", "class"])["value"]
    by_name = {(m, c): value for (m, c), value in metrics.items()}
    accuracy = next(v for (m, _), v in by_name.items() if m == "accuracy")
    assert accuracy == pytest.approx(accuracy_score(table["label"], table["predicted"]))
    assert by_name["auroc", "COVID"] == pytest.approx(
        roc_auc_score(table["label"] == "COVID", table["p_COVID"])
    )
    assert stored["n"] == manifest["split"].value_counts().to_dict()
    assert stored["test_counts"] == test["label"].value_counts().to_dict()
    assert {row["class"] for row in stored["covid_vs_normal"]} == {None, "Normal", "COVID"}


def test_predict_files_agrees_with_predict_test(run, phantom_dir, monkeypatch):
    """In float32; in bfloat16 folded convolutions round their weights at other places."""
    monkeypatch.setattr(runs, "choose_compute", lambda _: Compute("cpu", "float32"))
    expected = runs.predict_test(run)
    table = runs.predict_files(run, [phantom_dir / path for path in expected["image_path"]])
    assert list(table) == COLUMNS and set(table["status"]) == {"ok"}
    assert table["image_path"].tolist() == [str(phantom_dir / p) for p in expected["image_path"]]
    assert table[["patient_id", "label"]].isna().all(axis=None)
    np.testing.assert_allclose(table[COLUMNS[3:6]], expected[COLUMNS[3:6]], atol=1e-5)


@pytest.mark.parametrize("batch_size", [2, 3, 64])
def test_rejected_files_keep_their_place(tiny_run, phantom_dir, tmp_path, batch_size):
    good = sorted(phantom_dir.glob("*/images/*.png"))[:4]
    empty, text = tmp_path / "empty.png", tmp_path / "notes.png"
    empty.write_bytes(b"")
    text.write_text("no image")
    paths = [good[3], empty, tmp_path / "missing.png", good[0], good[1], text, good[2]]
    table = runs.predict_files(tiny_run, paths, batch_size)
    assert list(table) == COLUMNS and table.index.tolist() == list(range(7))
    assert table["image_path"].tolist() == [str(path) for path in paths]
    status = ["ok", "rejected", "rejected", "ok", "ok", "rejected", "ok"]
    assert table["status"].tolist() == status
    read, rejected = table[table["status"] == "ok"], table[table["status"] == "rejected"]
    assert read["reason"].isna().all() and read["predicted"].isin(CLASSES).all()
    reasons = rejected["reason"].tolist()
    assert reasons[0] == "empty file" and reasons[1].startswith("cannot be opened")
    assert reasons[2].startswith("not an image")
    assert rejected[[*COLUMNS[3:7]]].isna().all(axis=None)


def test_probabilities_do_not_depend_on_the_batch(tiny_run, phantom_dir, monkeypatch):
    """In float32; in bfloat16 the last digits may follow the size of the batch."""
    monkeypatch.setattr(runs, "choose_compute", lambda _: Compute("cpu", "float32"))
    paths = sorted(phantom_dir.glob("*/images/*.png"))[:7]
    one, many = (runs.predict_files(tiny_run, paths, size)[COLUMNS[3:6]] for size in (1, 64))
    np.testing.assert_allclose(one, many, atol=1e-5)


def test_all_files_rejected(tiny_run, tmp_path):
    table = runs.predict_files(tiny_run, [tmp_path / "a.png", tmp_path / "b.png"])
    assert list(table) == COLUMNS and table["status"].tolist() == ["rejected", "rejected"]
    assert table["reason"].notna().all() and table["p_COVID"].isna().all()


def test_no_files_give_an_empty_table(tiny_run):
    table = runs.predict_files(tiny_run, [])
    assert list(table) == COLUMNS and len(table) == 0


def test_a_changed_dataset_is_refused(run, phantom_dir, tmp_path):
    changed = shutil.copytree(phantom_dir, tmp_path / "changed")
    table = pd.read_csv(changed / "metadata.csv")
    table.loc[table.index[table["label"] == "Normal"][0], "label"] = "COVID"
    table.to_csv(changed / "metadata.csv", index=False)
    config = json.loads((run / "config.json").read_text()) | {"data_dir": str(changed)}
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="are not those of training"):
        evaluation.evaluate(run)
    assert not (run / "predictions_test.csv").exists()


@pytest.mark.parametrize(
    "changes", [{"image_size": 128}, {"classes": ["Normal", "COVID", "Lung_Opacity"]}]
)
def test_a_checkpoint_of_another_run_is_refused(run, changes, elsewhere, listing):
    change_checkpoint(run, **changes)
    with pytest.raises(InputError, match="the checkpoint has classes and image size"):
        evaluation.evaluate(run)
    assert listing(elsewhere) == [] and listing(run) == TRAINED


@pytest.mark.parametrize("name", ["config.json", "manifest.csv", "model.safetensors"])
def test_what_a_run_folder_lacks_is_named(run, name):
    (run / name).unlink()
    with pytest.raises(InputError, match=f"not a run folder, it has no {name}"):
        runs.read_run(run)


def test_find_or_train_finds_the_run(tiny_run, tiny_config, elsewhere, capsys):
    name = runs.run_name(tiny_config)
    shutil.copytree(tiny_run, elsewhere / "runs" / name)
    assert runs.find_or_train(tiny_config) == runs.RUNS / name
    assert capsys.readouterr().out == f"found {name}\n"


def test_find_or_train_trains_once(tiny_config, monkeypatch, capsys):
    calls = []

    def train(*arguments, resume):
        calls.append((*arguments, resume))
        return arguments[1]

    monkeypatch.setattr(runs, "train", train)
    run = runs.find_or_train(tiny_config)
    assert run == runs.RUNS / runs.run_name(tiny_config)
    assert calls == [(tiny_config, run, None, True)]
    assert "training it now" in capsys.readouterr().out


def test_run_names_differ_with_the_configuration(tiny_config):
    variants = [
        *(tiny_config, replace(tiny_config, seed=1), replace(tiny_config, freeze=True)),
        replace(tiny_config, weights="none"),
    ]
    names = [runs.run_name(config) for config in variants]
    assert len(set(names)) == 4
    kinds = [name.split("-")[1] for name in names]
    assert kinds == ["finetuned", "finetuned", "frozen", "scratch"]


def test_prepare_leaves_out_a_corrupt_file_and_says_so(tmp_path, make_folder, capsys):
    folder = make_folder(tmp_path / "data", {"A": 7, "B": 7})
    (folder / "B" / "03.png").write_bytes(b"")
    data = runs.prepare(TrainConfig("folder", str(folder), **FOLDER))
    assert capsys.readouterr().out == "left out B/03.png: empty file\n"
    assert len(data.manifest) == len(data.pixels) == len(data.targets) == 13
    assert "B/03.png" not in data.manifest["image_path"].tolist()
    assert data.classes == ("A", "B") and data.targets.tolist() == [0] * 7 + [1] * 6
    for row, path in enumerate(data.manifest["image_path"]):
        expected = np.asarray(Image.open(folder / path).resize((32, 32), Image.Resampling.BILINEAR))
        np.testing.assert_array_equal(data.pixels[row], expected)
    sizes = {split: len(data.part(split)) for split in ("train", "val", "test")}
    assert sum(sizes.values()) == 13 and min(sizes.values()) >= 4


def test_a_class_without_enough_readable_images(tmp_path, make_folder):
    folder = make_folder(tmp_path / "data", {"A": 7, "B": 6})
    for number in range(6):
        (folder / "B" / f"{number:02d}.png").write_bytes(b"")
    with pytest.raises(InputError, match="readable images.*at least two"):
        runs.prepare(TrainConfig("folder", str(folder), **FOLDER))


def test_weights_that_cannot_be_had_leave_nothing(tiny_config, elsewhere, listing):
    with pytest.raises(InputError, match="weights 'absent'"):
        runs.train(replace(tiny_config, weights="absent"))
    assert listing(elsewhere) == []


def test_a_run_folder_that_cannot_be_made_is_said_before_training(
    tiny_config, elsewhere, monkeypatch
):
    monkeypatch.setattr(runs, "fit", lambda *_: pytest.fail("trained"))
    (elsewhere / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot be made"):
        runs.train(tiny_config, elsewhere / "file" / "run")


def test_crossval_tests_every_image_once(tmp_path, make_folder, listing):
    """Classes that look like numbers and missing values keep their names."""
    folder = make_folder(tmp_path / "data", {"0": 6, "None": 7})
    config = TrainConfig("folder", str(folder), **FOLDER)
    run, result = evaluation.crossval(config, tmp_path / "cv")
    pooled = runs.read_csv(run / "predictions.csv")
    images = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.png"))
    assert sorted(pooled["image_path"]) == images
    assert pooled["label"].tolist() == [path.split("/")[0] for path in pooled["image_path"]]
    stored = json.loads((run / "metrics.json").read_text())
    assert len(stored["folds"]) == 3 == len(result["folds"])
    accuracy = next(row for row in stored["metrics"] if row["metric"] == "accuracy")
    assert accuracy["n"] == 13
    assert accuracy["value"] == pytest.approx((pooled["label"] == pooled["predicted"]).mean())
    per_fold = [next(r for r in rows if r["metric"] == "accuracy") for rows in stored["folds"]]
    assert sum(row["n"] for row in per_fold) == 13
    assert not [name for name in listing(run) if name.endswith(".part")]
    with pytest.raises(InputError, match="holds a finished cross-validation"):
        evaluation.crossval(config, run)


def test_crossval_goes_on_where_it_stopped(tmp_path, make_folder, monkeypatch):
    folder = make_folder(tmp_path / "data", {"A": 6, "B": 6})
    config = TrainConfig("folder", str(folder), **FOLDER)
    trained = []

    def stop_at_the_third(fold_config, run, data, resume):
        trained.append(fold_config.test_fold)
        if len(trained) == 3:
            raise KeyboardInterrupt
        return runs.train(fold_config, run, data, resume)

    monkeypatch.setattr(evaluation, "train", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        evaluation.crossval(config, tmp_path / "cv")
    evaluation.crossval(config, tmp_path / "cv")
    assert trained == [0, 1, 2, 2]


def test_an_accuracy_above_99_percent_warns(run, monkeypatch):
    def predict_test(folder, data):
        table = runs.read_csv(folder / "predictions_val.csv")
        manifest = runs.read_run(folder)[1]
        table = table.iloc[np.resize(np.arange(len(table)), (manifest["split"] == "test").sum())]
        right = table["label"].to_numpy()[:, None] == np.array(CLASSES)
        return table.assign(**dict(zip((f"p_{c}" for c in CLASSES), right.T * 1.0, strict=True)))

    monkeypatch.setattr(evaluation, "predict_test", predict_test)
    with pytest.warns(UserWarning, match="accuracy 1.000 .* leak or a shortcut"):
        evaluation.evaluate(run)


def test_a_split_without_a_class_is_refused(tiny_config, monkeypatch):
    def one_split(manifest, *_):
        return manifest.assign(split="train")

    monkeypatch.setattr(splits, "assign_split", one_split)
    with pytest.raises(InputError, match="a split holds no image of some class"):
        runs.prepare(tiny_config)


def test_list_files(tmp_path):
    for name in ("b/2.png", "b/1.png", "b/.hidden", "a.dcm", "empty/"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.mkdir() if name.endswith("/") else path.write_bytes(b"x")
    given = [tmp_path / "missing.png", tmp_path / "b", tmp_path / "a.dcm"]
    names = [path.relative_to(tmp_path).as_posix() for path in runs.list_files(given)]
    assert names == ["missing.png", "b/1.png", "b/2.png", "a.dcm"]
    with pytest.raises(InputError, match="holds no files"):
        runs.list_files([tmp_path / "empty"])
    with pytest.raises(InputError, match="no such folder"):
        runs.list_files([tmp_path / "nowhere"])


def test_evaluation_tells_decisions_and_subgroups(run):
    result = evaluation.evaluate(run)
    point = result["operating_point"]
    assert [row["metric"] for row in point["figures"]] == ["sensitivity", "specificity"]
    sensitivity, specificity = (row["value"] for row in point["figures"])
    values = {(r["prevalence"], r["metric"]): r["value"] for r in point["predictive_values"]}
    assert len(values) == 6
    hits, alarms = 0.2 * sensitivity, 0.2 * sensitivity + 0.8 * (1 - specificity)
    assert values[0.2, "ppv"] == pytest.approx(hits / alarms)
    frame = pd.DataFrame(result["subgroups"])
    n = frame[frame["metric"] == "accuracy"].groupby("subgroup")["n"].sum()
    assert n.to_dict() == dict.fromkeys(("source", "view", "sex", "age"), result["n"]["test"])
    scarce = frame["low"].isna()
    assert scarce.any() and frame.loc[scarce, "reason"].notna().all()
    assert (run / "figures" / "net_benefit.png").exists()
    assert (run / "figures" / "abstention.png").exists()


def test_uncalibrated_undoes_the_temperature():
    logits = np.random.default_rng(0).normal(size=(20, 3)) * 4
    scaled = calibration.softmax(logits, 1.7)
    before = evaluation.uncalibrated(scaled, 1.7)
    np.testing.assert_allclose(before, calibration.softmax(logits), atol=1e-9)
