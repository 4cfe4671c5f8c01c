"""Sources of chest radiographs: any of them becomes one table, the manifest.

A source is chosen by name and never replaced by another. Reading changes nothing on disk; only
`covidxr.download` and the first use of ``phantom`` write, and only below the data root.
"""

import os
import sys
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from covidxr import CLASSES, InputError, cohen
from covidxr.tables import is_inside, need_columns, parsed, read_sheet

MANIFEST_COLUMNS = tuple(
    "image_path label patient_id group_id source view sex age_years study_day extent opacity icu "
    "lung_mask_path lesion_mask_path licence split".split()
)
MANIFEST_DTYPES = (
    dict.fromkeys(MANIFEST_COLUMNS, "string")
    | dict.fromkeys(("age_years", "study_day", "extent", "opacity"), "Float64")
    | {"icu": "boolean"}
)
MASK_FOLDERS = {"masks": "lung_mask_path", "lesions": "lesion_mask_path"}
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".dcm")
MIN_IMAGES_PER_CLASS = 5
VIRAL = "Viral Pneumonia"


@dataclass(frozen=True)
class Source:
    """Provenance of one data set; ``counts`` are the images per class of the public release."""

    title: str
    url: str
    licence: str
    citation: str
    counts: dict[str, int] | None
    download: str | None  # kagglehub handle or archive URL
    note: str  # how the images were selected, and what that biases


SOURCES = {
    "phantom": Source(
        title="Synthetic phantom chest radiographs",
        url="covidxr.phantom",
        licence="MIT (synthetic)",
        citation="This package: Beer-Lambert projection of a parametric thorax.",
        counts=None,
        download=None,
        note="No patient was imaged. Every truth is known because it was drawn; nothing measured "
        "on it says how a model fares on people.",
    ),
    "radiography": Source(
        title="COVID-19 Radiography Database",
        url="https://www.kaggle.com/datasets/tawsifurrahman/covid19-radiography-database",
        licence="copyright-authors",
        citation="Chowdhury et al., Can AI Help in Screening Viral and COVID-19 Pneumonia?, IEEE "
        "Access 8, 2020. Rahman et al., Exploring the Effect of Image Enhancement Techniques on "
        "COVID-19 Detection using Chest X-ray Images, 2021, arXiv:2012.02238.",
        counts={"Normal": 10_192, "Lung_Opacity": 6_012, "COVID": 3_616, VIRAL: 1_345},
        download="tawsifurrahman/covid19-radiography-database",
        note="The source predicts the label: COVID images come from BIMCV/PadChest, Hannover, "
        "SIRM and web collections, Normal and Lung_Opacity from RSNA, and 1,341 of the Normal "
        "and all Viral Pneumonia from a paediatric set. No patient, age, sex or view is given.",
    ),
    "cohen": Source(
        title="COVID-19 Image Data Collection",
        url="https://github.com/ieee8023/covid-chestxray-dataset",
        licence="per image, many of them non-commercial",
        citation="Cohen et al., COVID-19 Image Data Collection: Prospective Predictions Are the "
        "Future, 2020, arXiv:2006.11988. Severity scores: Cohen et al., Predicting COVID-19 "
        "Pneumonia Severity on Chest X-ray with Deep Learning, 2020, arXiv:2005.11856.",
        counts=None,
        download="https://github.com/ieee8023/covid-chestxray-dataset/archive/refs/heads/master.zip",
        note="Gathered from publications and web pages, so instructive cases are over-represented "
        "and normal images are few. Many of its COVID images are also in the radiography set: "
        "neither is an external test of the other.",
    ),
    "folder": Source(
        title="Your own images, one folder per class",
        url="",
        licence="unknown",
        citation="",
        counts=None,
        download=None,
        note="The folder names are the labels; who was imaged, and why, is for its owner to say.",
    ),
}

RADIOGRAPHY_FOLDERS = {
    "normal": "Normal",
    "lung_opacity": "Lung_Opacity",
    "covid": "COVID",
    "covid_19": "COVID",
    "viral_pneumonia": VIRAL,
}
RADIOGRAPHY_ORIGINS = {  # part of the URL in the release's *.metadata.xlsx -> source
    "bimcv": "BIMCV/PadChest",
    "ml-workgroup": "Hannover",
    "sirm.org": "SIRM",
    "eurorad": "Eurorad",
    "ieee8023": "Cohen collection",
    "armiro": "COVID-CXNet",
    "rsna": "RSNA",
    "chest-xray-pneumonia": "Kaggle paediatric",
}


