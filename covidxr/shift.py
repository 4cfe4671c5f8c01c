"""Does a score come from disease or from the hospital? Probes, ablations, in- and out-of-source.

Everything works on arrays: pixels uint8 (N, S, S), labels (N,), groups (N,). A table has one row
per figure: input, target, metric, value, low, high, n, chance, reason (why a figure is NA, or what
it leaves out). Intervals come from the bootstrap over groups of `metrics`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from covidxr import metrics
from covidxr.cohen import BOX
from covidxr.images import RejectedImage, read_image, resize

BORDER = 1 / 16  # width of the probed border, share of the side
METRICS = ("accuracy", "balanced_accuracy", "macro_auroc")
MIN_GROUPS = metrics.MIN_GROUPS
UNTRAINED = "the model was not retrained: such pictures are new to it, which alone costs score"


def frame(size: int, share: float = BORDER) -> np.ndarray:
    """Mask (size, size) of the outermost pixels, `share` of the side wide, at least 1 pixel."""
    width = max(1, round(size * share))
    mask = np.ones((size, size), bool)
    mask[width:-width, width:-width] = False
    return mask


def shrink(pixels: np.ndarray, size: int, keep: np.ndarray | None = None) -> np.ndarray:
    """Images as rows (N, size * size); what the mask `keep`, (S, S) or (N, S, S), excludes is 0."""
    masks = np.broadcast_to(True if keep is None else keep, pixels.shape)
    small = [
        resize(np.where(mask, image, 0).astype(np.uint8), size)
        for image, mask in zip(pixels, masks, strict=True)
    ]
    return np.stack(small).reshape(len(pixels), -1)


def linear_probe():
    """What the probes fit: logistic regression on standardised pixels, classes weighted alike.

    Problems this small are fitted on one thread: on two they took twenty-five times as long.
    """
    return make_pipeline(
        StandardScaler(), LogisticRegression(max_iter=1000, class_weight="balanced")
    )


def score(y, probabilities, names: Sequence[str], groups) -> pd.DataFrame:
    """METRICS with n and interval, beside chance: the largest class's share, 1 / K, 0.5."""
    table = pd.concat(
        [
            metrics.classification_metrics(y, probabilities, names, groups),
            metrics.macro_auroc(y, probabilities, names, groups),
        ]
    )
    table = table[table["metric"].isin(METRICS)].drop(columns="class").reset_index(drop=True)
    return table.assign(chance=[np.bincount(y).max() / len(y), 1 / len(names), 0.5])


def missing(reason: str) -> pd.DataFrame:
    """The rows of `score` where nothing can be scored."""
    table = pd.DataFrame({"metric": METRICS, "n": 0, "reason": reason})
    table[["value", "low", "high", "chance"]] = pd.NA
    return table[["metric", "value", "low", "high", "n", "reason", "chance"]]


def probe(features: np.ndarray, labels, split, groups) -> pd.DataFrame:
    """Fit `linear_probe` on the train split and score it on the test split.

    Labels with fewer than MIN_GROUPS groups in either split are left out, and the reason says so;
    with fewer than two left the figures are NA.

    Args:
        features: (N, D).
        labels: (N,) class or source, NA where unknown.
        split: (N,) train, val or test.
        groups: (N,) patient or near-duplicate group.
    """
    rows = pd.DataFrame({"label": np.asarray(labels), "split": np.asarray(split), "g": groups})
    counts = rows.dropna().groupby(["label", "split"])["g"].nunique().unstack(fill_value=0)
    counts = counts.reindex(columns=["train", "test"], fill_value=0)
    names = counts.index[(counts >= MIN_GROUPS).all(axis=1)].tolist()
    small = counts.index.difference(names).tolist()
    small = ", ".join(small) if 0 < len(small) <= 3 else f"{len(small)} of them"
    left_out = f"{small} with fewer than {MIN_GROUPS} groups in train or test"
    if len(names) < 2:
        return missing(f"{len(names)} to tell apart, two needed; {left_out}")
    chosen = rows["label"].isin(names)
    train, test = (np.flatnonzero(chosen & (rows["split"] == part)) for part in ("train", "test"))
    y = rows["label"].map({name: i for i, name in enumerate(names)})
    with threadpool_limits(1):
        model = linear_probe().fit(features[train], y.iloc[train].astype(int))
    table = score(
        y.iloc[test].to_numpy(int),
        model.predict_proba(features[test]),
        names,
        rows["g"].iloc[test].to_numpy(),
    )
    return table if len(names) == len(counts) else _note(table, f"left out: {left_out}")


