"""A run folder: made by `train`, completed by `evaluation`, read by `predict_files`.

config.json, manifest.csv, model.safetensors, history.csv, predictions_val.csv come from training;
predictions_test.csv, metrics.json and figures/ from the one opening of the test split.
"""

import hashlib
import itertools
import json
from contextlib import nullcontext
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from accelerate import PartialState

from covidxr import InputError, __version__, calibration, datasets, severity, splits
from covidxr.files import held, one_line, restored, write_csv, write_text
from covidxr.loaders import XrayDataset, decode, make_loader, read_squares
from covidxr.metadata import FORMAT
from covidxr.models import (
    build_model,
    fold_batch_norm,
    load_checkpoint,
    load_weights,
    save_checkpoint,
)
from covidxr.resume import Keeper, clear, clear_killed, states_in
from covidxr.training import TrainConfig, choose_compute, fit, gather, predict, set_seed

RUNS = Path("runs")
PACKAGES = ("torch", "torchvision", "numpy", "pandas", "scikit-learn", "pillow")


class Data(NamedTuple):
    """A dataset ready for training."""

    manifest: pd.DataFrame  # one row per usable image, with group_id and split
    pixels: np.ndarray  # uint8 (N, S, S), row for row with the manifest
    classes: tuple[str, ...]
    root: Path | None = None  # what the manifest's paths are relative to

    @property
    def targets(self) -> np.ndarray:
        """Class indices (N,)."""
        return self.manifest["label"].map(self.classes.index).to_numpy(int)

    @property
    def scores(self) -> np.ndarray | None:
        """Severity scores (N, 6), NaN where unknown; None where the training films have none."""
        scores = severity.known_scores(self.manifest)
        train = (self.manifest["split"] == "train").to_numpy()
        return None if scores is None or np.isnan(scores[train]).all() else scores

    def part(self, split: str, scored: bool = True) -> XrayDataset:
        """Films of a split with class indices and, if `scored`, severity where it is known."""
        rows = np.flatnonzero(self.manifest["split"] == split)
        return XrayDataset(self.pixels, self.targets, rows, self.scores if scored else None)


def prepare(config: TrainConfig) -> Data:
    """Load, leave out unreadable files (each is printed), group, split and decode."""
    manifest, root = datasets.load(config.dataset, config.data_dir)
    paths = [root / path for path in manifest["image_path"]]
    pixels, rejected = decode(paths, config.image_size)
    squares, _ = decode(paths, 32)
    for row, reason in rejected.items():
        print(f"left out {one_line(manifest['image_path'].iloc[row])}: {reason}")
    usable = np.setdiff1d(np.arange(len(manifest)), list(rejected))
    if rejected:
        # Decoded again without them: a row of pixels is a row of the manifest.
        manifest = manifest.iloc[usable].reset_index(drop=True)
        datasets.check_manifest(manifest, f"{config.dataset} in {root}, readable images")
        pixels, _ = decode([paths[row] for row in usable], config.image_size)
        squares = squares[usable]
    manifest = splits.add_groups(manifest, root, squares=squares)
    return split(Data(manifest, pixels, datasets.classes_of(manifest), root), config)


def split(data: Data, config: TrainConfig) -> Data:
    """The same images with the split of `config`."""
    manifest = splits.assign_split(data.manifest, config.folds, config.test_fold, config.seed)
    if (splits.split_table(manifest) == 0).any(axis=None):
        raise InputError(
            f"{config.dataset}: with seed {config.seed} a split holds no image of some class; add "
            "images or try another seed"
        )
    return data._replace(manifest=manifest)


def run_name(config: TrainConfig) -> str:
    """A folder name that differs whenever the configuration does."""
    start = "scratch" if config.weights == "none" else "finetuned"
    recipe = "frozen" if config.freeze else start
    digest = hashlib.sha256(json.dumps(asdict(config)).encode()).hexdigest()
    return f"{config.dataset}-{recipe}-{digest[:8]}"


def train(
    config: TrainConfig, run: Path | None = None, data: Data | None = None, resume: bool = False
) -> Path:
    """Train and write a run folder; the test split stays closed.

    Below `accelerate launch` all processes train together and the first one writes.

    Args:
        resume: go on after the last finished epoch of a training that was killed, to the same
            weights; what is finished is left as it is.

    Raises:
        InputError: bad configuration or data, weights that cannot be had, a run already in that
            folder, or another process at work there.
    """
    run = Path(run or RUNS / run_name(config))
    if (run / "model.safetensors").exists():
        if not resume:
            raise InputError(f"{run}: holds a finished run; choose another name or delete it")
        clear_killed(run)
        return run
    load_weights(config.weights)  # weights that cannot be had stop here: nothing is written yet
    compute = choose_compute(config.precision)
    with PartialState().main_process_first():  # the others find its image cache
        data = data or prepare(config)
    with held(run) if compute.rank == 0 else nullcontext():
        if states_in(run) and not resume:
            raise InputError(
                f"{run}: holds a training that was cut off; go on with --resume, choose another "
                "name, or delete it"
            )
        _train(run, config, data, compute)
    PartialState().wait_for_everyone()
    return run


