"""Build the stored notebooks: percent source -> .ipynb -> execute -> strip what varies.

Runs in the project's folder, so that all notebooks share data/ and runs/.
"""

import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def build(source: Path) -> None:
    target = source.parents[1] / f"{source.stem}.ipynb"
    notebook = jupytext.read(source)
    notebook.metadata["kernelspec"] = KERNEL
    print(target, flush=True)
    NotebookClient(notebook, timeout=None, resources={"metadata": {"path": "."}}).execute()
    nbformat.write(notebook, target)
    subprocess.run(
        [sys.executable, "-m", "nbstripout", "--keep-output", "--keep-count", str(target)],
        check=True,
    )


if __name__ == "__main__":
    for name in sys.argv[1:]:
        build(Path(name))
