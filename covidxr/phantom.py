"""Synthetic chest radiographs with known truth: a parametric thorax and the Beer-Lambert law.

Tissue path lengths (cm, from `thorax`) are weighted by attenuation coefficients and
exponentiated; scatter, blur, quantum noise and the detector's logarithm follow. Lesions replace
a share of the lung's air by water, so masks, extent and opacity come from what was rendered.

Attenuation near 60 keV: NIST X-Ray Mass Attenuation Coefficients (Hubbell and Seltzer, NISTIR
5632): water 0.206 /cm, cortical bone 0.60 /cm (0.50 is taken for bone with its marrow). Aerated
lung has 0.26 g/cm3 (ICRU 44): a centimetre of lung replaces 0.74 cm of water by air.
"""

import json
import math
import multiprocessing
import os
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Thread
from types import SimpleNamespace as Params

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from tqdm import tqdm

from . import CLASSES, InputError, thorax
from .files import held

FORMAT_VERSION = 1
RELEASE_COUNTS = {"Normal": 10192, "Lung_Opacity": 6012, "COVID": 3616}  # Radiography Database
SITE_A_SHARE = {"Normal": 0.55, "Lung_Opacity": 0.50, "COVID": 0.45}
AP_SHARE = {"Normal": 0.20, "Lung_Opacity": 0.40, "COVID": 0.45}
FOLLOWED_SHARE = 1 / 7  # of patients; with 2-5 follow-ups each this makes 1.5 films a patient

MU_WATER, MU_BONE = 0.206, 0.50  # 1/cm
AIR_IN_LUNG = 0.74
KINDS = ("images", "masks", "lesions")


@dataclass(frozen=True)
class Patient:
    """Who is filmed; with `seed` and `index` this fixes every pixel of every film."""

    seed: int
    index: int
    label: str
    site: str
    sex: str
    age: int
    days: tuple[int, ...]
    trajectory: str


@dataclass(frozen=True)
class Film:
    """One rendered film.

    Attributes:
        image: uint8 (size, size), dense tissue bright.
        lungs: bool masks of the "right" and "left" lung field, diseased parts included.
        lesion: bool mask, inside the lung fields.
        paths: float32 maps in cm: "soft", "air", "bone" and "lesion".
        truth: the film's row of metadata.csv, without the paths.
    """

    image: np.ndarray
    lungs: dict[str, np.ndarray]
    lesion: np.ndarray
    paths: dict[str, np.ndarray]
    truth: dict


def _rng(patient: Patient, *stream: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence([patient.seed, patient.index, *stream]))


# --- findings ---------------------------------------------------------------------------------


def _findings(patient: Patient) -> Params:
    """The disease on day 0. Patches sit in lung coordinates: u from hilum to rib, v from apex to
    base; density is the share of the lung's air that fluid replaces."""
    rng = _rng(patient, 2)
    disease = Params(pattern="none", patches=[], lobes=[], effusions=[], glass=0.0, solid=0.0)
    first = rng.choice([-1, 1], p=[0.45, 0.55])
    load = 0.2 + 0.8 * rng.beta(1.5, 1.8)
    if patient.label == "COVID":
        both = rng.random() < 0.86
        disease.pattern = "bilateral patches" if both else "one-sided patches"
        for side in (first, -first) if both else (first,):
            for _ in range(2 + rng.poisson(11 * load * (1 if side == first else 0.75))):
                disease.patches.append(
                    (side, rng.beta(4.5, 1.6), rng.beta(4.5, 1.6), *rng.uniform(0.8, 1.9, 2))
                )
        disease.glass, disease.solid = 0.32 + 0.20 * load, rng.uniform(0.05, 0.45)
    elif patient.label == "Lung_Opacity":
        disease.pattern = str(rng.choice(["focal", "lobar", "effusion"], p=[0.48, 0.42, 0.10]))
        sides = (first, -first) if rng.random() < 0.14 else (first,)
        disease.glass, disease.solid = rng.uniform(0.60, 0.85), rng.uniform(0.1, 0.4)
        for side in sides:
            if disease.pattern == "focal":
                u, v = rng.uniform(0.15, 0.8), rng.uniform(0.2, 0.9)
                for _ in range(rng.integers(1, 4)):
                    size = rng.uniform(3.0, 4.6) * (0.8 + 0.5 * load)
                    spot = (u + rng.normal(0, 0.12), v + rng.normal(0, 0.06))
                    disease.patches.append((side, *spot, size, size * rng.uniform(0.7, 1.2)))
            elif disease.pattern == "lobar":
                low, high = ((0.02, 0.42), (0.48, 0.75), (0.62, 1.1))[rng.integers(3)]
                disease.lobes.append(
                    (side, low, high, rng.uniform(-0.5, 0.4), rng.uniform(0.7, 1.1))
                )
            else:
                disease.effusions.append((side, 8 + 9 * load * rng.uniform(0.6, 1.2)))
    return disease


