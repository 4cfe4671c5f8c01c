"""Do a faster precision and more processes give the same model? Test accuracy, paired.

Trains notebook 03's model on the phantoms in the processor's fastest precision, in float32, and in
two processes, with the same seed, and writes benchmarks/agreement.json.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from covidxr import datasets, evaluation, metrics, runs

HERE = Path(__file__).resolve().parent
TWO = ["-m", "accelerate.commands.accelerate_cli", "launch", "--cpu", "--num_processes", "2"]
VARIANTS = {
    "float32": ([], ["--precision", "float32"]),
    "two processes": (TWO, []),
}


def train(work: Path, name: str, launcher: list[str], options: list[str]) -> Path:
    command = [sys.executable, *launcher, "-m", "covidxr", "train", "--name", name, *options]
    subprocess.run(command, check=True, cwd=work)
    return work / "runs" / name


def compare() -> list[dict]:
    """Accuracy and macro-F1 of each variant minus those of the default, on the test split."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        base = runs.predict_test(train(work, "default", [], []))
        y, p, classes = evaluation.arrays(base)
        manifest = runs.read_run(work / "runs" / "default")[1]
        groups = manifest.loc[manifest["split"] == "test", "group_id"].to_numpy()
        for name, (launcher, options) in VARIANTS.items():
            table = runs.predict_test(train(work, name.replace(" ", "-"), launcher, options))
            other = evaluation.arrays(table)[1]
            frame = metrics.paired_bootstrap(y, p, other, classes, groups)
            frame = frame[frame["metric"].isin(["accuracy", "macro_f1"])]
            rows += evaluation.records(frame.assign(variant=name))
        used = json.loads((work / "runs" / "default" / "config.json").read_text())["compute"]
    return [row | {"default": used["dtype"]} for row in rows]


if __name__ == "__main__":
    os.environ["COVIDXR_DATA"] = str(datasets.data_root().resolve())
    (HERE / "agreement.json").write_text(json.dumps(compare(), indent=1) + "\n")