def data_root() -> Path:
    """Folder that holds the data sets: ``COVIDXR_DATA``, else ``data``."""
    return Path(os.environ.get("COVIDXR_DATA") or "data")


def load(
    name: str, data_dir: str | Path | None = None, *, viral_pneumonia: bool = False
) -> tuple[pd.DataFrame, Path]:
    """Read one source as a manifest.

    Args:
        name: a key of ``SOURCES``.
        data_dir: where its images are; by default they are looked for below :func:`data_root`.
        viral_pneumonia: keep the paediatric class ``Viral Pneumonia`` of ``radiography``.

    Returns:
        The manifest, one row per image with all ``MANIFEST_COLUMNS`` first (unknown is NA), and
        the folder that its paths are relative to.

    Raises:
        InputError: unknown name, missing folder, fewer than two classes, or a class with fewer
            than 5 images.

    What was left out, or differs from the release, is said in one ``UserWarning``.
    """
    known(name)
    folder = None if data_dir is None else Path(data_dir).expanduser()
    if viral_pneumonia and name != "radiography":
        raise InputError(f"viral_pneumonia: {name} has no such class; only radiography has one")
    if name == "radiography":
        manifest, root = _radiography(folder, viral_pneumonia)
    else:
        manifest, root = {"phantom": _phantom, "cohen": _cohen, "folder": _folder}[name](folder)
    check_manifest(manifest, f"{name} in {root}")
    if name in ("phantom", "cohen"):  # their tables name the files; the others list folders
        _check_paths(manifest, root)
    return manifest, root


def check_manifest(manifest: pd.DataFrame, where: str) -> None:
    """Raise ``InputError`` unless there are two classes or more, each of 5 images or more."""
    counts = class_counts(manifest)
    if len(counts) < 2:
        raise InputError(
            f"{where}: found {list(counts.index)} as classes, expected at least two; add a folder "
            "of images for another class"
        )
    few = counts[counts < MIN_IMAGES_PER_CLASS]
    if len(few):
        found = ", ".join(f"{label} has {n}" for label, n in few.items())
        raise InputError(
            f"{where}: {found} images, expected at least {MIN_IMAGES_PER_CLASS} in every class; "
            "add images or remove the class"
        )


def _check_paths(manifest: pd.DataFrame, root: Path) -> None:
    """Raise ``InputError`` where a table names a file outside of its data set."""
    for column in ("image_path", *MASK_FOLDERS.values()):
        for path in manifest[column].dropna():
            if not is_inside(path):
                raise InputError(
                    f"{root}: its table names {path!r}, expected a file below this folder; correct "
                    "the table"
                )


def classes_of(manifest: pd.DataFrame) -> tuple[str, ...]:
    """Classes of a manifest: those of ``CLASSES`` in that order, then any others by name."""
    found = set(manifest["label"].dropna())
    return tuple(c for c in CLASSES if c in found) + tuple(sorted(found - set(CLASSES)))


def class_counts(manifest: pd.DataFrame) -> pd.Series:
    """Images per class, in the order of :func:`classes_of`."""
    return manifest["label"].value_counts().reindex(list(classes_of(manifest))).astype(int)


def summary(manifest: pd.DataFrame) -> pd.DataFrame:
    """Images per source (rows, "unknown" where NA) and class (columns)."""
    table = pd.crosstab(manifest["source"].fillna("unknown"), manifest["label"])
    return table[list(classes_of(manifest))]


def _phantom(folder: Path | None) -> tuple[pd.DataFrame, Path]:
    """Synthetic radiographs, made with the default settings where the folder is absent."""
    root = folder or data_root() / "phantom"
    if folder is None and not root.exists():
        from covidxr import phantom  # here, since scipy takes long to load

        print(f"phantom: making the default synthetic set in {root}", file=sys.stderr)
        phantom.generate(root)
    table = root / "metadata.csv"
    if not table.is_file():
        raise InputError(
            f"phantom: {root} has no metadata.csv; expected a folder made by covidxr.phantom, or "
            "none at all: remove it or choose another, and the set is made there"
        )
    manifest = parsed(table, lambda: pd.read_csv(table, dtype=MANIFEST_DTYPES))
    need_columns(manifest, ("image_path", "label", "patient_id"), table)
    manifest["licence"] = SOURCES["phantom"].licence
    return _manifest(manifest), root


