"""Films and their heat maps as small pictures that a page can hold."""

import base64
import io

import numpy as np
import pandas as pd
from PIL import Image

from covidxr import InputError, explain
from covidxr.loaders import read_squares
from covidxr.triage import classes_of

FILM, HEAT = 224, 64  # pixels a side
LAYERS, SMOOTH = ("layer2", "layer3"), 0.09  # as in notebook 05
AMBER, OPACITY = (255, 176, 0), 200  # of the map; its opacity (0-255) at probability 1


def pictures(model, size: int, worklist: pd.DataFrame, batch: int = 64) -> dict[str, dict]:
    """By path of every file that was read: `film` and `heat` as data URIs, and `peak`.

    The map says where the evidence for the most probable disease over Normal comes from; it is as
    strong as that disease is probable. `peak` is its highest place, (x, y) in percent. `heat` and
    `peak` are None where nothing speaks for the disease, or the map is constant.

    Raises:
        InputError: a file that was read before cannot be read again.
    """
    classes = classes_of(worklist)
    normal = classes.index("Normal")
    read, found = worklist[worklist["status"] == "ok"], {}
    p = read[[f"p_{name}" for name in classes]].to_numpy(float)
    disease = np.where(np.arange(len(classes)) == normal, -1, p).argmax(axis=1)
    strength = p[np.arange(len(p)), disease]
    for start in range(0, len(read), batch):
        rows = slice(start, start + batch)
        paths = read["image_path"].iloc[rows].tolist()
        films, squares = _squares(paths, FILM), _squares(paths, size)
        maps = _maps(model, squares, disease[rows], normal)
        for path, film, evidence, share in zip(paths, films, maps, strength[rows], strict=True):
            found[path] = {"film": _uri(Image.fromarray(film))} | _heat(evidence, share)
    return found


def _squares(paths: list[str], size: int) -> np.ndarray:
    """uint8 (N, size, size)."""
    films = list(read_squares(paths, size))
    for path, film in zip(paths, films, strict=True):
        if not isinstance(film, np.ndarray):
            raise InputError(f"{path}: read once, then not again ({film.reason}); start anew")
    return np.stack(films)


def _maps(model, squares: np.ndarray, targets, normal: int) -> list[np.ndarray | None]:
    """A map (S, S) per film; None for a film whose map is constant or not finite."""
    try:
        return list(explain.fine_map(model, squares, targets, LAYERS, SMOOTH, normal))
    except InputError:
        if len(squares) == 1:
            return [None]
    films = (slice(row, row + 1) for row in range(len(squares)))
    return [_maps(model, squares[film], targets[film], normal)[0] for film in films]


def _heat(evidence: np.ndarray | None, share: float) -> dict:
    if evidence is None or evidence.max() <= 0:
        return {"heat": None, "peak": None}
    opacity = np.maximum(evidence, 0) / evidence.max() * share * OPACITY
    picture = Image.new("RGB", (HEAT, HEAT), AMBER)
    picture.putalpha(Image.fromarray(opacity.astype(np.uint8)).resize((HEAT, HEAT)))
    y, x = np.unravel_index(evidence.argmax(), evidence.shape)
    percent = (round(float(100 * (place + 0.5) / len(evidence)), 1) for place in (x, y))
    return {"heat": _uri(picture), "peak": tuple(percent)}


def _uri(picture: Image.Image) -> str:
    data = io.BytesIO()
    picture.save(data, "WEBP", quality=70)
    return "data:image/webp;base64," + base64.b64encode(data.getvalue()).decode()
