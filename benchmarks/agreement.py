"""Do a faster precision and more processes give the same model? Test scores, paired.

Trains notebook 03's model on the phantoms with one seed in float32, in bfloat16 (which a processor
without such instructions computes slowly, but all the same) and in two processes, and writes
benchmarks/agreement.json.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from covidxr import datasets, evaluation, metrics, runs

HERE = Path(__file__).resolve().parent
TRAIN = """
from covidxr import runs, training
training._fast_dtype = lambda device: "{dtype}"
runs.predict_test(runs.train(training.TrainConfig(), runs.RUNS / "{dtype}"))
"""
TWO = ["-m", "accelerate.commands.accelerate_cli", "launch", "--cpu", "--num_processes", "2"]
VARIANTS = {
    "float32": ["-c", TRAIN.format(dtype="float32")],
    "bfloat16": ["-c", TRAIN.format(dtype="bfloat16")],
    "two-processes": [
        *TWO,
        *("-m", "covidxr", "train", "--name", "two-processes", "--precision", "float32"),
    ],
}


def train_all(work: Path) -> dict:
    """The test split's predictions of each variant."""
    for command in VARIANTS.values():
        subprocess.run([sys.executable, *command], check=True, cwd=work)
    runs.predict_test(work / "runs" / "two-processes")
    return {name: runs.read_csv(work / "runs" / name / "predictions_test.csv") for name in VARIANTS}


def compare() -> list[dict]:
    """Accuracy and macro-F1 of each variant minus those of float32 in one process."""
    with tempfile.TemporaryDirectory() as folder:
        tables = train_all(Path(folder))
        manifest = runs.read_run(Path(folder) / "runs" / "float32")[1]
    y, base, classes = evaluation.arrays(tables.pop("float32"))
    groups = manifest.loc[manifest["split"] == "test", "group_id"].to_numpy()
    rows = []
    for name, table in tables.items():
        other = evaluation.arrays(table)[1]
        frame = metrics.paired_bootstrap(y, base, other, classes, groups)
        frame = frame[frame["metric"].isin(["accuracy", "macro_f1"])]
        rows += evaluation.records(frame.assign(variant=name.replace("-", " ")))
    return rows


if __name__ == "__main__":
    os.environ["COVIDXR_DATA"] = str(datasets.data_root().resolve())
    (HERE / "agreement.json").write_text(json.dumps(compare(), indent=1) + "\n")