def probes(data, lungs: np.ndarray | None = None, known: np.ndarray | None = None) -> pd.DataFrame:
    """Do border, 16 x 16 thumbnail and thumbnail without lungs tell class and source?

    Args:
        data: manifest (with group_id and split) and pixels, row for row: a runs.Data.
        lungs, known: see `lung_masks`; images without a mask are left out of the third input.
    """
    edge = frame(data.pixels.shape[1])
    inputs = {
        "border": shrink(data.pixels, 32, edge)[:, frame(32).ravel()],
        "thumbnail": shrink(data.pixels, 16),
    }
    everything = np.ones(len(data.pixels), bool)
    rows = {name: everything for name in inputs}
    inputs["thumbnail, lungs blacked out"], rows["thumbnail, lungs blacked out"] = None, known
    if known is not None and known.any():
        inputs["thumbnail, lungs blacked out"] = shrink(data.pixels, 16, ~lungs)
    tables = []
    for target, column in (("class", "label"), ("source", "source")):
        for name, features in inputs.items():
            if features is None:
                table = missing("no lung masks or boxes")
            else:
                part, own = data.manifest[rows[name]], features[rows[name]]
                table = probe(own, part[column], part["split"], part["group_id"].to_numpy())
            tables.append(table.assign(input=name, target=target))
    return _tidy(tables)


def ablations(
    predict: Callable, data, lungs: np.ndarray | None = None, known: np.ndarray | None = None
) -> pd.DataFrame:
    """Scores of a trained model on test images of which a part is blacked out.

    A model that was never shown such pictures meets unfamiliar inputs: a lower score is no proof
    that the hidden part was used, but a high score without lungs is proof that they are not needed.

    Args:
        predict: pixels uint8 (N, S, S) to probabilities (N, K).
        data, lungs, known: as for `probes`; with masks, all inputs use the images that have one.
    """
    test = (data.manifest["split"] == "test").to_numpy()
    masked = known is not None and (known & test).any()
    rows = np.flatnonzero(test & known if masked else test)
    pixels, edge = data.pixels[rows], frame(data.pixels.shape[1])
    inputs = {"full image": pixels, "border only": np.where(edge, pixels, 0)}
    if masked:
        inputs["lungs only"] = np.where(lungs[rows], pixels, 0)
        inputs["lungs blacked out"] = np.where(lungs[rows], 0, pixels)
    groups, tables = data.manifest["group_id"].to_numpy()[rows], []
    for name, changed in inputs.items():
        table = score(data.targets[rows], predict(changed.astype(np.uint8)), data.classes, groups)
        tables.append(
            (table if name == "full image" else _note(table, UNTRAINED)).assign(input=name)
        )
    if not masked:
        for name in ("lungs only", "lungs blacked out"):
            tables.append(missing("no lung masks or boxes").assign(input=name))
    return _tidy([table.assign(target="class") for table in tables])


