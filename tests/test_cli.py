"""The command line: exit 0 or 2, one clear line for bad input, and then nothing written."""

import json
import os
import shutil
import subprocess
import sys
import warnings
from urllib.error import URLError

import pandas as pd
import pytest
from PIL import Image
from torchvision.models import ResNet18_Weights

from covidxr import cli, evaluation, runs
from covidxr.models import load_checkpoint, save_checkpoint

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:no temperature"),  # a few random images cannot be calibrated
]

SMALL = ["--image-size", "32", "--epochs", "1"]


@pytest.fixture
def call(elsewhere, monkeypatch, capsys):
    """A function that runs one command in an empty folder: (exit code, stdout, stderr)."""
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # main() sets it

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["covidxr", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code or 0, *capsys.readouterr()

    return run


@pytest.fixture
def refused(call, elsewhere, listing):
    """A function that asserts a refusal, one line and no file, and returns the line."""

    def run(*arguments):
        before = listing(elsewhere)
        code, out, err = call(*arguments)
        assert (code, out) == (2, "")
        assert err.startswith("error: ") and err.endswith("\n") and err.count("\n") == 1
        assert listing(elsewhere) == before
        return err

    return run


def python(*arguments, cwd) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": os.path.dirname(os.path.dirname(cli.__file__))},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing command"),
        (["triaje"], "No such command 'triaje'"),
        (["data"], "Missing command"),
        (["train", "--epoch", "3"], "No such option"),
        (["train", "--epochs", "three"], "--epochs"),
        (["train", "--epochs", "0"], "epochs: found 0, expected 1 to"),
        (["train", "--image-size", "8"], "image_size: found 8"),
        (["train", "--lr", "-1"], "lr: found -1"),
        (["train", "--seed", "-1"], "seed: found -1"),
        (["train", "--imbalance", "smote"], "imbalance: found 'smote'"),
        (["crossval", "--folds", "2"], "folds: found 2, expected 3"),
        (["train", "--dataset", "padchest"], "'padchest' is unknown"),
        (["train", "--dataset", "folder"], "--data-dir"),
        (["train", "--dataset", "folder", "--data-dir", "absent"], "absent is not a folder"),
        (
            ["train", "--dataset", "radiography", "--data-dir", "absent"],
            "data download radiography",
        ),
        (["data", "summary", "--dataset", "cohen"], "data download cohen"),
        (["data", "download", "folder"], "nothing to download"),
        (["train", "--weights", "resnet50"], "weights 'resnet50': neither"),
        (["data", "overlap", "absent", "."], "absent: no such folder"),
        (["data", "overlap", ".", "."], "holds no files"),
        (["data", "overlap", ".", ".", "--out", "absent/x.csv"], "--out absent/x.csv"),
        (["evaluate", "runs/absent"], "runs/absent: not a run folder, it has no config.json"),
        (["predict", "runs/absent", "a.png"], "no checkpoint here"),
        (["predict", "runs/absent"], "Missing argument"),
    ],
)
def test_bad_usage(refused, arguments, message):
    assert message in refused(*arguments)


@pytest.mark.parametrize("command", ["train", "crossval"])
@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"COVID": 6}, "expected at least two"),
        ({"COVID": 6, "Normal": 4}, "Normal has 4 images, expected at least 5"),
        ({"COVID": 6, "Normal": 0}, "no images in"),
    ],
)
def test_datasets_too_small(refused, tmp_path, make_folder, command, counts, message):
    folder = make_folder(tmp_path / "data", counts)
    assert message in refused(command, "--dataset", "folder", "--data-dir", folder, *SMALL)


def test_weights_that_cannot_be_downloaded(refused, tmp_path, make_folder, monkeypatch):
    def offline(*_, **__):
        raise URLError("offline")

    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", offline)
    folder = make_folder(tmp_path / "data", {"COVID": 6, "Normal": 6})
    line = refused("train", "--dataset", "folder", "--data-dir", folder, "--weights", "imagenet")
    assert ResNet18_Weights.IMAGENET1K_V1.url in line and "offline" in line


