"""Processes killed at random moments, full and read-only disks, vanished data: `make test-faults`.

After each fault no half-written file stands under a final name, the next start works, and what was
finished is kept; a training that goes on ends with the bytes of one that was never cut off.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from safetensors import safe_open

from covidxr import cli, phantom

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals"),
]

START = "print('ready', flush=True)\n"
TRAIN = f"""
import sys
from covidxr import cli, evaluation
sys.argv = ["covidxr", "train", "--data-dir", sys.argv[1], "--name", "run", "--image-size", "64",
            "--epochs", "3", "--folds", "3", "--weights", "none", *sys.argv[2:]]
{START}cli.main()
"""
CACHE = f"""
import sys
from pathlib import Path
from covidxr.loaders import decode
paths = sorted(Path(sys.argv[1]).glob("*/images/*.png")) * 30
{START}decode(paths, 64)
"""
PREDICT = f"""
import sys
from pathlib import Path
from covidxr import cli, runs
paths = [str(path) for path in sorted(Path(sys.argv[1]).glob("*/images/*.png"))] * 10
sys.argv = ["covidxr", "predict", sys.argv[2], *paths]
{START}cli.main()
"""
PHANTOM = f"""
from covidxr import phantom
{START}phantom.generate("set", n_images=60, image_size=64, seed=1, progress=False, workers=2)
"""
RESULTS = ("model.safetensors", "history.csv", "predictions_val.csv", "manifest.csv", "config.json")
ENVIRONMENT = os.environ | {
    "PYTHONPATH": str(Path(cli.__file__).parents[1]),
    "OMP_NUM_THREADS": "1",
}


class Job:
    """A process that says when it has loaded its libraries."""

    def __init__(self, code: str, folder: Path, *arguments) -> None:
        folder.mkdir(exist_ok=True)
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            cwd=folder,
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout.readline() == "ready\n", self.process.stderr.read()
        self.start = time.monotonic()

    def finish(self) -> tuple[int, str, float]:
        """Exit code, standard error, and seconds since it was ready."""
        _, err = self.process.communicate(timeout=900)
        return self.process.returncode, err, time.monotonic() - self.start

    def kill_after(self, seconds: float) -> bool:
        """Whether it was killed, and not done before."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            below = psutil.Process(self.process.pid).children(recursive=True)
            self.process.kill()
            self.process.communicate()
            _, alive = psutil.wait_procs(below, timeout=30)
            assert alive == []  # no worker outlives it
            return True
        self.process.communicate()
        return False


def check_files(folder: Path) -> None:
    """Every file under a final name can be read to its end."""
    for path in folder.rglob("*"):
        if path.is_dir() or ".part" in str(path.relative_to(folder)):
            continue
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".csv":
            assert path.read_text().endswith("\n") and len(pd.read_csv(path))
        elif path.suffix == ".npy":
            assert np.load(path).ndim == 3
        elif path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                assert all(file.get_tensor(key) is not None for key in file.keys())


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def chance():
    return random.Random(int(os.environ.get("FAULTS_SEED", "0")))


@pytest.fixture(scope="module")
def trained(phantom_dir, tmp_path_factory):
    """A run that was never cut off, and the seconds it took."""
    folder = tmp_path_factory.mktemp("whole")
    code, err, seconds = Job(TRAIN, folder, phantom_dir).finish()
    assert code == 0, err
    return folder / "runs" / "run", seconds


def kill_until_done(code, folder, arguments, kills, seconds, chance) -> int:
    """Kill a job so many times, start it anew each time, then let it end; the number of kills."""
    killed = 0
    while killed < kills:
        job = Job(code, folder, *arguments)
        killed += job.kill_after(chance.uniform(0, seconds))
        check_files(folder)
        if job.process.returncode == 0:
            break
    code_, err, _ = Job(code, folder, *arguments).finish()
    assert code_ == 0, err
    check_files(folder)
    return killed


def test_training_killed_12_times_ends_in_the_same_bytes(trained, phantom_dir, tmp_path, chance):
    whole, seconds = trained
    kills = tries = 0
    while kills < 12:
        folder = tmp_path / str(tries)
        arguments = [phantom_dir, "--resume"]
        kills += kill_until_done(TRAIN, folder, arguments, min(3, 12 - kills), seconds, chance)
        run = folder / "runs" / "run"
        assert sorted(path.name for path in run.iterdir()) == sorted(RESULTS)
        for name in RESULTS:
            assert (run / name).read_bytes() == (whole / name).read_bytes(), name
        shutil.rmtree(folder)
        tries += 1
    print(f"{kills} kills, {tries} trainings identical")