def _train(run: Path, config: TrainConfig, data: Data, compute) -> None:
    set_seed(config.seed)
    model = build_model(len(data.classes), config.weights, severity=data.scores is not None)
    keeper = Keeper(run, identity(config, data, compute), compute.rank)
    history = fit(model, data.part("train"), data.part("val"), config, compute, keeper)
    val_loader = make_loader(data.part("val"), 64, shard=compute.shard)
    outputs = predict(model, val_loader, compute, model.outputs)
    if compute.rank == 0:
        _save(run, config, data, model, history, outputs, compute)
        clear(run)


def identity(config: TrainConfig, data: Data, compute) -> dict:
    """What a training that goes on must have in common with the one that was cut off."""
    options = asdict(config)
    del options["data_dir"]  # the folder may have moved, its images are those of the fingerprint
    return options | {"images": fingerprint(data.manifest), "processes": compute.processes}


def _save(run: Path, config: TrainConfig, data: Data, model, history, outputs, compute) -> None:
    """Write the run folder from what training left: `outputs` are the validation split's."""
    manifest, val = data.manifest[data.manifest["split"] == "val"], data.part("val")
    logits = outputs[:, : len(data.classes)]
    meta = metadata(config, data)
    meta["temperature"] = calibration.fit_temperature(logits, val.targets.numpy())
    if model.severity is not None:
        meta["severity"] = severity.fit_spread(outputs[:, -severity.OUTPUTS :], val.scores.numpy())
    table = predictions_table(manifest, outputs, meta)
    meta["threshold"] = _threshold(table)
    used = compute._asdict() | {"memory_format": "channels_last"}
    write_json(run / "config.json", asdict(config) | {"compute": used})
    write_csv(run / "manifest.csv", data.manifest)
    write_csv(run / "history.csv", history)
    write_csv(run / "predictions_val.csv", table)
    # Last: its presence says that the run is complete.
    save_checkpoint(run / "model.safetensors", model, meta)


def find_or_train(config: TrainConfig, data: Data | None = None) -> Path:
    """The run of this configuration if an earlier notebook made it, else train it now.

    A training that was cut off goes on.
    """
    run = RUNS / run_name(config)
    if (run / "model.safetensors").exists():
        print(f"found {run.name}")
        return run
    print(f"no run {run.name} yet: training it now")
    return train(config, run, data, resume=True)


def metadata(config: TrainConfig, data: Data) -> dict:
    """What a checkpoint carries beside its weights and what was fitted on validation."""
    return {
        "format": FORMAT,
        "classes": data.classes,
        "image_size": config.image_size,
        "normalisation": "grey / 255, then (x - 0.449) / 0.226",
        "precision": config.precision,
        "weights": config.weights,
        "dataset": config.dataset,
        "dataset_fingerprint": fingerprint(data.manifest),
        "versions": {"covidxr": __version__} | {name: version(name) for name in PACKAGES},
    }


def _threshold(val: pd.DataFrame) -> float | None:
    """p_COVID at which 95% of the validation split's COVID films are found; None without COVID."""
    if "p_COVID" not in val:
        return None
    return calibration.threshold_at_sensitivity(val["label"] == "COVID", val["p_COVID"], 0.95)


