"""The source `cohen`, the COVID-19 Image Data Collection: its films, scores and lung boxes."""

from pathlib import Path

import pandas as pd

from covidxr import CLASSES, InputError
from covidxr.tables import is_inside, need_columns, read_csv

LUNG_BOXES, BOX = "lung-bounding-boxes.csv", ("x", "y", "width", "height")
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


def read(root: Path) -> tuple[pd.DataFrame, list[str]]:
    """Its frontal X-rays with a known finding, and what was left out, a phrase each.

    ``extent`` (0-8) and ``opacity`` (0-6) are means of three readers (94 images, COVID only). The
    extra columns ``extent_covidnet`` and ``opacity_covidnet`` (0-8 each) hold COVID-Net's scores
    where ``annotations/severity_annotations.csv`` from that project is present, else NA;
    ``finding`` is the collection's own word; ``left_x`` ... ``right_height`` are lung boxes in
    pixels of the image (see :func:`lung_boxes`), NA without one. ``study_day`` counts from the
    first symptoms or admission.
    """
    table = read_csv(root / "metadata.csv")
    need_columns(
        table,
        "patientid offset sex age finding went_icu view modality location filename license".split(),
        root / "metadata.csv",
    )
    rows, report = _usable_rows(_columns(table), root)
    report += _add_scores(rows, root / "annotations")
    rows = _add_boxes(rows, root)
    return rows.drop(columns=["modality", "filename"]), report


def _columns(table: pd.DataFrame) -> pd.DataFrame:
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
            lambda p: is_inside(p) and (root / p).is_file()
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
        scores = read_csv(path).drop_duplicates("filename").set_index("filename")
        rows["extent"] = rows["filename"].map(scores["geographic_mean"])
        rows["opacity"] = rows["filename"].map(scores["opacity_mean"])
        lost = len(scores) - int(scores.index.isin(rows["filename"]).sum())
        if lost:
            report.append(f"{lost} of {len(scores)} severity scores have no image here")
    else:
        report.append(f"no severity scores: {path} is absent")
    path = annotations / "severity_annotations.csv"
    if path.is_file():
        scores = read_csv(path)
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
    boxes = read_csv(path)
    need_columns(boxes, ("filename", "lung", *BOX), path)
    boxes[list(BOX)] = boxes[list(BOX)].apply(pd.to_numeric).astype("Float64")
    return boxes