@pytest.mark.parametrize("what", ["cache", "predict", "phantom"])
def test_killed_6_times(what, trained, phantom_dir, tmp_path, chance):
    code, arguments, made = {
        "cache": (CACHE, [phantom_dir], "runs/cache"),
        "predict": (PREDICT, [phantom_dir, trained[0]], "."),
        "phantom": (PHANTOM, [], "set"),
    }[what]
    whole = Job(code, tmp_path / "whole", *arguments)
    status, err, seconds = whole.finish()
    assert status == 0, err
    expected, kills, tries = contents(tmp_path / "whole" / made), 0, 0
    while kills < 6:
        folder = tmp_path / str(tries)
        kills += kill_until_done(code, folder, arguments, min(3, 6 - kills), seconds, chance)
        found = {k: v for k, v in contents(folder / made).items() if ".part" not in k}
        assert found == expected
        if what != "predict":  # whose next start does not clear away what others may be writing
            assert not list(folder.rglob("*.part*"))
        shutil.rmtree(folder)
        tries += 1
    print(f"{kills} kills, {tries} results identical")


@pytest.fixture
def small_disk(tmp_path):
    """A function that mounts a file system of so many megabytes, or makes it larger."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options: str) -> Path:
        again = ["-o", f"remount,{options}"] if os.path.ismount(folder) else ["-o", options]
        command = ["mount", "-t", "tmpfs", *again, "tmpfs", str(folder)]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("a file system can be mounted by root alone")
        return folder

    yield mount
    subprocess.run(["umount", str(folder)], capture_output=True)


JOBS = {
    "train": lambda data, run: (TRAIN, [data, "--resume"]),
    "cache": lambda data, run: (CACHE, [data]),
    "predict": lambda data, run: (PREDICT, [data, run]),
    "phantom": lambda data, run: (PHANTOM, []),
}


@pytest.mark.parametrize("what", JOBS)
def test_a_full_disk_is_one_line_and_the_next_start_works(what, trained, phantom_dir, small_disk):
    code, arguments = JOBS[what](phantom_dir, trained[0])
    sizes = {"train": "40m", "cache": "2m", "predict": "32k", "phantom": "200k"}
    disk = small_disk(f"size={sizes[what]}")
    status, err, _ = Job(code, disk, *arguments).finish()
    assert status != 0 and ("No space left" in err or "free; make room" in err), err
    if what in ("train", "predict"):
        assert status == 2 and err.count("\n") == 1 and err.startswith("error: ")
    check_files(disk)
    small_disk("size=2g")
    status, err, _ = Job(code, disk, *arguments).finish()
    assert status == 0, err
    check_files(disk)
    if what == "train":
        assert (disk / "runs/run/model.safetensors").read_bytes() == (
            trained[0] / "model.safetensors"
        ).read_bytes()


@pytest.mark.parametrize("what", JOBS)
def test_a_read_only_disk_is_one_line(what, trained, phantom_dir, small_disk):
    code, arguments = JOBS[what](phantom_dir, trained[0])
    disk = small_disk("ro,size=2g")
    status, err, _ = Job(code, disk, *arguments).finish()
    assert status != 0 and "Read-only file system" in err, err
    if what in ("train", "predict"):
        assert status == 2 and err.count("\n") == 1 and err.startswith("error: ")


def test_a_data_folder_that_vanishes(trained, phantom_dir, tmp_path):
    data, folder = shutil.copytree(phantom_dir, tmp_path / "data"), tmp_path / "work"
    seconds = trained[1]
    for wait in (0.0, seconds * 0.1, seconds * 0.3, seconds * 0.6):
        job = Job(TRAIN, folder, data)
        time.sleep(wait)
        data.rename(tmp_path / "away")
        status, err, _ = job.finish()
        (tmp_path / "away").rename(data)
        check_files(folder)
        if status:
            assert status == 2 and err.count("\n") == 1 and err.startswith("error: "), err
        status, err, _ = Job(TRAIN, folder, data, "--resume").finish()
        assert status == 0, err
        name = "model.safetensors"
        found = (folder / "runs" / "run" / name).read_bytes()
        assert found == (trained[0] / name).read_bytes()
        shutil.rmtree(folder)


def test_two_trainings_in_one_folder(trained, phantom_dir, tmp_path):
    jobs = [Job(TRAIN, tmp_path, phantom_dir) for _ in range(2)]
    ends = sorted(job.finish()[:2] for job in jobs)
    assert [status for status, _ in ends] == [0, 2]
    assert ends[1][1].count("\n") == 1 and (
        "another process is at work there" in ends[1][1] or "holds a finished run" in ends[1][1]
    )
    name = "model.safetensors"
    found = (tmp_path / "runs" / "run" / name).read_bytes()
    assert found == (trained[0] / name).read_bytes()


def test_the_phantoms_of_the_fixture_are_those_of_a_killed_process(phantom_dir):
    assert phantom.generate(phantom_dir, 60, 64, seed=1, progress=False) == phantom_dir