def _course(patient: Patient, visit: int) -> float:
    """How strong the disease is at a visit, 1 at the first one."""
    days = patient.days[visit]
    rate = {"worse": 0.045, "stable": 0.0, "better": -0.045}[patient.trajectory]
    wobble = _rng(patient, 3, visit).normal(0, 0.03) if visit else 0.0
    return float(np.clip(1 + rate * days + wobble, 0.45, 1.7))


def _lesions(disease, body, pose, x, y, strength: float, difficulty: float):
    """Share of the lung's air replaced (0-1) and the geometric weight of the lesion (0-1)."""
    coarse, fine = (thorax.texture(body, pose, layer, x.shape[0]) for layer in (1, 2))
    size = difficulty**-0.25 * strength**0.8
    bump = np.zeros_like(x)
    for side, u, v, a, b in disease.patches:
        cy = v * float(thorax.diaphragm(body, pose, 10 * body.scale, side))
        edge = float(thorax.medial(cy))
        cx = side * (edge + u * (float(thorax.cage(body, cy)) - edge))
        r2 = ((x - cx) / (a * size)) ** 2 + ((y - cy) / (b * size)) ** 2
        bump += np.exp(-0.5 * r2)
    for side, low, high, slope, reach in disease.lobes:
        v = y / thorax.diaphragm(body, pose, x, side)
        v += 0.03 * coarse + 0.1 * slope * (np.abs(x) - 7) / 6  # fissures run obliquely
        part = thorax.ramp(v, low - 0.02, low + 0.03) * thorax.ramp(high - v, -0.02, 0.03)
        part *= thorax.ramp(reach * size + 0.15 - np.abs(x) / body.cage, -0.1, 0.2)
        bump += 1.25 * min(strength, 1.2) * part * (side * x > 0)
    weight = thorax.ramp(bump + 0.18 * coarse + 0.05 * fine, 0.25, 0.85) * (bump > 0.12)
    dense = thorax.ramp(bump + 0.22 * coarse, 0.75, 1.35)
    share = (disease.glass * weight + disease.solid * dense) * (1 + 0.12 * fine) * strength**0.7
    share = share * difficulty**-0.8
    for side, rise in disease.effusions:
        u = np.clip(np.abs(x) / thorax.cage(body, y), 0, 1)
        corner = thorax.diaphragm(body, pose, 12.2 * body.scale, side)
        surface = corner - rise * size * (0.55 + 0.6 * u**6 + 0.12 * (1 - u) ** 4)
        fluid = thorax.ramp(y - surface, -0.3, 0.9) * (side * x > 0)
        weight, share = np.maximum(weight, fluid), np.maximum(share, 0.9 * fluid)
    return np.clip(share, 0, 0.93), weight


