"""`python -m covidxr`: a thin face on the package. Teaching and research; not a medical device."""

import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import fields
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated

import typer

from covidxr import InputError, launch
from covidxr.config import TrainConfig
from covidxr.files import one_line

app = typer.Typer(
    help="Detect COVID-19 in chest radiographs. For teaching and research, not a medical device.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Look at datasets and download them.")
app.add_typer(data_app, name="data")

UsageError = typer.BadParameter.__base__  # click's, which newer versions of typer contain

Dataset = Annotated[str, typer.Option(help="phantom, radiography, cohen or folder")]
DataDir = Annotated[str | None, typer.Option(help="folder of the dataset (default: data root)")]
Name = Annotated[str | None, typer.Option(help="run folder below runs/ (default: by options)")]
Run = Annotated[Path, typer.Argument(help="run folder", show_default=False)]


@data_app.command("summary")
def summary(dataset: Dataset = "phantom", data_dir: DataDir = None) -> None:
    """Count images, patients and sources of a dataset."""
    from covidxr import datasets

    manifest, root = datasets.load(dataset, data_dir)
    print(f"{dataset} in {root}: {len(manifest):,} images")
    print(datasets.summary(manifest).to_string())


@data_app.command("download")
def fetch(dataset: Annotated[str, typer.Argument(help="radiography, cohen or phantom")]) -> None:
    """Fetch a public dataset (or generate the phantoms) into the data root."""
    from covidxr.download import download

    print(download(dataset))


@data_app.command("overlap")
def overlap(
    a: Annotated[Path, typer.Argument(help="folder of images, at any depth", show_default=False)],
    b: Annotated[Path, typer.Argument(help="another such folder", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="where to write the table as CSV")] = None,
) -> None:
    """List the images of folder B that are already in folder A, identical or nearly so."""
    check_out(out)
    from covidxr import runs, splits

    table, count = splits.overlap(a, b)
    if len(table):
        shown = table.assign(**{name: table[name].map(one_line) for name in list(table)[:2]})
        print(shown.to_string(index=False, float_format="{:.4f}".format))
    if out is not None:
        runs.write_csv(out, table)
    print(
        f"{len(table)} of {count['b']} files in {b} are already among the {count['a']} in {a}, "
        f"{table['identical'].sum()} of them byte for byte; {count['unread']} files of either "
        "could not be read as images"
    )


def check_out(out: Path | None) -> None:
    """Raise InputError, before any work, where `--out` is not a file name in a folder."""
    if out is not None and (out.is_dir() or not out.parent.is_dir()):
        raise InputError(f"--out {out}: expected a file name in a folder that exists")


def takes_config(command: Callable) -> Callable:
    """Give a command one option for every field of TrainConfig, and `--name` of the run.

    The command takes the configuration, the run folder and, by name, options of its own.
    """
    own = [p for p in signature(command).parameters.values() if p.kind is p.KEYWORD_ONLY]

    def run(name: str | None, **options) -> None:
        more = {option.name: options.pop(option.name) for option in own}
        command(TrainConfig(**options), name and Path("runs") / name, **more)

    parameters = [Parameter("name", Parameter.KEYWORD_ONLY, default=None, annotation=Name), *own]
    for option in fields(TrainConfig):
        annotation = Annotated[option.type, typer.Option(help=option.metadata["help"])]
        parameters.append(
            Parameter(
                option.name, Parameter.KEYWORD_ONLY, default=option.default, annotation=annotation
            )
        )
    run.__signature__ = Signature(parameters)
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    return run


@app.command()
@takes_config
def train(
    config: TrainConfig,
    folder: Path | None,
    *,
    resume: Annotated[bool, typer.Option(help="go on with a training that was cut off")] = False,
) -> None:
    """Train a ResNet18 and write a run folder; the test split stays closed."""
    from covidxr import runs

    print(runs.train(config, folder, resume=resume))


@app.command()
def evaluate(
    run: Run,
    audit: Annotated[bool, typer.Option(help="ask if the source gives the class away")] = False,
) -> None:
    """Open the test split of a run: metrics with 95% intervals, predictions and figures."""
    launch.require_one("evaluate")
    from covidxr import evaluation

    result = evaluation.evaluate(run, audit=audit)
    print_metrics(result["metrics"])
    if "covid_vs_normal" in result:
        print("the same model, COVID against Normal")
        print_metrics(result["covid_vs_normal"])
    if "audit" in result:
        print_audit(result["audit"])
    print(run / "metrics.json")


