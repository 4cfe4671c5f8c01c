"""Two processes do what one does: the same rows, each image once, one of them writes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from covidxr import InputError, cli, launch, runs


@pytest.fixture
def start(elsewhere):
    """A function that runs covidxr in two processes, as `accelerate launch --cpu` starts it."""

    def run(*arguments) -> subprocess.CompletedProcess:
        launcher = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--cpu"]
        command = [*launcher, "--num_processes", "2", "-m", "covidxr", *map(str, arguments)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.run(
            command, capture_output=True, text=True, timeout=300, env=environment, cwd=elsewhere
        )

    return run


def test_prediction_gives_the_same_table_as_one_process(
    start, tiny_run, phantom_dir, elsewhere, one_thread, tmp_path
):
    """140 files, so that both processes have some; one is a link to nowhere."""
    films = sorted(phantom_dir.glob("*/images/*.png"))
    (tmp_path / "films").mkdir()
    for number in range(140):
        source = films[number % len(films)] if number != 100 else Path("nowhere.png")
        (tmp_path / "films" / f"{number:03d}.png").symlink_to(source)
    done = start("predict", tiny_run, tmp_path / "films", "--out", "two.csv")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("140 files, 1 rejected") == 1
    runs.write_csv(
        elsewhere / "one.csv",
        runs.predict_files(tiny_run, runs.list_files([tmp_path / "films"])),
    )
    assert (elsewhere / "two.csv").read_bytes() == (elsewhere / "one.csv").read_bytes()


def test_training_in_two_processes_writes_one_run(start, phantom_dir, elsewhere, listing):
    options = ["--data-dir", phantom_dir, "--image-size", 32, "--epochs", 2, "--folds", 3]
    done = start("train", *options, "--name", "two")
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["epoch", "epoch", "runs/two"]
    config = json.loads((elsewhere / "runs" / "two" / "config.json").read_text())
    assert config["compute"]["processes"] == 2 and config["compute"]["rank"] == 0
    names = ["config", "history", "manifest", "model", "predictions_val"]
    assert [name.split(".")[0] for name in listing(elsewhere / "runs" / "two")] == names
    assert not list(elsewhere.rglob("*.part"))


def test_bad_input_is_one_line_from_one_process(start, elsewhere):
    done = start("predict", "runs/none", elsewhere / "a.png")
    assert done.returncode != 0 and "Traceback" not in done.stdout
    assert done.stderr.count("error: runs/none") == 1


def test_a_single_process_is_left_alone(monkeypatch):
    for name in (*launch.WORLD_SIZES, "ACCELERATE_USE_CPU", "RANK"):
        monkeypatch.delenv(name, raising=False)
    launch.join()
    assert launch.rank() == 0 and "WORLD_SIZE" not in os.environ


def test_an_unknown_number_of_processes_is_said(monkeypatch):
    for name in launch.WORLD_SIZES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    monkeypatch.setenv("MASTER_PORT", "29500")
    with pytest.raises(InputError, match="found no --num_processes"):
        launch.join()


@pytest.mark.parametrize("command", [["evaluate", "runs/a"], ["crossval"]])
def test_what_takes_one_process_says_so(command, monkeypatch, capsys, elsewhere):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(sys, "argv", ["covidxr", *command])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2 and f"{command[0]}: found 2 processes" in capsys.readouterr().err
    assert list(elsewhere.iterdir()) == []
