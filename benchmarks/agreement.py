"""Do a faster precision and more processes give the same model? Test scores, paired.

Trains notebook 03's model on the phantoms with one seed in float32, in two processes and, where the
processor has a faster precision, in that one; writes benchmarks/agreement.json.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from covidxr import datasets, evaluation, metrics, runs
from covidxr.training import choose_compute

HERE = Path(__file__).resolve().parent
TRAIN = """
from covidxr import runs, training
runs.predict_test(runs.train(training.TrainConfig(precision="{0}"), runs.RUNS / "{0}"))
"""
TWO = ["-m", "accelerate.commands.accelerate_cli", "launch", "--cpu", "--num_processes", "2"]
VARIANTS = {
    "float32": ["-c", TRAIN.format("float32")],
    "two-processes": [
        *TWO,
        *("-m", "covidxr", "train", "--name", "two-processes", "--precision", "float32"),
    ],
}
FAST = choose_compute().dtype
if FAST != "float32":
    VARIANTS["auto"] = ["-c", TRAIN.format("auto")]


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
        variant = FAST if name == "auto" else "two processes"
        rows += evaluation.records(frame.assign(variant=variant))
    return rows


if __name__ == "__main__":
    os.environ["COVIDXR_DATA"] = str(datasets.data_root().resolve())
    (HERE / "agreement.json").write_text(json.dumps(compare(), indent=1) + "\n")
