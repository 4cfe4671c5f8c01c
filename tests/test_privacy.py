"""Nothing that names a patient leaves a file's header; no code is loaded, no key asked for."""

import json
import re
import sys
import warnings
from pathlib import Path

import hostile
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from covidxr import cli

REPO = Path(__file__).resolve().parent.parent
SECRET = "QXZSECRET"
DATES = ("19450317", "19870612", "1945-03-17", "1987-06-12")
UID = "1.2.826.0.1.987654321"
IDENTIFIERS = dict(
    PatientName=f"{SECRET}^Name",
    PatientID=f"{SECRET}7",
    OtherPatientIDs=f"{SECRET}8",
    PatientBirthDate=DATES[0],
    PatientAddress=f"{SECRET} street",
    PatientComments=f"{SECRET} comment",
    AccessionNumber=SECRET,
    InstitutionName=f"{SECRET} hospital",
    ReferringPhysicianName=f"{SECRET}^Doctor",
    OperatorsName=f"{SECRET}^Operator",
    StationName=SECRET,
    DeviceSerialNumber=SECRET,
    StudyDate=DATES[1],
    SeriesDate=DATES[1],
    AcquisitionDateTime=f"{DATES[1]}101500",
    StudyID=SECRET,
    StudyInstanceUID=UID,
    SeriesInstanceUID=f"{UID}.1",
    SOPInstanceUID=f"{UID}.2",
    StudyDescription=f"{SECRET} study",
)


def films(folder: Path, count: int) -> None:
    """DICOM, PNG, JPEG and TIFF files whose headers hold identifiers, some of them damaged."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(len(folder.name))
    for number in range(count):
        pixels = rng.integers(0, 256, (70, 90), np.uint8)
        path = folder / f"{number:02d}.dcm"
        hostile.dicom(path, pixels, **IDENTIFIERS)
        content = path.read_bytes()
        path.write_bytes(SECRET.encode().ljust(128) + content[128:])  # in the preamble too
    picture = Image.fromarray(pixels)
    text, exif = PngImagePlugin.PngInfo(), Image.Exif()
    text.add_text("Comment", f"{SECRET} {DATES[1]}")
    exif[0x010E] = exif[0x013B] = SECRET
    picture.save(folder / "text.png", pnginfo=text)
    picture.save(folder / "exif.jpg", exif=exif, comment=SECRET)
    picture.save(folder / "exif.tif", exif=exif)
    for number, place in enumerate(range(140, len(content), len(content) // 40)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << number % 8
        (folder / f"damaged {number:02d}.dcm").write_bytes(damaged)
        (folder / f"cut {number:02d}.dcm").write_bytes(content[:place])


@pytest.fixture(scope="module")
def outputs(tmp_path_factory, one_thread):
    """Everything that the commands wrote and printed, from films whose headers name a patient."""
    root, work = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("work")
    for name in ("Normal", "COVID"):
        films(root / name, 6)
    source = ["--dataset", "folder", "--data-dir", str(root)]
    small = ["--image-size", "32", "--epochs", "1", "--folds", "3", "--weights", "none"]
    commands = [
        ["train", *source, *small, "--name", "mine"],
        ["evaluate", "runs/mine", "--audit"],
        ["predict", "runs/mine", str(root)],
        ["triage", "runs/mine", str(root)],
        ["data", "summary", *source],
        ["data", "overlap", str(root / "Normal"), str(root / "COVID"), "--out", "overlap.csv"],
        ["predict", "runs/mine", str(root / "Normal" / "absent.dcm"), "--out", "absent/x.csv"],
    ]
    with pytest.MonkeyPatch.context() as patch, (work / "printed").open("w") as printed:
        patch.chdir(work)
        patch.setattr(warnings, "formatwarning", warnings.formatwarning)
        patch.setattr(sys, "stdout", printed)
        patch.setattr(sys, "stderr", printed)
        for command in commands:
            patch.setattr(sys, "argv", ["covidxr", *command])
            with pytest.raises(SystemExit), warnings.catch_warnings():
                warnings.simplefilter("always")
                cli.main()
    return work


def test_no_identifier_leaves_a_header(outputs):
    files = [path for path in outputs.rglob("*") if path.is_file()]
    assert {"predictions.csv", "worklist.html", "worklist.csv", "metrics.json"} <= {
        path.name for path in files
    }
    assert len(files) > 15
    secrets = [text.encode() for text in (SECRET, UID, *DATES)]
    for path in files:
        content = path.read_bytes()
        found = [text for text in secrets if text in content]
        assert not found, path.relative_to(outputs)


def test_the_rejected_ones_have_a_reason(outputs):
    text = (outputs / "predictions.csv").read_text()
    assert text.count("damaged or truncated DICOM file") > 20
    assert "Traceback" not in (outputs / "printed").read_text()


SOURCES = [
    path
    for folder in ("covidxr", "notebooks", "pretraining", "benchmarks", "docs", "tools", "fuzz")
    for path in sorted((REPO / folder).rglob("*"))
    if path.suffix in (".py", ".ipynb", ".js", ".html")
]


@pytest.mark.parametrize(
    "pattern",
    [
        r"torch\.load\b",
        r"\bimport (c?pickle|dill|joblib|shelve|marshal)\b",
        r"allow_pickle\s*=\s*True",
        r"(?<![\w.])(eval|exec)\(",
        r"shell\s*=\s*True",
        r"getpass|api[_-]?key|kaggle\.json|KAGGLE_KEY|password",
    ],
)
def test_nothing_loads_code_or_asks_for_a_key(pattern):
    assert len(SOURCES) > 40
    found = [
        f"{path.relative_to(REPO)}: {line.strip()[:80]}"
        for path in SOURCES
        for line in code_of(path).splitlines()
        if re.search(pattern, line, re.IGNORECASE)
    ]
    assert found == []


def code_of(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    cells = json.loads(text)["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
