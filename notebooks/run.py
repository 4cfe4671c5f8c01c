"""Run all notebooks in order with papermill: `run.py dataset=phantom epochs=3`.

Executed copies go to runs/notebooks/<dataset>/. A failing cell stops the run; the partly executed
notebook stays there. `run.py --resume …` goes on at it: a notebook that was executed to its end, as
it stands now and with the same parameters and version of covidxr, is not executed again.
"""

import hashlib
import json
import re
import sys
import time
from dataclasses import fields
from pathlib import Path

import papermill
from papermill.exceptions import PapermillExecutionError

from covidxr import InputError, __version__, datasets
from covidxr.config import TrainConfig
from covidxr.files import held, one_line, write_text
from covidxr.models import load_weights

HERE = Path(__file__).resolve().parent


def parse(arguments: list[str]) -> dict:
    """`name=value` pairs of TrainConfig; empty values are left to the notebook."""
    names = {option.name for option in fields(TrainConfig)}
    pairs = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals or name not in names:
            raise InputError(f"{argument!r}: expected name=value, name one of {sorted(names)}")
        pairs[name] = value
    whole = {option.name for option in fields(TrainConfig) if option.type is int}
    return {
        name: int(value) if name in whole and re.fullmatch(r"[0-9]{1,18}", value) else value
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


def stamp(notebook: Path, parameters: dict) -> str:
    """Changes with the notebook, its parameters and the version of the package."""
    made_of = json.dumps([__version__, parameters], sort_keys=True).encode()
    return hashlib.sha256(notebook.read_bytes() + made_of).hexdigest()[:16]


def run_all(notebooks: list[Path], folder: Path, parameters: dict, resume: bool) -> None:
    """Execute notebooks into `folder`; done.json there says which are finished."""
    record = folder / "done.json"
    done = json.loads(record.read_text()) if resume and record.is_file() else {}
    for notebook in notebooks:
        made, target = stamp(notebook, parameters), folder / notebook.name
        if done.get(notebook.name, {}).get("stamp") == made and target.is_file():
            print(f"{notebook.name}: executed before", flush=True)
            continue
        start = time.monotonic()
        print(notebook.name, flush=True)
        try:
            run(notebook, target, parameters)
        except PapermillExecutionError as error:
            sys.exit(
                f"{notebook.name}, cell {error.cell_index}: {error.ename}: {error.evalue}\n"
                f"partly executed: {target}; go on from there: make run-all RESUME=1"
            )
        seconds = time.monotonic() - start
        done[notebook.name] = {"stamp": made, "seconds": seconds}
        write_text(record, json.dumps(done, indent=1) + "\n")
        print(f"{notebook.name}: {seconds:.0f} s", flush=True)
    times = {notebook.name: done[notebook.name]["seconds"] for notebook in notebooks}
    write_text(folder / "times.json", json.dumps(times, indent=1) + "\n")


def main(arguments: list[str], notebooks: list[Path]) -> None:
    resume = "--resume" in arguments
    try:
        parameters = parse([argument for argument in arguments if argument != "--resume"])
        check(parameters)
        folder = Path("runs/notebooks") / parameters.get("dataset", "phantom")
        with held(folder):
            run_all(notebooks, folder, parameters, resume)
    except InputError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main(sys.argv[1:], sorted(HERE.glob("0*.ipynb")))
