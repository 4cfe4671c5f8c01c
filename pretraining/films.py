"""Phantoms for pre-training: other patients than the course's, and wider ranges of everything.

Class, view, sex, age and detector are drawn independently of each other, so that none of them tells
another. A film comes with what its renderer knows: maps, lesion shares by zone, scores, patient.
"""

import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from tqdm import tqdm

from covidxr import CLASSES, phantom

SEED = 730_000_000  # patients are seeded by it and their number; the course's sets use small seeds
SIZE, CELLS = 128, 32  # pixels a side of a film, cells a side of its maps
MAPS = ("right lung", "left lung", "lesion", "air", "bone", "fluid")
DEEPEST = {"air": 25.0, "bone": 6.0, "fluid": 12.0}  # cm that fill a byte
SCORES = ("extent_right", "opacity_right", "extent_left", "opacity_left")
TRAITS = ("view", "sex", "age", "rotation")


def film(number: int) -> dict[str, np.ndarray]:
    """Film `number`, a patient of its own.

    Returns:
        image, uint8 (128, 128); maps, uint8 (6, 32, 32) in the order of MAPS; label, class index;
        zones, float32 (6,), lesion's share of the upper, middle and lower third of the right, then
        of the left lung; scores (4,) in the order of SCORES; traits (4,) in the order of TRAITS,
        each between 0 and 1.
    """
    rng = np.random.default_rng([SEED, number])
    patient = phantom.Patient(
        seed=SEED,
        index=number,
        label=CLASSES[rng.integers(3)],
        site="site A",
        sex="FM"[rng.integers(2)],
        age=int(rng.integers(18, 95)),
        days=(0,),
        trajectory="stable",
    )
    detector = SimpleNamespace(
        blur=rng.uniform(0.04, 0.25),
        detail=rng.uniform(0.0, 1.4),
        noise=rng.uniform(0.3, 2.5),
        flatten=rng.uniform(0.0, 0.5),
        gamma=rng.uniform(0.65, 1.5),
        marker="LR"[rng.integers(2)],
        boxed=bool(rng.integers(2)),
    )
    difficulty = 2 ** rng.uniform(-1.3, 1.0)
    shot = phantom.render(patient, 0, SIZE, difficulty, ap_share=0.5, detector=detector)
    traits = (
        shot.truth["view"] == "AP",
        patient.sex == "F",
        (patient.age - 18) / 77,
        np.clip(0.5 + shot.truth["rotation_degrees"] / 40, 0, 1),
    )
    return {
        "image": shot.image,
        "maps": maps(shot),
        "label": np.int64(CLASSES.index(patient.label)),
        "zones": zones(shot),
        "scores": np.array([shot.truth[name] for name in SCORES], np.float32),
        "traits": np.array(traits, np.float32),
    }


def maps(shot: phantom.Film) -> np.ndarray:
    """Masks and thicknesses as bytes, averaged over cells of 4 pixels."""
    layers = [shot.lungs["right"], shot.lungs["left"], shot.lesion]
    depths = {"air": "air", "bone": "bone", "fluid": "lesion"}
    layers += [np.clip(shot.paths[depths[k]] / DEEPEST[k], 0, 1) for k in MAPS[3:]]
    cells = np.stack(layers).astype(np.float32).reshape(len(MAPS), CELLS, 4, CELLS, 4)
    return (cells.mean(axis=(2, 4)) * 255).round().astype(np.uint8)


def zones(shot: phantom.Film) -> np.ndarray:
    """Lesion's share of each third of each lung, float32 (6,)."""
    shares = []
    for lung in (shot.lungs["right"], shot.lungs["left"]):
        rows = np.flatnonzero(lung.any(axis=1))
        for part in np.array_split(rows, 3):
            shares.append(shot.lesion[part][lung[part]].mean())
    return np.array(shares, np.float32)


def films(count: int, folder: Path) -> dict[str, np.ndarray]:
    """Films 0 to count - 1, each entry stacked; kept in `folder` and read from there again."""
    path = folder / f"pretraining-{SEED}-{count}.npz"
    if not path.exists():
        with ProcessPoolExecutor(os.cpu_count()) as pool:
            bar = tqdm(pool.map(film, range(count), chunksize=16), total=count, mininterval=20)
            rows = list(bar)
        folder.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".part.npz")
        np.savez(temporary, **{key: np.stack([row[key] for row in rows]) for key in rows[0]})
        temporary.replace(path)
    with np.load(path) as stored:
        return {key: stored[key] for key in stored.files}


if __name__ == "__main__":
    import sys

    films(int(sys.argv[1]), Path(sys.argv[2]))
