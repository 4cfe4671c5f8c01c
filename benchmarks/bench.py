"""Speed beside what people would use instead, and beside the hardware's limit.

    make bench                      # on the phantoms
    make bench DATA_DIR=<folder>    # on any class-per-folder images

Contenders run in turn (A B C A B C ...), one process each, so that a slow minute of the machine
hits all of them; medians of REPEATS repetitions go to benchmarks/results.json, below the precision
that this processor is trained in.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch

from covidxr import datasets
from covidxr.training import choose_compute

HERE = Path(__file__).resolve().parent
REPEATS = 5
PACKAGES = ("torch", "torchvision", "numpy", "pillow", "fastai")
GROWTH = (1_000, 4_000, 16_000)
GROWTH_SIZE = 48


class Worker:
    """A contender in its own process."""

    def __init__(self, name: str, folder: Path, size: int, batch: int) -> None:
        command = [sys.executable, HERE / "worker.py", name, folder, str(size), str(batch)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder
        )
        self.images = self._answer()["images"]

    def _answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.process.args[2:]}: stopped with code {self.process.wait()}")
        return json.loads(line)

    def seconds(self) -> float:
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self._answer()["seconds"]

    def close(self) -> float:
        """Stop it; its peak memory in MB."""
        self.process.stdin.close()
        peak = self._answer()["peak_mb"]
        self.process.wait()
        return peak


def images_folder(root: Path, files: list[Path], n: int) -> Path:
    """A class-per-folder tree of `n` links to the files, repeated where they are too few."""
    folder = root / f"n{n}"
    for number in range(n):
        path = files[number * len(files) // n if n < len(files) else number % len(files)]
        link = folder / "images" / path.parents[path.parent.name == "images"].name
        link.mkdir(parents=True, exist_ok=True)
        (link / f"{number:06d}.png").symlink_to(path)
    return folder


def interleave(contenders: dict[str, tuple]) -> dict[str, dict]:
    """Median milliseconds per image of each contender, run in turn."""
    workers = {label: Worker(*arguments) for label, arguments in contenders.items()}
    times = {label: [] for label in workers}
    for _ in range(REPEATS):
        for label, worker in workers.items():
            times[label].append(1e3 * worker.seconds() / worker.images)
    table = {}
    for label, worker in workers.items():
        table[label] = {
            "images": worker.images,
            "ms_per_image": statistics.median(times[label]),
            "all_ms_per_image": times[label],
            "peak_mb": worker.close(),
        }
        print(f"{label:<28}{table[label]['ms_per_image']:8.2f} ms/image", flush=True)
    return table


def first_step(root: Path, size: int) -> dict:
    """Medians of benchmarks/first_step.py, once the image cache is there."""
    command = [sys.executable, HERE / "first_step.py", str(root), str(size)]
    with tempfile.TemporaryDirectory() as work:
        runs = [
            json.loads(subprocess.check_output(command, text=True, cwd=work).splitlines()[-1])
            for _ in range(REPEATS + 1)
        ][1:]
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", help="class-per-folder images (default: the phantoms)")
    parser.add_argument("--images", type=int, default=320, help="images an epoch")
    parser.add_argument("--size", type=int, default=224, help="pixels a side")
    options = parser.parse_args()
    dataset = "folder" if options.data_dir else "phantom"
    manifest, root = datasets.load(dataset, options.data_dir)
    root = root.resolve()  # the workers run in folders of their own
    files = sorted(root / path for path in manifest["image_path"])
    with tempfile.TemporaryDirectory() as work:
        results = measure(Path(work), root, files, options.images, options.size)
    results |= {
        "dataset": dataset,
        "processor": processor(),
        "cores": os.cpu_count(),
        "precision": choose_compute().dtype,
        "repeats": REPEATS,
        "versions": {name: version(name) for name in PACKAGES},
    }
    path = HERE / "results.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(known | {results["precision"]: results}, indent=1) + "\n")


def measure(work: Path, root: Path, files: list[Path], n: int, size: int) -> dict:
    small = images_folder(work, files, n)
    training = {
        f"{name}, batch {batch}": (name, small, size, batch)
        for name, batch in [
            ("limit", 32),
            ("covidxr", 32),
            ("torchvision", 32),
            ("fastai", 32),
            ("covidxr", 10),
            ("original", 10),
        ]
    }
    folder = images_folder(work, files, 2_000)
    predicting = {name: (name, folder, size, 64) for name in ("predict_limit", "predict")}
    predicting["predict_plain"] = ("predict_plain", small, size, 1)
    freezing = {name: (name, small, size, 64) for name in ("predict_limit", "frozen")}
    folders = {n: images_folder(work / "growth", files, n) for n in GROWTH}
    growth = {
        f"{name}, {n:,} images": (name, folder, GROWTH_SIZE, 32)
        for name in ("covidxr", "predict")
        for n, folder in folders.items()
    }
    memory = {f"covidxr, {n:,} images": ("covidxr", folders[n], 128, 64) for n in (1_000, 16_000)}
    return {
        "size": size,
        "training": interleave(training),
        "predicting": interleave(predicting),
        "freezing": interleave(freezing),
        "growth": interleave(growth),
        "growth_size": GROWTH_SIZE,
        "memory": {label: Worker(*arguments).close() for label, arguments in memory.items()},
        "first_step": first_step(root, size) if root.name == "phantom" else None,
        "torch_threads": torch.get_num_threads(),
    }


if __name__ == "__main__":
    main()
