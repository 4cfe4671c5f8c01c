"""Downloads of the public datasets: verified, and all or nothing."""

import http.client
import tempfile
import urllib.request
import zipfile
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from covidxr import InputError
from covidxr.datasets import (
    SOURCES,
    Source,
    class_rows,
    count_differences,
    data_root,
    find_radiography,
    known,
    load,
    radiography_folders,
)
from covidxr.files import held, write_text


def download(name: str) -> Path:
    """Get a data set and return its folder; what is already there is kept.

    ``radiography`` stays in kagglehub's cache and a note in the data root says where; its images
    are counted against the release. ``cohen`` is unpacked below the data root, all or nothing.
    ``phantom`` is generated there.

    Raises:
        InputError: unknown name, no network, or an incomplete download.
    """
    known(name)
    if name == "folder":
        raise InputError("folder: nothing to download; it is your own images, by --data-dir")
    root = data_root()
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{root}: cannot be made ({error}); set COVIDXR_DATA elsewhere") from error
    if name == "phantom":
        return load("phantom")[1]
    return _download_radiography(root) if name == "radiography" else _download_cohen(root)


def _download_radiography(root: Path) -> Path:
    source = SOURCES["radiography"]
    by_hand = f"download {source.url} by hand and unpack it into {root}"
    try:
        import kagglehub
    except ImportError as error:
        raise InputError(f"radiography: pip install kagglehub, or {by_hand}") from error
    try:
        cache = Path(kagglehub.dataset_download(source.download))
    except Exception as error:  # kagglehub's and requests' errors share no other base
        raise InputError(
            f"radiography: {source.url} could not be downloaded ({_reason(error)}); {by_hand}"
        ) from error
    counts = pd.Series({label: 0 for label in source.counts})
    for path, label in radiography_folders(find_radiography(cache)):
        counts[label] += sum(1 for _ in class_rows(path, path, label))
    if any(counts[label] < n for label, n in source.counts.items()):
        raise InputError(
            f"radiography: the download in {cache} is incomplete, {count_differences(counts)[0]}; "
            "remove that folder and download again"
        )
    write_text(root / "radiography.txt", f"{cache}\n")
    return cache


def _download_cohen(root: Path) -> Path:
    source, target = SOURCES["cohen"], root / "covid-chestxray-dataset"
    with held(root, left=".covid-chestxray-dataset-*"):
        return target if target.exists() else _fetch_cohen(root, source, target)


def _fetch_cohen(root: Path, source: Source, target: Path) -> Path:
    """Unpack the archive, which holds a checksum of every file, and rename its folder."""
    try:
        with tempfile.TemporaryDirectory(dir=root, prefix=".covid-chestxray-dataset-") as temporary:
            archive = Path(temporary) / "master.zip.part"
            _fetch(source.download, archive)
            archive = archive.rename(archive.with_suffix(""))
            with zipfile.ZipFile(archive) as packed:
                packed.extractall(Path(temporary) / "unpacked")
            (top,) = (Path(temporary) / "unpacked").iterdir()
            if not (top / "metadata.csv").is_file() or not (top / "images").is_dir():
                raise zipfile.BadZipFile("metadata.csv and images/ are not in it")
            top.rename(target)
    except (OSError, http.client.HTTPException, zipfile.BadZipFile, ValueError) as error:
        raise InputError(
            f"cohen: {source.download} could not be downloaded to {target} ({_reason(error)}); "
            f"download it by hand, unpack it and rename its folder to {target}"
        ) from error
    return target


def _fetch(url: str, path: Path) -> None:
    """Stream a URL into a file, with a progress bar."""
    with urllib.request.urlopen(url, timeout=60) as response, path.open("wb") as file:
        size = int(response.headers.get("Content-Length") or 0) or None
        with tqdm(total=size, unit="B", unit_scale=True, desc=path.stem) as bar:
            while block := response.read(1 << 20):
                file.write(block)
                bar.update(len(block))


def _reason(error: Exception) -> str:
    """Type and text of an error, on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
