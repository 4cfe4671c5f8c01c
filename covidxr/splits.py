"""Groups of images that must stay together, and the stratified split that keeps them so.

A split of images instead of patients lets the same person, or the same film published twice, stand
on both sides of the test; here a split is a column, and its overlap can be counted.
"""

import hashlib
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from covidxr import InputError
from covidxr.datasets import MASK_FOLDERS, classes_of
from covidxr.images import RejectedImage, read_image, resize

SPLITS = ("train", "val", "test")
SIDE = 32  # of a thumbnail, pixels
BLOCK = 1024  # rows of the correlation matrix held at a time


def thumbnails(paths: Iterable[str | Path]) -> np.ndarray:
    """Small copies of images, ready to be correlated by a dot product.

    Returns:
        float32 (N, 32 * 32), each row of mean 0 and length 1. A file that
        :func:`covidxr.images.read_image` rejects is a row of NaN.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        rows = list(pool.map(_thumbnail, paths))
    return np.stack(rows) if rows else np.empty((0, SIDE**2), np.float32)


def _thumbnail(path: str | Path) -> np.ndarray:
    try:
        small = resize(read_image(path), SIDE)
    except RejectedImage:
        return np.full(SIDE**2, np.nan, np.float32)
    return standardise(small[None])[0]


def standardise(squares: np.ndarray) -> np.ndarray:
    """Squares (N, S, S) as rows (N, S * S) of mean 0 and length 1; NaN where an image is flat."""
    rows = squares.reshape(len(squares), -1).astype(np.float32)
    rows -= rows.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, lengths, out=np.full_like(rows, np.nan), where=lengths > 0)


def near_duplicate_groups(
    thumbs: np.ndarray, hashes: Sequence[str] | None = None, threshold: float = 0.98
) -> np.ndarray:
    """Number the groups of images that show the same film.

    Two images belong together if their thumbnails correlate above ``threshold``, if their
    ``hashes`` are equal, or through a third image. On chest X-rays a perceptual hash does not do:
    at a Hamming distance of 4 it calls films of different people the same.

    Args:
        thumbs: (N, D) from :func:`thumbnails`; a row of NaN is like no other image.
        hashes: one per image, equal for identical files.

    Returns:
        int (N,), numbered from 0 in order of first appearance.
    """
    from scipy import sparse  # here, since it takes long to load

    thumbs = np.nan_to_num(np.asarray(thumbs, np.float32), nan=0.0)
    n = len(thumbs)
    first, second = [], []
    for start in range(0, n, BLOCK):
        similar = thumbs[start : start + BLOCK] @ thumbs[start:].T > threshold
        rows, columns = np.nonzero(similar)
        first.append(rows + start)
        second.append(columns + start)
    if hashes is not None:
        codes, _ = pd.factorize(np.asarray(hashes, dtype=object))
        _, leaders = np.unique(codes, return_index=True)
        first.append(np.arange(n))
        second.append(leaders[codes])
    # 32 bits: scipy 1.11 makes one group of everything where they are 64, without an error
    edges = tuple(np.concatenate(ends or [[]]).astype(np.int32) for ends in (first, second))
    graph = sparse.coo_array((np.ones(len(edges[0]), bool), edges), shape=(n, n))
    _, labels = sparse.csgraph.connected_components(graph, directed=False)
    return pd.factorize(labels)[0]


def add_groups(
    manifest: pd.DataFrame, root: Path, squares: np.ndarray | None = None
) -> pd.DataFrame:
    """Copy of a manifest with ``group_id``: the patient, else the near-duplicate group.

    Images of known patients are grouped by patient alone and are not opened, so a film that was
    published under two patient numbers counts as two. All others are read and grouped with each
    other by :func:`near_duplicate_groups` and sha256; a file that cannot be read is a group of its
    own. ``squares``, uint8 (N, 32, 32), saves reading the images where they are decoded already.
    """
    manifest = manifest.copy()
    unknown = manifest["patient_id"].isna()
    manifest["group_id"] = manifest["patient_id"]
    paths = [Path(root) / path for path in manifest.loc[unknown, "image_path"]]
    if paths:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            hashes = list(pool.map(_sha256, paths))
        thumbs = thumbnails(paths) if squares is None else standardise(squares[unknown])
        groups = near_duplicate_groups(thumbs, hashes)
        manifest.loc[unknown, "group_id"] = [f"dup-{group:06d}" for group in groups]
    return manifest


def _sha256(path: Path) -> str:
    """Digest of a file; its own path where it cannot be read, so that it is like no other."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    except OSError:
        return f"unread {path}"
    return digest.hexdigest()


def assign_split(
    manifest: pd.DataFrame, n_folds: int = 5, test_fold: int = 0, seed: int = 0
) -> pd.DataFrame:
    """Copy of a manifest with ``split``: one fold to test, the next to val, the rest to train.

    Folds hold whole groups and have the classes in the same proportions as far as the groups
    allow: 60/20/20 with 5 folds. The same manifest and seed give the same folds whatever the
    ``test_fold``, so that every image is tested once over all of them.

    Raises:
        InputError: a row without ``group_id``, a class with fewer groups than folds, or an
            ``n_folds`` or ``test_fold`` out of range.
    """
    _check_folds(manifest, n_folds, test_fold)
    names = np.full(n_folds, "train", object)
    names[test_fold], names[(test_fold + 1) % n_folds] = "test", "val"
    fold = manifest["group_id"].map(_fold_of_groups(manifest, n_folds, seed))
    manifest = manifest.copy()
    manifest["split"] = pd.array(names[fold.to_numpy(int)], dtype="string")
    return manifest


