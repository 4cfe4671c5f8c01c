"""Run all notebooks in order with papermill: `run.py dataset=phantom epochs=3`.

Executed copies go to runs/notebooks/<dataset>/. A failing cell stops the run; the partly executed
notebook stays there.
"""

import json
import sys
import time
from pathlib import Path

import papermill
from papermill.exceptions import PapermillExecutionError

HERE = Path(__file__).resolve().parent


def parse(arguments: list[str]) -> dict:
    """`name=value` pairs; empty values are left to the notebook, whole numbers become int."""
    pairs = dict(argument.split("=", 1) for argument in arguments)
    return {
        name: int(value) if value.isdecimal() else value for name, value in pairs.items() if value
    }


def run(notebook: Path, target: Path, parameters: dict) -> None:
    known = papermill.inspect_notebook(str(notebook))
    papermill.execute_notebook(
        str(notebook),
        str(target),
        parameters={name: value for name, value in parameters.items() if name in known},
        kernel_name="python3",
        execution_timeout=None,
    )


def main(arguments: list[str], notebooks: list[Path]) -> None:
    parameters = parse(arguments)
    folder = Path("runs/notebooks") / parameters.get("dataset", "phantom")
    folder.mkdir(parents=True, exist_ok=True)
    times = {}
    for notebook in notebooks:
        start = time.monotonic()
        print(notebook.name, flush=True)
        try:
            run(notebook, folder / notebook.name, parameters)
        except PapermillExecutionError as error:
            sys.exit(
                f"{notebook.name}, cell {error.cell_index}: {error.ename}: {error.evalue}\n"
                f"partly executed: {folder / notebook.name}"
            )
        times[notebook.name] = time.monotonic() - start
        print(f"{notebook.name}: {times[notebook.name]:.0f} s", flush=True)
    (folder / "times.json").write_text(json.dumps(times, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:], sorted(HERE.glob("0*.ipynb")))
