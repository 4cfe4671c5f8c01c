"""Write the tables of the README and its contact sheet; no figure in them is typed by hand.

`build_readme.py` rewrites the README from docs/results/*.json. `build_readme.py NAME=RUN ...` first
takes over the metrics.json of a run folder as docs/results/NAME.json, and `times=FOLDER` the
notebooks' run times from runs/notebooks/<dataset>/times.json.
"""

import json
import re
import sys
from dataclasses import asdict, fields
from pathlib import Path

import jupytext
import numpy as np
from PIL import Image

from covidxr import CLASSES, phantom, runs
from covidxr.config import TrainConfig

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"
WORDS_A_MINUTE = 200
DATA = {
    "phantom": "synthetic phantom, default set",
    "radiography": "real: a fixed subset of the COVID-19 Radiography Database, 224 × 224 px",
    "cohen": "real: frontal films of the COVID-19 Image Data Collection",
}
NOTES = {
    "phantom": "This test split was in view while the phantoms' difficulty was set (see Limits).",
    "radiography": "The last run had the best validation figures and was chosen for that. "
    "The test split had been opened once before, for an earlier model that scored lower; this "
    "prompted longer training, and the runs were then compared on validation alone. "
    "The `Lung_Opacity` films of this subset are not the release's: they are NIH "
    "ChestX-ray8 films labelled pneumonia by text mining, so their labels are noisy (some of these "
    "films also stand among the `Normal`) and their source is their own.",
    "cohen": "Few films are not COVID, and this run learnt to call all of them COVID: a negative "
    "result, kept for the probes of its audit, for which this set has lung boxes.",
}
INTERVALS = (
    "Intervals are the middle 95% of 2,000 bootstrap resamples of patients or near-duplicate "
    "groups, for the calibration error mirrored at its value. n is what the figure is a share of; "
    "for AUROC the number of COVID films."
)
AUDIT = {
    "probe": "linear probe on {input}, for {target}",
    "ablation": "the model, {input}",
}


def take_over(name: str, run: Path) -> None:
    """Copy a run's metrics into docs/results/, without the folder its images were in."""
    if name == "times":
        (RESULTS / "times.json").write_text((run / "times.json").read_text())
        return
    result = json.loads((run / "metrics.json").read_text())
    result["config"]["data_dir"] = None
    result["run"] = run.name
    result["earlier"] = earlier_runs(result["config"]["weights"])
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")


def earlier_runs(weights: str) -> list[dict]:
    """Name and configuration of the runs that led to a checkpoint, the first one first."""
    if not Path(weights).is_file():
        return []
    run = Path(weights).parent
    config = asdict(runs.read_run(run)[0]) | {"data_dir": None}
    return [*earlier_runs(config["weights"]), {"name": run.name, "config": config}]


def train_command(name: str, config: dict) -> str:
    """The command that trains a run: every option that is not the default."""
    options = ["--data-dir <folder>"] if config["dataset"] != "phantom" else []
    for option in fields(TrainConfig):
        value, flag = config[option.name], option.name.replace("_", "-")
        if value == option.default or value is None:
            continue
        if isinstance(value, bool):
            options.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            options.append(f"--{flag} {value}")
    return " ".join(["python -m covidxr train", *options, f"--name {name}"])


def commands(result: dict) -> str:
    """What reproduces a result, line by line."""
    name = result["run"]
    steps = [*result["earlier"], {"name": name, "config": result["config"]}]
    audit = " --audit" if "audit" in result else ""
    lines = [train_command(step["name"], step["config"]) for step in steps]
    return "\n".join(["```sh", *lines, f"python -m covidxr evaluate runs/{name}{audit}", "```"])


def steps(result: dict) -> str:
    """Where the weights come from: a name, then the image sizes of the runs that led here."""
    configs = [*(run["config"] for run in result["earlier"]), result["config"]]
    sizes = ", then ".join(f"{config['image_size']} px" for config in configs)
    return f"from weights `{configs[0]['weights']}` at {sizes}"


def with_interval(row: dict) -> str:
    """A row of metrics.json as text, such as 0.951 [0.930, 0.968]."""
    text = "NA" if row["value"] is None else f"{row['value']:.3f}"
    return text if row["low"] is None else f"{text} [{row['low']:.3f}, {row['high']:.3f}]"


def rows(result: dict):
    """(task, figure, value, n) for every figure of the README's table."""
    classes = list(result["test_counts"])
    for key, task in (("covid_vs_normal", "COVID against Normal"), ("metrics", "three classes")):
        for row in result[key]:
            chosen = {"accuracy", "macro_f1", "balanced_accuracy", "sensitivity"}
            if key == "covid_vs_normal":
                chosen = {"accuracy", "sensitivity", "specificity", "auroc"}
            if row["metric"] not in chosen or (key != "metrics" and row["class"] == "Normal"):
                continue
            figure = row["metric"].replace("_", " ").replace("auroc", "AUROC").replace("f1", "F1")
            figure += f", {row['class']}" if row["class"] and len(classes) > 2 else ""
            yield task, figure, with_interval(row), row["n"]
    error = result["calibration_error"]
    yield "three classes", "expected calibration error", with_interval(error), error["n"]


def audit_rows(result: dict):
    """(task, figure, value, n) of what the audit could run: macro-AUROC, chance 0.5."""
    for row in result.get("audit", []):
        if row["metric"] == "macro_auroc" and row["value"] is not None:
            yield (
                "audit",
                f"macro AUROC, {AUDIT[row['part']].format(**row)}",
                with_interval(row),
                row["n"],
            )


