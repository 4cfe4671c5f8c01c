"""Sources of chest radiographs: any of them becomes one table, the manifest.

A source is chosen by name and never replaced by another. Reading changes nothing on disk; only
`covidxr.download` and the first use of ``phantom`` write, and only below the data root.
"""

import os
import struct
import sys
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from io import StringIO
from pathlib import Path, PurePosixPath

import pandas as pd

from covidxr import CLASSES, InputError

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
MAX_SHEET = 200 * 10**6  # bytes of a workbook when unpacked
LUNG_BOXES, BOX = "lung-bounding-boxes.csv", ("x", "y", "width", "height")
VIRAL = "Viral Pneumonia"
DAMAGE = (  # what pandas, openpyxl and zipfile raise for damaged tables; XML's is a SyntaxError
    *(OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError),
    *(EOFError, SyntaxError, struct.error, zipfile.BadZipFile, zlib.error),
)


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
FRONTAL_VIEWS = ("PA", "AP", "AP Supine", "AP Erect")
FINDING_TO_CLASS = {  # every part of a finding such as "Pneumonia/Viral/SARS" or "COVID-19, ARDS"
    "COVID-19": "COVID",
    "No Finding": "Normal",
    "Normal": "Normal",
    **dict.fromkeys(
        "Pneumonia ARDS SARS MERS-CoV Pneumocystis Streptococcus Staphylococcus Klebsiella "
        "Legionella E.Coli Mycoplasma Chlamydophila Nocardia Tuberculosis Bacterial Viral Fungal "
        "Lipoid Varicella Influenza H1N1 Herpes Aspergillosis Aspiration MRSA".split()
        + ["Mycoplasma Bacterial Pneumonia"],
        "Lung_Opacity",
    ),
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
            if not _is_inside(path):
                raise InputError(
                    f"{root}: its table names {path!r}, expected a file below this folder; correct "
                    "the table"
                )


def _is_inside(path: str) -> bool:
    parts = PurePosixPath(path)
    return not parts.is_absolute() and ".." not in parts.parts and "\\" not in path


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
    manifest = _parsed(table, lambda: pd.read_csv(table, dtype=MANIFEST_DTYPES))
    _need_columns(manifest, ("image_path", "label", "patient_id"), table)
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
        table = pd.concat(_read_sheet(sheet) for sheet in sheets)
    except ImportError:
        return ["sources not read: pip install openpyxl to read *.metadata.xlsx"]
    _need_columns(table, ("FILE NAME", "URL"), sheets[0])
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
    """COVID-19 Image Data Collection: its frontal X-rays with a known finding.

    ``extent`` (0-8) and ``opacity`` (0-6) are means of three readers (94 images, COVID only). The
    extra columns ``extent_covidnet`` and ``opacity_covidnet`` (0-8 each) hold COVID-Net's scores
    where ``annotations/severity_annotations.csv`` from that project is present, else NA;
    ``finding`` is the collection's own word; ``left_x`` ... ``right_height`` are lung boxes in
    pixels of the image (see :func:`lung_boxes`), NA without one. ``study_day`` counts from the
    first symptoms or admission.
    """
    root = _find(
        "cohen",
        folder,
        ("covid-chestxray-dataset", "covid-chestxray-dataset-master", "cohen"),
        lambda place: (place / "metadata.csv").is_file() and (place / "images").is_dir(),
        "metadata.csv and images/ (annotations/ holds the severity scores)",
    )
    table = _read_csv(root / "metadata.csv")
    _need_columns(
        table,
        "patientid offset sex age finding went_icu view modality location filename license".split(),
        root / "metadata.csv",
    )
    rows, report = _usable_rows(_cohen_columns(table), root)
    report += _add_scores(rows, root / "annotations")
    rows = _add_boxes(rows, root)
    _report("cohen", report)
    return _manifest(rows.drop(columns=["modality", "filename"])), root


def _cohen_columns(table: pd.DataFrame) -> pd.DataFrame:
    """The collection's columns under the manifest's names; entries such as "?" become NA."""
    return pd.DataFrame(
        {
            "image_path": "images/" + table["filename"],
            "label": table["finding"].map(_finding_class, na_action="ignore"),
            "patient_id": table["patientid"],
            "source": table["location"],
            "view": table["view"],
            "sex": table["sex"],
            "age_years": pd.to_numeric(table["age"], errors="coerce"),
            "study_day": pd.to_numeric(table["offset"], errors="coerce"),
            "icu": table["went_icu"].map({"Y": True, "N": False}),
            "licence": table["license"],
            "finding": table["finding"],
            "modality": table["modality"],
            "filename": table["filename"],
        }
    )


def _finding_class(finding: str) -> str:
    """Class of a finding by its parts, COVID first; NA for "todo", "Unknown" and new words."""
    parts = [part.strip() for part in finding.replace(",", "/").split("/")]
    found = {FINDING_TO_CLASS[part] for part in parts if part in FINDING_TO_CLASS}
    return next((label for label in reversed(CLASSES) if label in found), pd.NA)


def _usable_rows(rows: pd.DataFrame, root: Path) -> tuple[pd.DataFrame, list[str]]:
    """Frontal X-rays with a class and a file, each file once; the report counts what went."""
    tests = {
        "not X-ray": lambda r: r["modality"].eq("X-ray"),
        "not frontal": lambda r: r["view"].isin(FRONTAL_VIEWS),
        "without a usable finding": lambda r: r["label"].notna(),
        "without a file": lambda r: r["image_path"].map(
            lambda p: _is_inside(p) and (root / p).is_file()
        ),
        "of a repeated file name": lambda r: ~r["image_path"].duplicated(),
    }
    n_rows, dropped = len(rows), []
    for reason, test in tests.items():
        keep = test(rows).fillna(False).astype(bool)
        if not keep.all():
            dropped.append(f"{(~keep).sum():,} {reason}")
        rows = rows[keep]
    report = [f"{len(rows):,} of {n_rows:,} rows kept; left out " + ", ".join(dropped)]
    return rows.reset_index(drop=True), report if dropped else []


def _add_scores(rows: pd.DataFrame, annotations: Path) -> list[str]:
    """Join the readers' severity scores by file name."""
    report = []
    names = ["extent", "opacity", "extent_covidnet", "opacity_covidnet"]
    rows[names] = pd.NA
    path = annotations / "covid-severity-scores.csv"
    if path.is_file():
        scores = _read_csv(path).drop_duplicates("filename").set_index("filename")
        rows["extent"] = rows["filename"].map(scores["geographic_mean"])
        rows["opacity"] = rows["filename"].map(scores["opacity_mean"])
        lost = len(scores) - int(scores.index.isin(rows["filename"]).sum())
        if lost:
            report.append(f"{lost} of {len(scores)} severity scores have no image here")
    else:
        report.append(f"no severity scores: {path} is absent")
    path = annotations / "severity_annotations.csv"
    if path.is_file():
        scores = _read_csv(path)
        scores = scores[scores["dataset"] == "cohen"].drop_duplicates("filename")
        scores = scores.set_index("filename")
        rows["extent_covidnet"] = rows["filename"].map(scores["Geographic"])
        rows["opacity_covidnet"] = rows["filename"].map(scores["Opacity"])
    rows[names] = rows[names].apply(pd.to_numeric).astype("Float64")
    return report


def _add_boxes(rows: pd.DataFrame, root: Path) -> pd.DataFrame:
    """Join the lung boxes by file name, eight columns."""
    columns = [f"{lung}_{name}" for lung in ("left", "right") for name in BOX]
    if not (root / "annotations" / LUNG_BOXES).is_file():
        return rows.reindex(columns=[*rows.columns, *columns])
    boxes = lung_boxes(root).drop_duplicates(["filename", "lung"])
    wide = boxes.pivot(index="filename", columns="lung", values=list(BOX))
    wide.columns = [f"{lung}_{name}" for name, lung in wide.columns]
    return rows.join(wide.reindex(columns=columns), on="filename")


def lung_boxes(root: Path) -> pd.DataFrame:
    """Lung boxes of ``cohen``: filename, lung ("left", "right"), x, y, width, height in pixels.

    Drawn by a radiologist (GeneralBlockchain); some images have one box only.
    """
    path = Path(root) / "annotations" / LUNG_BOXES
    if not path.is_file():
        raise InputError(f"cohen: {path} not found; expected the lung boxes of the collection")
    boxes = _read_csv(path)
    _need_columns(boxes, ("filename", "lung", *BOX), path)
    boxes[list(BOX)] = boxes[list(BOX)].apply(pd.to_numeric).astype("Float64")
    return boxes


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


def _read_csv(path: Path) -> pd.DataFrame:
    """CSV as trimmed strings, blanks as NA; lines that begin with ``##`` are comments.

    Versions of the collection are in UTF-8 or, where that fails, in Latin-1.
    """
    data = _parsed(path, path.read_bytes)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    while text.startswith("##"):
        text = text.partition("\n")[2]
    table = _parsed(path, lambda: pd.read_csv(StringIO(text), dtype="string"))
    return table.apply(lambda column: column.str.strip().replace("", pd.NA))


def _read_sheet(path: Path) -> pd.DataFrame:
    """The first sheet of a workbook as strings."""
    with _parsed(path, lambda: zipfile.ZipFile(path)) as packed:
        unpacked = sum(entry.file_size for entry in packed.infolist())
    if unpacked > MAX_SHEET:
        raise InputError(
            f"{path}: {unpacked / 1e6:,.0f} MB when unpacked, expected at most "
            f"{MAX_SHEET / 1e6:,.0f} MB; get the data set anew"
        )
    return _parsed(path, lambda: pd.read_excel(path, dtype="string"))


def _parsed(path: Path, read: Callable):
    """What `read` gives; InputError where the file is damaged."""
    try:
        return read()
    except DAMAGE as error:
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0][:200]
        raise InputError(f"{path}: cannot be read ({reason}); get the data set anew") from error


def _need_columns(table: pd.DataFrame, columns: Iterable[str], path: Path) -> None:
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise InputError(
            f"{path}: no column {', '.join(missing)}; found {', '.join(map(str, table.columns))}: "
            "get the data set anew"
        )


def _report(name: str, parts: list[str]) -> None:
    if parts:
        warnings.warn(f"{name}: {'; '.join(parts)}", UserWarning, stacklevel=4)
