"""How long notebook 01 takes to its first figure on a machine like Colab's.

`google.colab` is a stub, only the wheel is on the path, the working folder is empty, and there is
no home to write to. `first_minute.py` prints the seconds and what was written.
"""

import os
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import jupytext
from check import install_wheel
from nbclient import NotebookClient

SOURCE = Path(__file__).resolve().parent / "src" / "01_eda.py"
WHERE = "import covidxr, sys; print(covidxr.__file__, 'google.colab' in sys.modules)"


def pretend_colab(site: Path) -> dict[str, str]:
    """Put a stub of google.colab beside the wheel in `site`; returns the environment."""
    (site / "google" / "colab").mkdir(parents=True)
    (site / "google" / "colab" / "__init__.py").touch()
    (site / "sitecustomize.py").write_text("import google.colab\n")
    kept = {name: value for name, value in os.environ.items() if name != "COVIDXR_DATA"}
    return kept | {"PYTHONPATH": str(site), "HOME": "/proc/none"}


def first_figure(work: Path, environment: dict[str, str]) -> tuple[float, str]:
    """Seconds to the first picture of notebook 01, run in `work`, and what WHERE prints there."""
    settings = {"TMPDIR": "tmp", "JUPYTER_RUNTIME_DIR": "jupyter", "IPYTHONDIR": "ipython"}
    folders = {name: str(work / ".system" / folder) for name, folder in settings.items()}
    for folder in folders.values():
        Path(folder).mkdir(parents=True)
    notebook = jupytext.read(SOURCE)
    client = NotebookClient(notebook, timeout=None, resources={"metadata": {"path": str(work)}})
    start = time.monotonic()
    with mock.patch.dict(os.environ, environment | folders, clear=True), client.setup_kernel():
        for index, cell in enumerate(notebook.cells):
            client.execute_cell(cell, index)
            if any("image/png" in output.get("data", {}) for output in cell.get("outputs", [])):
                break
        else:
            raise RuntimeError("notebook 01 showed no figure")
        seconds = time.monotonic() - start
        cell.source = WHERE
        client.execute_cell(cell, index)
    return seconds, cell.outputs[-1].text.strip()


def main() -> None:
    with tempfile.TemporaryDirectory() as site, tempfile.TemporaryDirectory() as work:
        install_wheel(Path(site))
        seconds, where = first_figure(Path(work), pretend_colab(Path(site)))
        written = sorted(path.name for path in Path(work).iterdir() if path.name != ".system")
        if where != f"{site}/covidxr/__init__.py True":
            sys.exit(f"not as on Colab: {where}")
        print(f"first figure after {seconds:.0f} s on {os.cpu_count()} processors")
        print("written in the working folder:", ", ".join(written))


if __name__ == "__main__":
    main()