def test_checkpoints_that_do_not_fit(refused, tiny_run, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    model, metadata = load_checkpoint(run / "model.safetensors")
    save_checkpoint(run / "model.safetensors", model, metadata | {"image_size": 96})
    assert "image size" in refused("evaluate", run)
    save_checkpoint(run / "model.safetensors", model, metadata | {"classes": ["Normal", "COVID"]})
    for arguments in (["evaluate", run], ["predict", run, "a.png"]):
        assert "tensors do not fit" in refused(*arguments)
    (run / "model.safetensors").write_bytes(b"\x80\x04 a pickle")
    weights = ["train", "--weights", run / "model.safetensors"]
    assert "not a safetensors file" in refused(*weights)
    config = json.loads((run / "config.json").read_text()) | {"dropout": 0.1}
    (run / "config.json").write_text(json.dumps(config))
    assert "unknown keys ['dropout']" in refused("evaluate", run)


def test_predict_paths_that_do_not_exist(refused, tiny_run, tmp_path):
    assert "no such folder" in refused("predict", tiny_run, "nowhere")
    assert "holds no files" in refused("predict", tiny_run, tmp_path / "work")


@pytest.mark.parametrize("out", ["absent/table.csv", "."])
def test_an_output_that_cannot_be_written_is_said_first(
    refused, tiny_run, phantom_dir, monkeypatch, out
):
    monkeypatch.setattr(runs, "predict_files", lambda *_: pytest.fail("predicted"))
    line = refused("predict", tiny_run, phantom_dir / "COVID" / "images", "--out", out)
    assert line.startswith(f"error: --out {out}: expected a file name")


def test_train_evaluate_predict(call, elsewhere, tmp_path, make_folder, listing):
    folder = make_folder(tmp_path / "data", {"COVID": 6, "Normal": 6})
    source = ["--dataset", "folder", "--data-dir", folder]
    code, out, err = call("train", *source, *SMALL, "--name", "mine")
    assert (code, err) == (0, "") and out.splitlines()[-1] == "runs/mine"
    assert out.startswith("epoch 1/1  train loss ")
    code, out, err = call("train", *source, *SMALL, "--name", "mine")
    assert code == 2 and "runs/mine: holds a finished run" in err

    code, out, err = call("evaluate", "runs/mine")
    assert (code, err) == (0, "") and out.splitlines()[-1] == "runs/mine/metrics.json"
    names = [line.split()[0] for line in out.splitlines()]
    assert names[:3] == ["accuracy", "balanced_accuracy", "macro_f1"] and "auroc" in names

    files = [folder / "COVID", "missing.png"]
    code, out, err = call("predict", "runs/mine", *files)
    assert (code, err) == (0, "")
    assert out == "predictions.csv: 7 files, 1 rejected. Not a medical device.\n"
    table = pd.read_csv(elsewhere / "predictions.csv")
    assert table["status"].tolist() == ["ok"] * 6 + ["rejected"]
    assert table["image_path"].iloc[-1] == "missing.png"
    assert table["reason"].iloc[-1].startswith("cannot be opened")
    assert sorted(p.name for p in elsewhere.iterdir()) == ["predictions.csv", "runs"]
    assert not [name for name in listing(elsewhere) if name.endswith(".part")]


def test_overlap(call, elsewhere, tmp_path, make_folder):
    a = make_folder(tmp_path / "a", {"COVID": 4})
    b = tmp_path / "b" / "deep"
    b.mkdir(parents=True)
    shutil.copy(a / "COVID" / "02.png", b / "same.png")
    with Image.open(a / "COVID" / "03.png") as image:
        image.resize((128, 128)).save(b / "larger.jpg", quality=95)
    Image.effect_noise((64, 64), 60).save(b / "other.png")
    (b / "notes.txt").write_text("no image")
    (b / "masks").mkdir()
    shutil.copy(a / "COVID" / "01.png", b / "masks")
    code, out, err = call("data", "overlap", a, b.parent, "--out", "table.csv")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == (
        f"2 of 4 files in {b.parent} are already among the 4 in {a}, 1 of them byte for byte; "
        "1 files of either could not be read as images"
    )
    table = pd.read_csv(elsewhere / "table.csv")
    assert table["path_in_b"].tolist() == ["deep/larger.jpg", "deep/same.png"]
    assert table["path_in_a"].tolist() == ["COVID/03.png", "COVID/02.png"]
    assert table["identical"].tolist() == [False, True]
    assert table["correlation"].iloc[1] == 1 and 0.98 < table["correlation"].iloc[0] < 1

    code, out, _ = call("data", "overlap", b / "masks", a)
    assert code == 0 and out.splitlines()[-1].startswith("1 of 4 files")


def test_evaluate_audit(call, elsewhere, tiny_run, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    code, out, err = call("evaluate", run, "--audit")
    assert (code, err) == (0, "") and "not retrained" in out
    assert any(line.startswith("full image") and "chance 0.333" in line for line in out.split("\n"))
    rows = pd.DataFrame(json.loads((run / "metrics.json").read_text())["audit"])
    assert set(rows["input"]) >= {"border", "thumbnail", "border only", "lungs blacked out"}
    assert (rows["value"].notna() | rows["reason"].notna()).all()
    lost = rows[(rows["target"] == "class") & (rows["part"] == "probe") & rows["value"].isna()]
    assert len(lost) and out.count("not run: ") == rows["value"].isna().sum() / 3


def test_a_suspicious_accuracy_is_warned_of_and_audited(call, tiny_run, tmp_path, monkeypatch):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    score = evaluation.score

    def perfect(table, groups):
        result = score(table, groups)
        result["metrics"][0]["value"] = 0.995
        return result

    monkeypatch.setattr(evaluation, "score", perfect)
    with pytest.warns(UserWarning, match="accuracy 0.995 on the test split"):
        code, out, _ = call("evaluate", run)
    assert code == 0 and "full image" in out
    assert "audit" in json.loads((run / "metrics.json").read_text())


def test_crossval_prints_folds_and_pooled(call, elsewhere, monkeypatch):
    rows = [
        {"metric": "accuracy", "class": None, "value": 0.5, "low": 0.25, "high": 0.75, "n": 8},
        {"metric": "ppv", "class": "COVID", "value": None, "low": None, "high": None, "n": 0},
    ]
    seen = []

    def crossval(config, run):
        seen.append((config.folds, config.freeze, run))
        return runs.RUNS / "cv", {"folds": [rows, rows], "metrics": rows}

    monkeypatch.setattr(evaluation, "crossval", crossval)
    code, out, _ = call("crossval", "--folds", "3", "--freeze", "--name", "cv")
    assert code == 0 and seen == [(3, True, runs.RUNS / "cv")]
    lines = out.splitlines()
    assert [line for line in lines if " " not in line or line.startswith("fold")] == [
        *("fold 0", "fold 1", "pooled", "runs/cv/metrics.json")
    ]
    assert lines[1].split() == ["accuracy", "0.500", "[0.250,", "0.750]", "n=8"]
    assert lines[2].split() == ["ppv", "COVID", "NA", "n=0"]


def test_triage_writes_a_page_and_a_table(call, elsewhere, tiny_run, phantom_dir, listing):
    table = phantom_dir / "metadata.csv"
    films = sorted((phantom_dir / "COVID" / "images").glob("*.png"))[:2]
    code, out, err = call("triage", tiny_run, *films, "gone.png", "--manifest", table)
    assert (code, err) == (0, "")
    assert out.startswith("worklist.html: 3 files, 1 rejected, ")
    assert out.endswith("in doubt. Not a medical device.\n")
    assert listing(elsewhere) == ["worklist.csv", "worklist.html"]
    code, out, _ = call("triage", tiny_run, "gone.png", "--out", "none.html")
    assert code == 0 and out.startswith("none.html: 1 files, 1 rejected, 0 in doubt")


@pytest.mark.parametrize("out", ["absent/list.html", "", "list.csv", "list"])
def test_triage_checks_its_output_before_any_work(refused, tiny_run, monkeypatch, out):
    monkeypatch.setattr(runs, "predict_files", lambda *_: pytest.fail("predicted"))
    assert f"--out {out or '.'}: expected" in refused("triage", tiny_run, "a.png", "--out", out)


def test_triage_needs_a_place_for_the_table_too(refused, elsewhere, tiny_run):
    (elsewhere / "list.csv").mkdir()
    assert "list.csv: expected" in refused("triage", tiny_run, "a.png", "--out", "list.html")


def test_triage_refuses_bad_input(refused, elsewhere, tiny_run, phantom_dir):
    (elsewhere / "empty").mkdir()
    assert "holds no files" in refused("triage", tiny_run, "empty")
    assert "no checkpoint here" in refused("triage", elsewhere / "empty", "a.png")
    (elsewhere / "patients.csv").write_text("image_path,patient_id\nother.png,A\n")
    film = phantom_dir / "COVID" / "images" / "COVID-1.png"
    line = refused("triage", tiny_run, film, "--manifest", "patients.csv")
    assert "none of the 1 films is in it" in line
    line = refused("triage", tiny_run, film, "--manifest", "absent.csv")
    assert "--manifest absent.csv: cannot be read (No such file" in line


def test_summary(call, phantom_dir):
    code, out, err = call("data", "summary", "--data-dir", phantom_dir)
    assert (code, err) == (0, "")
    assert out.startswith(f"phantom in {phantom_dir}: 60 images\n") and "Lung_Opacity" in out


@pytest.mark.parametrize("command", [[], ["train"], ["predict"], ["data", "summary"]])
def test_help(call, command):
    code, out, err = call(*command, "--help")
    assert (code, err) == (0, "") and "Usage" in out


def test_help_says_that_it_is_no_medical_device(call):
    _, out, _ = call("--help")
    assert "not a medical device" in " ".join(out.split())
    for command in ("data", "train", "evaluate", "crossval", "predict", "triage"):
        assert command in out


def test_importing_the_command_line_is_light(elsewhere):
    code = "import sys, covidxr.cli; print({'torch', 'pandas', 'numpy'} & set(sys.modules))"
    done = python("-c", code, cwd=elsewhere)
    assert (done.returncode, done.stdout, done.stderr) == (0, "set()\n", "")


def test_the_process_warns_in_one_line(elsewhere, tmp_path, make_folder):
    folder = make_folder(tmp_path / "data", {"COVID": 5, "Normal": 5})
    command = ["data", "summary", "--dataset", "radiography", "--data-dir", folder]
    done = python("-m", "covidxr", *command, cwd=elsewhere)
    assert done.returncode == 0 and "10 images" in done.stdout
    assert done.stderr.startswith("warning: radiography: images differ from the release's")
    assert done.stderr.count("\n") == 1


def test_the_process_exits_with_2(elsewhere):
    done = python("-m", "covidxr", "data", "summary", "--dataset", "x", cwd=elsewhere)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: data set 'x' is unknown")
    assert done.stderr.count("\n") == 1 and list(elsewhere.iterdir()) == []