def _fold_of_groups(manifest: pd.DataFrame, n_folds: int, seed: int) -> pd.Series:
    """Fold of every group: the largest first, each to the fold that holds least of its classes.

    scikit-learn's StratifiedGroupKFold does the same, but its shuffled folds changed between
    versions; these depend on the groups, the labels and the seed alone.
    """
    counts = pd.crosstab(manifest["group_id"], manifest["label"])
    sizes, shares = counts.sum(axis=1).to_numpy(), (counts / counts.sum()).to_numpy()
    order = np.random.default_rng(seed).permutation(len(counts))
    order = order[np.argsort(-sizes[order], kind="stable")]
    fold = np.empty(len(counts), int)
    held, images = np.zeros((n_folds, shares.shape[1])), np.zeros(n_folds)
    for group in order:
        least = np.lexsort((images, (held @ shares[group]).round(12)))[0]
        fold[group] = least
        held[least] += shares[group]
        images[least] += sizes[group]
    return pd.Series(fold, counts.index)


def _check_folds(manifest: pd.DataFrame, n_folds: int, test_fold: int) -> None:
    if n_folds < 3:
        raise InputError(f"n_folds is {n_folds}, expected 3 or more: train, val and test")
    if not 0 <= test_fold < n_folds:
        raise InputError(f"test_fold is {test_fold}, expected 0 to {n_folds - 1}")
    missing = int(manifest["group_id"].isna().sum())
    if missing:
        raise InputError(f"{missing} rows have no group_id: call add_groups first")
    groups = manifest.groupby("label")["group_id"].nunique()
    for label, n_groups in groups.items():
        if n_groups < n_folds:
            raise InputError(
                f"class {label} has {n_groups} patients or groups, expected at least one for each "
                f"of {n_folds} folds: add images or use fewer folds"
            )


def split_overlap(manifest: pd.DataFrame) -> int:
    """Number of groups that stand in more than one split; 0 is the proof of a clean split."""
    return int((manifest.groupby("group_id")["split"].nunique() > 1).sum())


def split_table(manifest: pd.DataFrame) -> pd.DataFrame:
    """Images per class (rows) and split (columns)."""
    table = pd.crosstab(manifest["label"], manifest["split"])
    return table.reindex(index=list(classes_of(manifest)), columns=list(SPLITS), fill_value=0)


def image_paths(folder: str | Path) -> list[Path]:
    """All files below a folder, sorted, without hidden ones and those in ``masks`` or ``lesions``.

    Raises:
        InputError: no such folder, or no such files in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected a folder of images")
    paths = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and MASK_FOLDERS.keys().isdisjoint(parts := path.relative_to(folder).parts)
        and not any(part.startswith(".") for part in parts)
    ]
    if not paths:
        raise InputError(f"{folder}: the folder holds no files; expected images in it or below")
    return paths


def overlap(
    folder_a: str | Path, folder_b: str | Path, threshold: float = 0.98
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Films of folder B that are already in folder A, by the rule of near_duplicate_groups.

    Returns:
        One row per film of B with a match: ``path_in_b``, ``path_in_a`` (the same bytes, else the
        best match; both relative to the folders), ``correlation`` of their 32x32 thumbnails,
        ``identical`` (the same bytes); and how many files there are: ``a``, ``b``, ``unread`` (of
        either, not readable as images).

    Raises:
        InputError: see image_paths.
    """
    paths_a, paths_b = image_paths(folder_a), image_paths(folder_b)
    a, b = thumbnails(paths_a), thumbnails(paths_b)
    counts = {"a": len(a), "b": len(b), "unread": int(np.isnan(np.r_[a[:, 0], b[:, 0]]).sum())}
    a, b = np.nan_to_num(a), np.nan_to_num(b)
    best, value = np.zeros(len(b), int), np.zeros(len(b), np.float32)
    for start in range(0, len(b), BLOCK):
        rows = slice(start, start + BLOCK)
        products = b[rows] @ a.T
        best[rows], value[rows] = products.argmax(axis=1), products.max(axis=1)
    found = np.flatnonzero(value > threshold)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        hashes = dict(zip(pool.map(_sha256, paths_a), range(len(a)), strict=True))
        same = [hashes.get(code) for code in pool.map(_sha256, [paths_b[i] for i in found])]
    match = [best[i] if twin is None else twin for i, twin in zip(found, same, strict=True)]
    table = pd.DataFrame(
        {
            "path_in_b": [paths_b[i].relative_to(folder_b).as_posix() for i in found],
            "path_in_a": [paths_a[i].relative_to(folder_a).as_posix() for i in match],
            "correlation": value[found].clip(-1, 1).astype(float),
            "identical": np.array([twin is not None for twin in same], bool),
        }
    )
    return table, counts