@app.command()
@takes_config
def crossval(config: TrainConfig, folder: Path | None) -> None:
    """Train and test once per fold; metrics per fold and pooled over all images."""
    launch.require_one("crossval")
    from covidxr import evaluation

    run, result = evaluation.crossval(config, folder)
    for fold, rows in enumerate(result["folds"]):
        print(f"fold {fold}")
        print_metrics(rows)
    print("pooled")
    print_metrics(result["metrics"])
    print(run / "metrics.json")


@app.command()
def predict(
    run: Run,
    paths: Annotated[list[Path], typer.Argument(help="image files and folders")],
    out: Annotated[Path, typer.Option(help="where to write the table")] = Path("predictions.csv"),
) -> None:
    """Predict image files and all images in folders; one row each, rejected files included."""
    check_out(out)
    from covidxr import runs

    table = runs.predict_files(run, runs.list_files(paths))
    if launch.rank() > 0:
        return
    runs.write_csv(out, table)
    rejected = int((table["status"] == "rejected").sum())
    print(f"{out}: {len(table)} files, {rejected} rejected. Not a medical device.")


@app.command()
def triage(
    run: Run,
    paths: Annotated[list[Path], typer.Argument(help="image files and folders")],
    out: Annotated[Path, typer.Option(help="the page; a .csv goes beside it")] = Path(
        "worklist.html"
    ),
    manifest: Annotated[
        Path | None,
        typer.Option(help="CSV of films by patient: image_path, patient_id, study_day, view"),
    ] = None,
) -> None:
    """Order image files by urgency and write the worklist, one self-contained page."""
    check_out(out)
    check_out(out.with_suffix(".csv"))
    if out.suffix not in (".html", ".htm"):
        raise InputError(f"--out {out}: expected a name that ends in .html")
    from covidxr import runs, worklist

    table = worklist.make(run, runs.list_files(paths), out, manifest)
    if launch.rank() > 0:
        return
    rejected, asked = (table["status"] == "rejected").sum(), table["to_person"].notna().sum()
    print(f"{out}: {len(table)} files, {rejected} rejected, {asked} in doubt. ", end="")
    print("Not a medical device.")


def print_metrics(rows: list[dict]) -> None:
    """One line a metric: name, class, value, interval, n."""
    for row in rows:
        value = f"{row['value']:.3f}" if row["value"] is not None else "NA"
        interval = f"[{row['low']:.3f}, {row['high']:.3f}]" if row["low"] is not None else ""
        print(f"{row['metric']:<20}{row['class'] or '':<14}{value:>6} {interval:<16} n={row['n']}")


def print_audit(rows: list[dict]) -> None:
    """The audit's scores beside chance, then what could not be run and why."""
    titles = {
        "probe": "what a linear probe tells on the test split, from a part of each image",
        "ablation": "what the run's model scores on the test split when a part is blacked out\n"
        "(not retrained, so such pictures are new to it, which alone costs score)",
    }
    for part, title in titles.items():
        print(title)
        for row in rows:
            if row["part"] == part and row["value"] is not None and row["metric"] != "accuracy":
                interval = f"[{row['low']:.3f}, {row['high']:.3f}]" if row["low"] else ""
                print(
                    f"{row['input']:<29}{row['target']:<8}{row['metric']:<18}{row['value']:.3f} "
                    f"{interval:<16} chance {row['chance']:.3f}  n={row['n']}"
                )
    for row in rows:
        state = "not run" if row["value"] is None else "note"
        told = state == "not run" or "left out" in (row["reason"] or "")
        if told and row["metric"] == "accuracy":
            print(f"{state}: {row['part']}, {row['input']}, {row['target']}: {row['reason']}")


def main() -> None:
    """Exit 0 on success, 2 with one line on bad usage or input, 1 on a real failure."""
    warnings.formatwarning = lambda message, *_, **__: f"warning: {one_line(message)}\n"
    sys.stdout.reconfigure(errors="backslashreplace")  # a file name may hold any byte
    try:
        launch.join()
        if launch.rank() > 0:  # one process speaks for all
            sys.stdout = sys.stderr = open(os.devnull, "w")
        sys.exit(app(standalone_mode=False))
    except UsageError as error:
        message = one_line(error.format_message().rstrip("."))
        print(f"error: {message}; see --help", file=sys.stderr)
        sys.exit(2)
    except InputError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(2)