def read_audit(result: dict) -> str:
    """One sentence that reads the audit; empty where there is none."""
    found = {
        (row["part"], row["input"], row["target"]): row
        for row in result.get("audit", [])
        if row["metric"] == "macro_auroc" and row["value"] is not None
    }
    border = found.get(("probe", "border", "class"))
    if border is None:
        return ""
    text = (
        "Audit: the border of the films alone, which shows hardly any lung, gives a linear probe a "
        f"macro-AUROC of {with_interval(border)}, where 0.5 is chance: "
    )
    if border["low"] is not None and border["low"] > 0.5:
        text += "so much can be had without sight of disease."
    else:
        text += "with this n not to be told from chance."
    black = found.get(("ablation", "lungs blacked out", "class"))
    if black is not None:
        full = found["ablation", "full image", "class"]
        text += (
            f" With the lungs blacked out the model, which was not retrained, keeps "
            f"{with_interval(black)} of {with_interval(full)}."
        )
    return text


def results_table() -> str:
    """All results side by side, with n and 95% intervals, then how each was got."""
    results = {
        name: json.loads((RESULTS / f"{name}.json").read_text())
        for name in DATA
        if (RESULTS / f"{name}.json").exists()
    }
    cells = {
        name: {
            (task, figure): f"{value}; {n:,}"
            for task, figure, value, n in [*rows(result), *audit_rows(result)]
        }
        for name, result in results.items()
    }
    heads = [f"`{name}`, {DATA[name].split(':')[0].split(' ')[0]}" for name in results]
    lines = [f"| value [95% interval]; n | {' | '.join(heads)} |", "|---" * (1 + len(heads)) + "|"]
    for row in dict.fromkeys(row for table in cells.values() for row in table):
        values = " | ".join(table.get(row, "") for table in cells.values())
        lines.append(f"| {': '.join(row)} | {values} |")
    return "\n\n".join(["\n".join(lines), INTERVALS, *map(describe, results, results.values())])


def describe(name: str, result: dict) -> str:
    """What a result was measured on, what to hold against it, and the commands."""
    n, note = result["n"], f" {NOTES[name]}" if name in NOTES else ""
    counts = ", ".join(f"{count} {label}" for label, count in result["test_counts"].items())
    return "\n\n".join(
        [
            f"**`{name}`, {DATA[name]}**: trained on {n['train']:,} films {steps(result)}, "
            f"{n['val']:,} for validation, tested on {n['test']:,} ({counts}) of "
            f"{result['test_groups']:,} groups that stand in no other split.{note} "
            f"{read_audit(result)}".strip(),
            f"<details><summary>Commands</summary>\n\n{commands(result)}\n\n</details>",
        ]
    )


def repository() -> str:
    """The project's address, which stands in pyproject.toml alone."""
    text = (ROOT / "pyproject.toml").read_text()
    return re.search(r'^Repository = "(.+)"$', text, re.MULTILINE)[1]


def minutes_to_read(notebook) -> float:
    """Minutes that the text of a notebook takes at WORDS_A_MINUTE."""
    texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    return sum(len(text.split()) for text in texts) / WORDS_A_MINUTE


def notebooks_table() -> str:
    """Number, question, times and badge of every notebook, from its source."""
    measured = RESULTS / "times.json"
    times = json.loads(measured.read_text()) if measured.exists() else {}
    lines = ["| notebook | question | to read | to run on two cores | |", "|---|---|---|---|---|"]
    badge = "https://colab.research.google.com/assets/colab-badge.svg"
    colab = repository().replace("https://github.com", "https://colab.research.google.com/github")
    for source in sorted((ROOT / "notebooks" / "src").glob("0*.py")):
        notebook, name = jupytext.read(source), f"{source.stem}.ipynb"
        title, question = notebook.cells[0].source.split("\n\n")[:2]
        link = f"{colab}/blob/main/notebooks/{name}"
        time = f"{times[name]:.0f} s" if name in times else "not measured"
        lines.append(
            f"| [{title.strip('# ')}](notebooks/{name}) | {question.strip('*')} "
            f"| {minutes_to_read(notebook):.0f} min | {time} "
            f"| [![Open in Colab]({badge})]({link}) |"
        )
    return "\n".join(lines)


def fill(text: str, name: str, content: str) -> str:
    """Replace what stands between the two markers of `name`."""
    pattern = f"(<!-- {name}:begin -->\n).*?(<!-- {name}:end -->)"
    return re.sub(pattern, lambda m: f"{m[1]}{content}\n{m[2]}", text, flags=re.DOTALL)


def contact_sheet(size: int = 224) -> Image.Image:
    """Four phantoms of each class, a row per class."""
    patients = phantom.plan()
    films = [
        [phantom.render(p, image_size=size).image for p in ill[6:10]]
        for ill in ([p for p in patients if p.label == label] for label in CLASSES)
    ]
    return Image.fromarray(np.vstack([np.hstack(row) for row in films]))


def main() -> None:
    for argument in sys.argv[1:]:
        name, folder = argument.split("=", 1)
        take_over(name, Path(folder))
    readme = ROOT / "README.md"
    text = fill(readme.read_text(), "results", results_table())
    readme.write_text(fill(text, "notebooks", notebooks_table()))
    contact_sheet().save(ROOT / "docs" / "contact_sheet.png", optimize=True)


if __name__ == "__main__":
    main()