def _scores(lungs: dict, lesion: np.ndarray, share: np.ndarray) -> dict:
    """Extent 0-4 and opacity 0-3 of each lung, after Cohen et al. 2020 (doi:10.7759/cureus.9448).

    Extent steps at 25, 50 and 75% of the lung's area. Opacity steps (glass, mixed, white) where
    the lesions' mean share of replaced air passes 0.35 and 0.65.
    """
    row = {}
    for side, lung in lungs.items():
        sick = lesion & lung
        fraction = sick.sum() / lung.sum()
        row[f"lung_fraction_{side}"] = round(float(fraction), 6)
        row[f"extent_{side}"] = int(fraction > 0) + int(np.sum(fraction >= np.array([1, 2, 3]) / 4))
        grade = 1 + int(np.sum(share[sick].mean() >= np.array([0.35, 0.65]))) if sick.any() else 0
        row[f"opacity_{side}"] = grade
    for score in ("extent", "opacity"):
        row[score] = row[f"{score}_right"] + row[f"{score}_left"]
    return row


def _visible_lesions(disease, body, pose, x, y, field, strength: float, difficulty: float):
    """Share of air replaced, and the lesion mask; disease too small to see grows until it shows."""
    while True:
        share, weight = _lesions(disease, body, pose, x, y, strength, difficulty)
        lesion = (weight > 0.3) & field
        if lesion.sum() >= 0.004 * field.sum():
            return share, lesion
        strength = min(1.15 * strength, 4.0)
        if strength == 4.0:  # size alone does not do where a lobe lies behind heart or diaphragm
            disease.lobes = [(s, low - 0.04, high, *rest) for s, low, high, *rest in disease.lobes]


# --- detector ---------------------------------------------------------------------------------

SITES = {  # two vendors: blur (cm), edge enhancement, noise, range compression, tone, marker
    "site A": Params(
        blur=0.09, detail=0.9, noise=1.0, flatten=0.30, gamma=1.05, marker="R", boxed=False
    ),
    "site B": Params(
        blur=0.13, detail=0.4, noise=1.3, flatten=0.20, gamma=0.90, marker="L", boxed=True
    ),
}


