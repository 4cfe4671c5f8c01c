"""Build the stored notebooks: percent source -> .ipynb -> execute -> strip what varies.

All run in one empty folder, in order, so that a later notebook finds what an earlier one made.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

from covidxr import datasets

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def build(source: Path, folder: str) -> None:
    target = source.parents[1] / f"{source.stem}.ipynb"
    notebook = jupytext.read(source)
    notebook.metadata["kernelspec"] = KERNEL
    print(target, flush=True)
    NotebookClient(notebook, timeout=None, resources={"metadata": {"path": folder}}).execute()
    nbformat.write(notebook, target)
    strip = [sys.executable, "-m", "nbstripout", "--keep-output", "--keep-count", str(target)]
    subprocess.run(strip, check=True)


def main(sources: list[str]) -> None:
    os.environ["COVIDXR_DATA"] = str(datasets.data_root().resolve())
    datasets.load("phantom")  # made beforehand: the progress bar stays out of notebook 01
    with tempfile.TemporaryDirectory() as folder:
        for source in sources:
            build(Path(source), folder)


if __name__ == "__main__":
    main(sys.argv[1:])