def grouping(pixels: np.ndarray, y, classes: Sequence[str], groups, seed: int = 0) -> pd.DataFrame:
    """Accuracy of `linear_probe` on thumbnails, films split at random against whole groups.

    Out-of-fold predictions of 5 folds; scored on the films that have a relative, i.e. another film
    of their group, since only these can leak.

    Returns:
        Rows "split at random", "split by group" and "difference"; NA with fewer than MIN_GROUPS
        groups of more than one film.
    """
    y, groups = np.asarray(y), pd.factorize(np.asarray(groups))[0]
    related = np.bincount(groups)[groups] > 1
    names = ("split at random", "split by group", "difference")
    if len(np.unique(groups[related])) < MIN_GROUPS:
        few = missing(f"fewer than {MIN_GROUPS} groups of more than one film")[:1]
        return _tidy([few.assign(input=name, target="class") for name in names])
    features, folds = shrink(pixels, 16), {"n_splits": 5, "shuffle": True, "random_state": seed}
    ways = {StratifiedKFold: None, StratifiedGroupKFold: groups}
    with threadpool_limits(1):
        p = [
            cross_val_predict(
                linear_probe(), features, y, groups=by, cv=kind(**folds), method="predict_proba"
            )[related]
            for kind, by in ways.items()
        ]
    own, mine = y[related], groups[related]
    tables = [score(own, q, classes, mine)[:1] for q in p]
    change = metrics.paired_bootstrap(own, p[1], p[0], classes, mine)[:1]
    tables.append(change.rename(columns={"difference": "value"}).assign(chance=pd.NA))
    return _tidy([t.assign(input=n, target="class") for t, n in zip(tables, names, strict=True)])


def lung_masks(manifest: pd.DataFrame, root: Path, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Lung masks bool (N, size, size) from files or boxes, and which films have one, bool (N,).

    A mask file is `lung_mask_path`, bright on the lungs; boxes are `left_x` ... `right_height` in
    pixels of the film, both lungs needed. A mask that cannot be read counts as none.
    """
    lungs, known = np.zeros((len(manifest), size, size), bool), np.zeros(len(manifest), bool)
    boxes = manifest.filter(regex="^(left|right)_(x|y|width|height)$")
    has_box = boxes.notna().all(axis=1) & (boxes.shape[1] == 8)
    for i, row in enumerate(manifest.itertuples()):
        try:
            if pd.notna(row.lung_mask_path):
                lungs[i] = resize(read_image(Path(root) / row.lung_mask_path), size) > 127
            elif has_box.iloc[i]:
                height, width = read_image(Path(root) / row.image_path).shape
                for lung in ("left", "right"):
                    x, y, w, h = (getattr(row, f"{lung}_{part}") for part in BOX)
                    x0, x1 = round(x * size / width), round((x + w) * size / width)
                    y0, y1 = round(y * size / height), round((y + h) * size / height)
                    lungs[i, max(0, y0) : y1, max(0, x0) : x1] = True
        except RejectedImage:
            continue
        known[i] = lungs[i].any()
    return lungs, known


def audit(data, predict: Callable) -> pd.DataFrame:
    """All that the data allow: `probes` and `ablations`, told apart by the column `part`.

    Args:
        data: a runs.Data with its `root`; predict: see `ablations`.
    """
    masks = lung_masks(data.manifest, data.root, data.pixels.shape[1])
    parts = {"probe": probes(data, *masks), "ablation": ablations(predict, data, *masks)}
    tables = [table.assign(part=name) for name, table in parts.items()]
    return pd.concat(tables, ignore_index=True)


def in_and_out(predict: Callable, pixels, y, classes, groups, home) -> pd.DataFrame:
    """Scores of one model at its own site and elsewhere: `score` with `input` "in" and "out".

    Args:
        predict: pixels uint8 (N, S, S) to probabilities (N, K).
        home: bool (N,), film of a site that the model was trained on. A side without films is NA.
    """
    tables, groups = [], np.asarray(groups)
    for name, rows in (("in", np.flatnonzero(home)), ("out", np.flatnonzero(~np.asarray(home)))):
        if len(rows):
            table = score(y[rows], predict(pixels[rows]), classes, groups[rows])
        else:
            table = missing(f"no film {name} of the site")
        tables.append(table.assign(input=name, target="class"))
    return _tidy(tables)


def _note(table: pd.DataFrame, note: str) -> pd.DataFrame:
    """The table with a note added to every reason."""
    return table.assign(
        reason=table["reason"].map(lambda r: note if pd.isna(r) else f"{r}; {note}")
    )


def _tidy(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    columns = ["input", "target", "metric", "value", "low", "high", "n", "chance", "reason"]
    types = dict.fromkeys(columns[3:6] + ["chance"], "Float64") | {"n": "Int64"}
    tables = [table[columns].astype(types | {"reason": "string"}) for table in tables]
    return pd.concat(tables, ignore_index=True)