def _wide_blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Wide, nearly Gaussian blur (sigma in pixels) by two box filters."""
    width = round(sigma * math.sqrt(6)) | 1
    for _ in range(2):
        image = ndimage.uniform_filter(image, width, mode="nearest")
    return image


def _detect(optical: np.ndarray, pose: Params, site: Params, difficulty: float) -> np.ndarray:
    """Line integrals (dimensionless) to a display image in 0-1."""
    rng = np.random.default_rng(pose.seed)
    per_cm = optical.shape[0] / pose.fov
    primary = np.exp(-optical)
    signal = primary + pose.scatter * _wide_blur(np.minimum(primary, 0.25), 3.5 * per_cm)
    signal = ndimage.gaussian_filter(signal, site.blur * per_cm, truncate=3)
    grain = rng.standard_normal(signal.shape, dtype=np.float32)
    signal += grain * site.noise * difficulty**0.5 * np.sqrt(signal / pose.photons) * 0.35
    dark = -np.log(np.maximum(signal, 1e-4))
    body = optical > 0.8
    dark -= site.flatten * (_wide_blur(dark, 4.0 * per_cm) - dark[body].mean())
    dark += site.detail * (dark - _wide_blur(dark, 0.7 * per_cm))
    low, high = np.percentile(dark[body][::7], [3, 97])
    tone = np.clip((dark - low) / (high - low), -2, 3)
    tone = 0.5 + (tone - 0.5) * 0.84 * pose.contrast + pose.brightness
    tone = 1 / (1 + np.exp(-3.9 * (tone - 0.48)))  # film-like toe and shoulder
    return np.clip((tone - 0.09) / 0.84, 0, 1) ** site.gamma


def _finish(tone: np.ndarray, pose: Params, site: Params) -> tuple[np.ndarray, str]:
    """Collimator edge and burnt-in marker; returns the uint8 film and the marker's letter."""
    rng = np.random.default_rng([pose.seed, 1])
    size = tone.shape[0]
    letter = site.marker if rng.random() < 0.8 else {"R": "L", "L": "R"}[site.marker]
    image = Image.fromarray((tone * 255).round().astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for edge in range(4):  # shutters left open on most films
        width = int(size * rng.uniform(0.01, 0.035)) if rng.random() < 0.15 else 0
        if width:
            image.paste(0, ((0, 0, width, size), (size - width, 0, size, size),
                            (0, 0, size, width), (0, size - width, size, size))[edge])  # fmt: skip
    high = round(size * rng.uniform(0.05, 0.065))
    font = ImageFont.load_default(size=high)
    x = size * rng.uniform(0.05, 0.13)
    x = round(x if letter == "R" else size - x)
    y = round(size * rng.uniform(0.06, 0.14))
    draw.text((x, y), letter, fill=int(rng.integers(215, 246)), font=font, anchor="mm")
    if site.boxed:
        half = round(0.62 * high)
        draw.ellipse((x - half, y - half, x + half, y + half), outline=220)
    return np.asarray(image), letter


# --- patients and films -----------------------------------------------------------------------


def render(
    patient: Patient,
    visit: int = 0,
    image_size: int = 224,
    difficulty: float = 1.0,
    ap_share: float | None = None,
    detector: Params | None = None,
) -> Film:
    """Renders one film of a patient.

    Args:
        patient: from `plan`, or made by hand.
        visit: index into `patient.days`.
        image_size: pixels a side.
        difficulty: see `generate`.
        ap_share: probability of an anteroposterior film; by default that of the patient's class.
        detector: what films are taken with, as in `SITES`; by default that of the patient's site.
    """
    body = thorax.anatomy(_rng(patient, 0), patient.sex, patient.age)
    rng = _rng(patient, 1, visit)
    odds = AP_SHARE[patient.label] if ap_share is None else ap_share
    pose = thorax.pose(rng, body, ap=rng.random() < odds)
    x, y = thorax.grid(pose, image_size)
    lung, lungs = thorax.lungs(body, pose, x, y)
    disease = _findings(patient)
    share, lesion = np.zeros_like(x), np.zeros(x.shape, bool)
    if patient.label != "Normal":
        field, strength = lungs["right"] | lungs["left"], _course(patient, visit)
        share, lesion = _visible_lesions(disease, body, pose, x, y, field, strength, difficulty)
    paths = _paths(body, pose, x, y, lung, share, difficulty)
    optical = MU_WATER * (paths["soft"] - paths["air"] + paths["lesion"])
    optical += (MU_BONE - MU_WATER) * paths["bone"]
    site = detector or SITES[patient.site]
    image, marker = _finish(_detect(optical, pose, site, difficulty), pose, site)
    truth = {
        "label": patient.label,
        "patient_id": f"P{patient.index + 1:04d}",
        "source": patient.site,
        "view": pose.view,
        "sex": patient.sex,
        "age_years": patient.age,
        "study_day": patient.days[visit],
        **_scores(lungs, lesion, share),
        "pattern": disease.pattern,
        "trajectory": patient.trajectory,
        "rotation_degrees": round(pose.rotation, 2),
        "marker": marker,
    }
    return Film(image, lungs, lesion, paths, truth)


def _paths(body, pose, x, y, lung, share, difficulty: float) -> dict[str, np.ndarray]:
    """Path lengths in cm: soft tissue as if solid, air that replaces it, bone, and lesions."""
    size = x.shape[0]
    soft = thorax.soft_tissue(body, pose, x, y)
    inside = thorax.ramp(soft, 0, 3)
    soft += 0.22 * difficulty**0.5 * thorax.texture(body, pose, 0, size) * inside
    soft += AIR_IN_LUNG * np.minimum(1.3 * thorax.vessels(body, pose, size), 0.4 * lung)
    air = AIR_IN_LUNG * lung + thorax.airways(body, pose, x, y) * inside
    return {
        "soft": soft,
        "air": np.minimum(air, 0.9 * soft),
        "bone": thorax.skeleton(body, pose, x, y) * inside,
        "lesion": AIR_IN_LUNG * lung * share,
    }


def plan(n_images: int = 1200, seed: int = 0) -> list[Patient]:
    """Patients whose films number `n_images`, with the class shares of the public release."""
    rng = np.random.default_rng(np.random.SeedSequence([seed]))
    total = sum(RELEASE_COUNTS.values())
    left = {c: round(n_images * RELEASE_COUNTS[c] / total) for c in CLASSES[1:]}
    left = {CLASSES[0]: n_images - sum(left.values()), **left}
    stays = []
    for label, films in left.items():
        while films:
            more = int(rng.integers(2, 6)) if rng.random() < FOLLOWED_SHARE and films > 2 else 0
            more = min(more, films - 1)
            stays.append((label, more))
            films -= more + 1
    patients = []
    for index, k in enumerate(rng.permutation(len(stays))):
        label, more = stays[k]
        days = np.concatenate([[0], np.cumsum(rng.integers(1, 6, more))])
        mean_age = {"Normal": 50, "Lung_Opacity": 57, "COVID": 58}[label]
        patients.append(
            Patient(
                seed=seed,
                index=index,
                label=label,
                site="site A" if rng.random() < SITE_A_SHARE[label] else "site B",
                sex="F" if rng.random() < 0.46 else "M",
                age=int(np.clip(rng.normal(mean_age, 15), 20, 90)),
                days=tuple(int(d) for d in days),
                trajectory=str(rng.choice(["worse", "stable", "better"], p=[0.4, 0.25, 0.35])),
            )
        )
    return patients


# --- writing ----------------------------------------------------------------------------------


def _save(array: np.ndarray, path: Path) -> None:
    Image.fromarray(array).save(path, compress_level=1)


def _write_patient(job: tuple, root: Path, image_size: int, difficulty: float) -> list[dict]:
    """Renders and writes all films of one patient; returns their rows of metadata.csv."""
    patient, first = job
    rows = []
    for visit in range(len(patient.days)):
        film = render(patient, visit, image_size, difficulty)
        name = f"{patient.label}-{first + visit}.png"
        names = {k: f"{patient.label}/{k}/{name}" for k in KINDS}
        lungs = film.lungs["right"] | film.lungs["left"]
        _save(film.image, root / names["images"])
        _save(lungs.astype(np.uint8) * 255, root / names["masks"])
        _save(film.lesion.astype(np.uint8) * 255, root / names["lesions"])
        where = {"lung_mask_path": names["masks"], "lesion_mask_path": names["lesions"]}
        rows.append({"image_path": names["images"], **film.truth, **where})
    return rows


def _end_with_parent() -> None:
    """A worker whose parent is killed would wait for jobs for ever."""

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    Thread(target=wait, daemon=True).start()


def _rows(jobs: list, write: Callable, workers: int, progress: bool) -> list[dict]:
    """Runs `write` on every job, in order, with a progress bar that is sparse in a log file."""
    rows = []
    bar = tqdm(
        total=sum(len(patient.days) for patient, _ in jobs),
        desc="phantom",
        unit="film",
        file=sys.stderr,
        disable=not progress,
        mininterval=0.1 if sys.stderr.isatty() else 10,
    )
    several = workers > 1
    with (
        (
            ProcessPoolExecutor(workers, initializer=_end_with_parent) if several else nullcontext()
        ) as pool,
        bar,
    ):
        results = pool.map(write, jobs, chunksize=4) if pool else map(write, jobs)
        for films in results:
            rows += films
            bar.update(len(films))
    return rows


def _check(n_images: int, image_size: int, seed: int, difficulty: float) -> None:
    if n_images < 20:
        raise InputError(f"n_images is {n_images}; expected at least 20")
    if image_size < 64:
        raise InputError(f"image_size is {image_size}; expected at least 64 pixels")
    if seed < 0:
        raise InputError(f"seed is {seed}; expected 0 or more")
    if not 0 < difficulty < math.inf:
        raise InputError(f"difficulty is {difficulty}; expected a number above 0, by default 1")


def _already_there(folder: Path, parameters: dict) -> bool:
    """True when `folder` holds exactly the asked-for set; False when it is absent or empty."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    record, table = folder / "phantom.json", folder / "metadata.csv"
    if not (record.is_file() and table.is_file()):
        raise InputError(f"{folder} exists and is not a phantom set; name a new or an empty folder")
    found = json.loads(record.read_text())
    if found != parameters:
        raise InputError(
            f"{folder} holds a phantom set made with {found}, but {parameters} was asked for; "
            "name another folder, or delete this one"
        )
    missing = [p for p in pd.read_csv(table)["image_path"] if not (folder / p).is_file()]
    if missing:
        raise InputError(
            f"{folder} lacks {len(missing)} of its images, the first is {missing[0]}; "
            "delete the folder and generate it again"
        )
    return True


def _write_set(root: Path, parameters: dict, workers: int, progress: bool) -> None:
    """Writes all or nothing."""
    try:
        _write_films(root, parameters, workers, progress)
    except BaseException:
        shutil.rmtree(root, ignore_errors=True)
        raise


def _write_films(root: Path, parameters: dict, workers: int, progress: bool) -> None:
    for kind in KINDS:
        for label in CLASSES:
            (root / label / kind).mkdir(parents=True)
    jobs, number = [], dict.fromkeys(CLASSES, 1)
    for patient in plan(parameters["n_images"], parameters["seed"]):
        jobs.append((patient, number[patient.label]))
        number[patient.label] += len(patient.days)
    size, difficulty = parameters["image_size"], parameters["difficulty"]
    write = partial(_write_patient, root=root, image_size=size, difficulty=difficulty)
    rows = _rows(jobs, write, workers, progress)
    pd.DataFrame(rows).to_csv(root / "metadata.csv", index=False)
    (root / "phantom.json").write_text(json.dumps(parameters, indent=2) + "\n")


def generate(
    folder: str | os.PathLike,
    n_images: int = 1200,
    image_size: int = 224,
    seed: int = 0,
    difficulty: float = 1.0,
    progress: bool = True,
    workers: int | None = None,
) -> Path:
    """Writes a set of phantoms in the layout of the COVID-19 Radiography Database.

    `<class>/images`, `<class>/masks` (lung fields) and `<class>/lesions` hold PNG files of the
    same names; `metadata.csv` holds every truth and `phantom.json` the parameters. The set
    appears under its name only when it is complete. The same seed gives the same bytes whatever
    the number of workers.

    Args:
        folder: where to write; an identical set that is already there is left untouched.
        n_images: at least 20.
        image_size: pixels a side, at least 64.
        seed: fixes patients, films and noise.
        difficulty: above 1 lesions grow fainter and smaller and the films noisier, below 1
            the reverse.
        progress: shows a bar on stderr.
        workers: processes, by default one per core.

    Returns:
        The folder.

    Raises:
        InputError: an argument is out of range, or `folder` holds something else or cannot be
            made.
    """
    _check(n_images, image_size, seed, difficulty)
    folder = Path(folder).absolute()
    parameters = {
        "format_version": FORMAT_VERSION,
        "n_images": int(n_images),
        "image_size": int(image_size),
        "seed": int(seed),
        "difficulty": float(difficulty),
    }
    if _already_there(folder, parameters):
        return folder
    part = folder.with_name(f".{folder.name}.part")
    try:
        with held(folder.parent, wait=True, left=part.name):
            if not _already_there(folder, parameters):  # made by the process that held it before
                _write_set(part, parameters, workers or os.cpu_count() or 1, progress)
                if folder.exists():
                    folder.rmdir()
                os.replace(part, folder)
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be made ({error.strerror or error}); make room, or name another "
            "folder (for the default set, by COVIDXR_DATA)"
        ) from error
    return folder
