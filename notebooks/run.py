"""Run all notebooks in order with papermill: `run.py dataset=phantom epochs=3`.

Executed copies go to runs/notebooks/<dataset>/. A failing cell stops the run; the partly executed
notebook stays there.
"""

import json
import sys
import time
from dataclasses import fields
from pathlib import Path

import papermill
from papermill.exceptions import PapermillExecutionError

from covidxr import InputError, datasets
from covidxr.config import TrainConfig
from covidxr.files import make_folder
from covidxr.models import load_weights

HERE = Path(__file__).resolve().parent


def parse(arguments: list[str]) -> dict:
    """`name=value` pairs of TrainConfig; empty values are left to the notebook."""
    pairs = dict(argument.split("=", 1) for argument in arguments)
    whole = {option.name for option in fields(TrainConfig) if option.type is int}
    return {
        name: int(value) if name in whole and value.isdecimal() else value
        for name, value in pairs.items()
        if value
    }


def check(parameters: dict) -> None:
    """Raise InputError on what no notebook could use, before anything is written."""
    config = TrainConfig(**parameters)
    load_weights(config.weights)
    if config.dataset != "phantom" or config.data_dir:  # the default phantoms are made when needed
        datasets.load(config.dataset, config.data_dir)


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
    try:
        check(parameters)
        make_folder(folder)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
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