def fingerprint(manifest: pd.DataFrame) -> str:
    """A digest of the images, labels and split that a run was trained on."""
    text = manifest[["image_path", "label", "split"]].to_csv(index=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def predictions_table(rows: pd.DataFrame, outputs: np.ndarray, meta: dict) -> pd.DataFrame:
    """The predictions table of rows that were read, calibrated.

    Args:
        rows: image_path, patient_id, label.
        outputs: (N, C) logits, or (N, C + 8) with the severity head's.
        meta: the checkpoint's classes, temperature and, with a severity head, severity.
    """
    classes = meta["classes"]
    table = rows[["image_path", "patient_id", "label"]].reset_index(drop=True)
    probabilities = calibration.softmax(outputs[:, : len(classes)], meta["temperature"])
    for column, name in enumerate(classes):
        table[f"p_{name}"] = probabilities[:, column].astype(float)
    table["predicted"] = np.asarray(classes)[probabilities.argmax(axis=1)]
    if outputs.shape[1] > len(classes):
        scores = severity.table(outputs[:, len(classes) :], meta["severity"])
    else:
        scores = pd.DataFrame(pd.NA, index=table.index, columns=list(severity.COLUMNS))
    return pd.concat([table, scores], axis=1).assign(status="ok", reason=pd.NA)


def read_run(run) -> tuple[TrainConfig, pd.DataFrame]:
    """Configuration and manifest of a run folder; InputError where it is not one."""
    run = Path(run)
    for name in ("config.json", "manifest.csv", "model.safetensors"):
        if not (run / name).is_file():
            raise InputError(f"{run}: not a run folder, it has no {name}")
    try:
        values = json.loads((run / "config.json").read_text(encoding="utf-8"))
        values.pop("compute", None)
        config = TrainConfig.from_dict(values)
    except InputError:
        raise
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{run}/config.json: damaged ({error}); train the run again") from error
    try:
        return config, read_csv(run / "manifest.csv")
    except ValueError as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{run}/manifest.csv: damaged ({reason}); train the run again") from error


def load_run(run) -> tuple:
    """Configuration, manifest, model and its metadata; InputError where they do not fit."""
    run = Path(run)
    config, manifest = read_run(run)
    model, meta = load_checkpoint(run / "model.safetensors")
    found = tuple(meta["classes"]), meta["image_size"]
    expected = datasets.classes_of(manifest), config.image_size
    if found != expected:
        raise InputError(
            f"{run}: the checkpoint has classes and image size {found}, the manifest and "
            f"config.json have {expected}; restore the run folder or train again"
        )
    return config, manifest, model, meta


def predict_test(run, data: Data | None = None) -> pd.DataFrame:
    """Open the test split of a run: its calibrated predictions, also as predictions_test.csv."""
    run = Path(run)
    config, manifest, model, meta = load_run(run)
    data = data or prepare(config)
    if fingerprint(data.manifest) != meta["dataset_fingerprint"]:
        raise InputError(
            f"{run}: the images, labels or split of {config.dataset!r} are not those of training; "
            "restore the dataset or train again"
        )
    compute = choose_compute(config.precision)
    loader = make_loader(data.part("test"), 64)
    outputs = predict(model.to(compute.device), loader, compute, model.outputs)
    table = predictions_table(manifest[manifest["split"] == "test"], outputs, meta)
    write_csv(run / "predictions_test.csv", table)
    return table


def predict_files(run, paths, batch_size: int = 64) -> pd.DataFrame:
    """Calibrated predictions for image files: one row per file, in order, rejected ones too.

    No files give a table without rows. Below `accelerate launch` the batches are dealt out between
    the processes, and all get the whole table.
    """
    model, meta = load_checkpoint(Path(run) / "model.safetensors")
    compute = choose_compute(meta["precision"])
    classes, size = meta["classes"], meta["image_size"]
    names = pd.Series([str(path) for path in paths], dtype=object)  # may hold bytes of no UTF-8
    rows = pd.DataFrame({"image_path": names})
    rows = rows.assign(patient_id=pd.NA, label=pd.NA)
    if rows.empty:
        return predictions_table(rows, np.zeros((0, len(classes))), meta)
    batches = [paths[i : i + batch_size] for i in range(0, len(paths), batch_size)]
    own = batches[compute.rank :: compute.processes]
    images = read_squares([path for batch in own for path in batch], size)
    reasons = []

    def load():
        for batch in own:
            found = list(itertools.islice(images, len(batch)))
            reasons.append([getattr(image, "reason", None) for image in found])
            read = [image for image in found if isinstance(image, np.ndarray)]
            yield torch.from_numpy(np.array(read, np.uint8).reshape(-1, 1, size, size)), None

    model = fold_batch_norm(model).to(compute.device)
    outputs = predict(model, load(), compute, model.outputs)
    rows["reason"] = list(itertools.chain(*gather(reasons, compute)))
    read = rows["reason"].isna()
    table = predictions_table(rows[read], outputs, meta)
    rejected = rows[~read].assign(status="rejected").reindex(columns=table.columns)
    return pd.concat([table.set_index(rows.index[read]), rejected]).sort_index()


def list_files(paths) -> list[Path]:
    """Files as they are, folders as all files below them, sorted, without hidden ones.

    Raises:
        InputError: a folder that does not exist or is empty. A missing file is kept: it becomes a
            rejected row.
    """
    files = []
    for path in map(Path, paths):
        if path.is_dir():
            found = sorted(p for p in path.rglob("*") if _is_input(p))
            if not found:
                raise InputError(f"{path}: the folder holds no files")
            files += found
        elif path.suffix or path.exists():
            files.append(path)
        else:
            raise InputError(f"{path}: no such folder; give image files or folders of them")
    return files


def _is_input(path: Path) -> bool:
    """Anything but a folder; links that lead nowhere, pipes and the like become rejected rows."""
    return path.name[0] != "." and not path.is_dir()


def read_csv(path: Path) -> pd.DataFrame:
    """A manifest or predictions table; a class may be called "0", only an empty cell is unknown."""
    types = datasets.MANIFEST_DTYPES | {"predicted": "string"}
    return restored(pd.read_csv(path, dtype=types, keep_default_na=False, na_values=[""]))


def write_json(path: Path, content: dict) -> None:
    write_text(Path(path), json.dumps(content, indent=1) + "\n")