def _radiography(folder: Path | None, viral_pneumonia: bool) -> tuple[pd.DataFrame, Path]:
    """COVID-19 Radiography Database, in its present or an older layout.

    Class folders hold ``images/`` and ``masks/``, or the images themselves in older releases. The
    release has no patient identifiers. Where its ``*.metadata.xlsx`` are present, they give the
    source of each image; among the Normal, "Kaggle paediatric" marks the children.
    """
    root = find_radiography(folder)
    folders = radiography_folders(root)
    found = (row for path, label in folders for row in class_rows(root, path, label))
    rows, odd = _plain_names(found)
    manifest = _manifest(rows)
    manifest["licence"] = SOURCES["radiography"].licence
    counts = class_counts(manifest)
    report = odd + count_differences(counts)
    if VIRAL in counts and not viral_pneumonia:
        manifest = manifest[manifest["label"] != VIRAL].reset_index(drop=True)
        report.append(f"{counts[VIRAL]} {VIRAL} (children) left out unless asked for")
    report += _add_origins(manifest, root)
    _report("radiography", report)
    return _manifest(manifest), root


def find_radiography(folder: Path | None) -> Path:
    return _find(
        "radiography",
        folder,
        ("COVID-19_Radiography_Dataset", "COVID-19 Radiography Database", "radiography"),
        lambda place: bool(radiography_folders(place)),
        "class folders COVID, Normal and Lung_Opacity, each with its PNG files or images/*.png",
    )


def radiography_folders(place: Path) -> list[tuple[Path, str]]:
    """Class folders found in a folder, with their labels."""
    if not place.is_dir():
        return []
    folders = ((p, p.name.lower().replace(" ", "_").replace("-", "_")) for p in place.iterdir())
    return sorted((p, RADIOGRAPHY_FOLDERS[n]) for p, n in folders if n in RADIOGRAPHY_FOLDERS)


def count_differences(counts: pd.Series) -> list[str]:
    """One phrase where images per class differ from the release's (no viral class is fine)."""
    expected = SOURCES["radiography"].counts
    different = [
        f"{label} {counts.get(label, 0):,} of {n:,}"
        for label, n in expected.items()
        if counts.get(label, 0) != n and (label != VIRAL or label in counts)
    ]
    return ["images differ from the release's: " + ", ".join(different)] if different else []


def _add_origins(manifest: pd.DataFrame, root: Path) -> list[str]:
    """Fill ``source`` from the release's ``*.metadata.xlsx``, joined by file stem in any case."""
    sheets = sorted(root.glob("*.metadata.xlsx"))
    if not sheets:
        return []
    try:
        table = pd.concat(read_sheet(sheet) for sheet in sheets)
    except ImportError:
        return ["sources not read: pip install openpyxl to read *.metadata.xlsx"]
    need_columns(table, ("FILE NAME", "URL"), sheets[0])
    stems = table["FILE NAME"].str.strip().str.lower()
    origins = pd.Series(table["URL"].map(_origin).to_numpy(), index=stems)
    origins = origins[~origins.index.duplicated()]
    own = manifest["image_path"].map(lambda path: Path(path).stem.lower())
    manifest["source"] = own.map(origins)
    unknown = int(manifest["source"].isna().sum())
    return [f"{unknown:,} images without a source in *.metadata.xlsx"] if unknown else []


def _origin(url: str) -> str:
    """Short name of a source URL; the URL itself where it is a new one."""
    if pd.isna(url):
        return pd.NA
    return next((name for part, name in RADIOGRAPHY_ORIGINS.items() if part in url), url)


def _cohen(folder: Path | None) -> tuple[pd.DataFrame, Path]:
    """COVID-19 Image Data Collection, by :func:`covidxr.cohen.read`."""
    root = _find(
        "cohen",
        folder,
        ("covid-chestxray-dataset", "covid-chestxray-dataset-master", "cohen"),
        lambda place: (place / "metadata.csv").is_file() and (place / "images").is_dir(),
        "metadata.csv and images/ (annotations/ holds the severity scores)",
    )
    rows, report = cohen.read(root)
    _report("cohen", report)
    return _manifest(rows), root


