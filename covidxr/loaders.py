"""From manifest rows to batches: decoded-image cache, X-ray-safe augmentation, imbalance."""

import hashlib
import json
import mmap
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import (
    DataLoader,
    Dataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    WeightedRandomSampler,
)

from covidxr import InputError
from covidxr.files import held, whole, write_text
from covidxr.images import RejectedImage, read_image, resize

CACHE_DIR = Path("runs/cache")
AHEAD = 256  # images held at a time, decoded


def read_square(path, size: int) -> np.ndarray | RejectedImage:
    """One file as a (size, size) uint8 array, or the reason why it was rejected."""
    try:
        return resize(read_image(path), size)
    except RejectedImage as rejection:
        return RejectedImage(path, rejection.reason)  # the first one holds on to the pixels


def read_squares(paths, size: int):
    """Decode `paths` in threads; yields what `read_square` returns, in the order of `paths`."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(paths), AHEAD):
            window = paths[start : start + AHEAD]
            yield from pool.map(lambda path: read_square(path, size), window)


def decode(paths, size: int, cache_dir=CACHE_DIR) -> tuple[np.ndarray, dict[int, str]]:
    """Decode every file once into a read-only uint8 memory map on disk.

    The cache file is named by the file list, sizes, times of change and image size, so any change
    makes a new one; it is written under a temporary name and renamed.

    Returns:
        pixels, uint8 (N, size, size), zeros where a file was rejected;
        rejected, {row: reason}.

    Raises:
        InputError: the disk is too full for the cache, it cannot be written there, or the files
            changed while they were read.
    """
    paths = [Path(path) for path in paths]
    cache = Path(cache_dir) / f"{_fingerprint(paths, size)}.npy"
    if not cache.exists():
        with held(cache.parent, wait=True):
            if not cache.exists():  # by the process that held it before
                _write_cache(cache, paths, size)
    reasons = json.loads(cache.with_suffix(".json").read_text())
    return np.load(cache, mmap_mode="r"), {int(row): reason for row, reason in reasons.items()}


def _fingerprint(paths, size: int) -> str:
    digest = hashlib.sha256(f"uint8 {size}".encode())
    for path in paths:
        digest.update(b"\n%b\t%b" % (os.fsencode(path), repr(_state(path)).encode()))
    return digest.hexdigest()[:24]


def _state(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _write_cache(cache: Path, paths, size: int) -> None:
    needed, free = len(paths) * size * size, shutil.disk_usage(cache.parent).free
    if needed * 1.1 > free:
        raise InputError(
            f"{cache.parent}: the image cache needs {needed / 1e6:,.0f} MB and the disk has "
            f"{free / 1e6:,.0f} MB free; make room or choose a smaller image size"
        )
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(paths), size, size)}
    black, reasons = np.zeros((size, size), np.uint8), {}
    with whole(cache) as temporary:
        with temporary.open("wb") as file:  # a memory map of a disk that fills up would crash
            np.lib.format.write_array_header_1_0(file, header)
            for row, image in enumerate(read_squares(paths, size)):
                if isinstance(image, RejectedImage):
                    reasons[row], image = image.reason, black
                file.write(image.tobytes())
        if _fingerprint(paths, size) != cache.stem:
            raise InputError(
                f"{os.path.commonpath(paths)}: images changed or vanished while they were read; "
                "see that the folder is there, and start again"
            )
        write_text(cache.with_suffix(".json"), json.dumps(reasons))


class XrayDataset(Dataset):
    """Pixels uint8 (N, S, S), or features float (N, ...), with class indices (N,).

    `rows` takes some of them without copying a memory map. An item is ((1, S, S) or features,
    int64); a list of items gives a whole batch in one step. With severity `scores` (N, 6) a target
    is float32 (7,): the class index, then the scores (see covidxr.severity.JointLoss).
    """

    def __init__(self, inputs: np.ndarray, targets, rows=None, scores=None) -> None:
        if len(inputs) != len(targets):
            raise InputError(f"{len(inputs)} inputs but {len(targets)} targets")
        self.inputs = inputs
        self.rows = np.arange(len(inputs)) if rows is None else np.asarray(rows)
        self.targets = torch.tensor(targets, dtype=torch.int64)[self.rows]
        self.scores, self.answers = None, self.targets
        if scores is not None:
            self.scores = torch.as_tensor(scores, dtype=torch.float32)[self.rows]
            self.answers = torch.cat([self.targets[:, None].float(), self.scores], dim=1)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, items) -> tuple[torch.Tensor, torch.Tensor]:
        # np.array copies: the memory map is read-only and a tensor must own its memory.
        batch = torch.from_numpy(np.array(self.inputs[self.rows[items]]))
        _release(self.inputs)
        images = self.inputs.ndim == 3 and self.inputs.dtype == np.uint8
        return batch.unsqueeze(-3) if images else batch, self.answers[items]


def _release(array: np.ndarray) -> None:
    """Let go of a memory map's pages, which stay in the system's file cache."""
    if isinstance(array.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        array.base.madvise(mmap.MADV_DONTNEED)


def class_weights(targets, n_classes: int) -> torch.Tensor:
    """Weights (C,) inversely proportional to class frequency, mean 1 over the images."""
    counts = np.bincount(targets, minlength=n_classes)
    return torch.as_tensor(len(targets) / (n_classes * counts), dtype=torch.float32)


class Batches(Sampler):
    """The rows of a sampler in lists of `batch_size`, shared out so that each is seen once.

    When training, every process takes its part of each batch; else whole batches are dealt out in
    turn, so that they are the same however many processes there are. A last training batch too
    small for batch normalisation (one image a process) joins the batch before it.

    Args:
        shard: number of this process, and how many there are.
    """

    def __init__(self, sampler, batch_size: int, train: bool, shard=(0, 1)) -> None:
        self.sampler, self.train, (self.rank, self.processes) = sampler, train, shard
        starts = list(range(0, len(sampler), batch_size))
        if train and len(starts) > 1 and len(sampler) - starts[-1] < 2 * self.processes:
            starts.pop()
        self.bounds = list(zip(starts, [*starts[1:], len(sampler)], strict=True))
        if not train:
            self.bounds = self.bounds[self.rank :: self.processes]

    def __len__(self) -> int:
        return len(self.bounds)

    def __iter__(self):
        rows = list(self.sampler)
        for start, end in self.bounds:
            yield rows[start:end][self.rank :: self.processes] if self.train else rows[start:end]


def make_loader(
    dataset: Dataset,
    batch_size: int = 32,
    train: bool = False,
    balanced: bool = False,
    seed: int = 0,
    shard: tuple[int, int] = (0, 1),
) -> DataLoader:
    """Batches of `dataset`: in order, or shuffled from `seed` when `train`.

    `balanced` draws every class equally often, with replacement. `shard` is the number of this
    process and how many there are (see Batches); all give the same seed.
    """
    generator = torch.Generator().manual_seed(seed)
    if not train:
        sampler = SequentialSampler(dataset)
    elif balanced:
        weights = class_weights(dataset.targets, int(dataset.targets.max()) + 1)[dataset.targets]
        sampler = WeightedRandomSampler(weights, len(dataset), generator=generator)
    else:
        sampler = RandomSampler(dataset, generator=generator)
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=Batches(sampler, batch_size, train, shard),
        pin_memory=torch.cuda.is_available(),
        generator=generator,
    )


class Augment(torch.nn.Module):
    """Random rotation, shift, scale and contrast on a batch; never a flip.

    A flip would move the heart to the patient's right side, an anatomy (dextrocardia) of about one
    pregnancy in 12,000 (Bohun et al., 2007). Takes uint8 or float [0, 1] (B, 1, S, S), gives
    float32 [0, 1].

    Args:
        degrees: largest rotation. shift: largest shift, share of the side. scale: largest relative
        change of size. contrast: largest log-change of contrast and of gamma.
    """

    def __init__(self, degrees=10.0, shift=0.06, scale=0.12, contrast=0.3) -> None:
        super().__init__()
        self.degrees, self.shift, self.scale, self.contrast = degrees, shift, scale, contrast

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.change_contrast(self.move(as_float(images)))

    def move(self, images: torch.Tensor) -> torch.Tensor:
        uniform = _symmetric(len(images), images.device)
        angle = uniform(np.deg2rad(self.degrees))
        zoom, aspect = 1 + uniform(self.scale), 1 + uniform(self.scale / 2)
        # grid_sample counts in half sides: the image runs from -1 to 1.
        shift = torch.stack([uniform(2 * self.shift), uniform(2 * self.shift)], dim=1)
        rotation = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=1)
        stretch = torch.stack([zoom * aspect, zoom, zoom, zoom / aspect], dim=1)
        matrix = torch.cat([(rotation * stretch).view(-1, 2, 2), shift[:, :, None]], dim=2)
        grid = F.affine_grid(matrix, images.shape, align_corners=False)
        return F.grid_sample(images, grid, padding_mode="border", align_corners=False)

    def change_contrast(self, images: torch.Tensor) -> torch.Tensor:
        uniform = _symmetric((len(images), 1, 1, 1), images.device)
        images = images.clamp(0, 1) ** uniform(self.contrast).exp()
        mean = images.mean(dim=(2, 3), keepdim=True)
        images = (images - mean) * uniform(self.contrast).exp() + mean + uniform(self.contrast / 3)
        return images.clamp(0, 1)


def _symmetric(shape, device):
    """A function that draws uniformly from [-width, width]."""
    return lambda width: (torch.rand(shape, device=device) * 2 - 1) * width


def as_float(images: torch.Tensor) -> torch.Tensor:
    """uint8 [0, 255] to float32 [0, 1]; float32 passes unchanged."""
    return images.float() / 255 if images.dtype == torch.uint8 else images