def _folder(folder: Path | None) -> tuple[pd.DataFrame, Path]:
    """One folder per class, images at any depth; ``masks/`` and ``lesions/`` are not images."""
    layout = "expected one subfolder per class, with its images"
    if folder is None:
        raise InputError(f"folder: no data folder given; {layout}: say --data-dir FOLDER")
    if not folder.is_dir():
        raise InputError(f"folder: {folder} is not a folder; {layout}: correct --data-dir")
    names = {p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith((".", "_"))}
    names -= MASK_FOLDERS.keys()
    if names and names <= {"train", "val", "valid", "validation", "test"}:
        raise InputError(
            f"folder: {folder} holds {sorted(names)}, which are splits; {layout}: point --data-dir "
            "at one tree of classes, splits are made here by patient or near-duplicate group"
        )
    classes = {name: list(class_rows(folder, folder / name, name)) for name in sorted(names)}
    empty = [name for name, rows in classes.items() if not rows]
    if empty:
        raise InputError(
            f"folder: no images in {folder / empty[0]}; expected files that end in "
            f"{', '.join(SUFFIXES)}: add images or remove the folder"
        )
    rows, odd = _plain_names(row for rows in classes.values() for row in rows)
    _report("folder", odd)
    return _manifest(rows), folder


def _plain_names(rows: Iterable[dict]) -> tuple[list[dict], list[str]]:
    """The rows whose paths can stand in a table, and a phrase for those left out."""
    rows = list(rows)
    plain = [row for row in rows if all(text.isprintable() for text in row.values())]
    left = len(rows) - len(plain)
    why = "whose names hold control characters or bytes that are no UTF-8 left out, rename them"
    return plain, [f"{left} files {why}"] if left else []


def class_rows(root: Path, folder: Path, label: str) -> Iterable[dict[str, str]]:
    """Images of a class folder, sorted; with the mask of the same name where there is one."""
    masks = {name: column for name, column in MASK_FOLDERS.items() if (folder / name).is_dir()}
    for path in sorted(folder.rglob("*")):
        inner = path.relative_to(folder)
        if (
            path.suffix.lower() not in SUFFIXES
            or path.name.startswith(".")
            or not MASK_FOLDERS.keys().isdisjoint(inner.parts[:-1])
        ):
            continue
        row = {"image_path": path.relative_to(root).as_posix(), "label": label}
        if inner.parts[0] == "images":
            inner = inner.relative_to("images")
        for name, column in masks.items():
            mask = folder / name / inner
            if mask.is_file():
                row[column] = mask.relative_to(root).as_posix()
        yield row


def _manifest(rows: pd.DataFrame | Iterable[dict]) -> pd.DataFrame:
    """All manifest columns in order and with their types, then any extra columns."""
    table = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows))
    extra = [column for column in table.columns if column not in MANIFEST_DTYPES]
    return table.reindex(columns=[*MANIFEST_COLUMNS, *extra]).astype(MANIFEST_DTYPES)


def known(name: str) -> Source:
    if name not in SOURCES:
        raise InputError(f"data set {name!r} is unknown; choose one of {', '.join(SOURCES)}")
    return SOURCES[name]


def _find(name: str, folder: Path | None, subfolders, is_layout, layout: str) -> Path:
    """First folder with the layout: the one given or the data root, itself or a known subfolder."""
    bases = [folder] if folder else [data_root(), *_remembered(name)]
    for base in bases:
        for place in (base, *(base / sub for sub in subfolders)):
            if is_layout(place):
                return place
    looked = " and ".join(str(base) for base in bases)
    raise InputError(
        f"{name}: images not found in {looked}; expected {layout}, there or in a subfolder "
        f"{subfolders[0]}: get it by `python -m covidxr data download {name}`, or say where it is "
        "by --data-dir"
    )


def _remembered(name: str) -> list[Path]:
    """Folder noted by an earlier download that keeps its files elsewhere (kagglehub's cache)."""
    note = data_root() / f"{name}.txt"
    return [Path(note.read_text(encoding="utf-8").strip())] if note.is_file() else []


def _report(name: str, parts: list[str]) -> None:
    if parts:
        warnings.warn(f"{name}: {'; '.join(parts)}", UserWarning, stacklevel=4)
