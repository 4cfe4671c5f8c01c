"""What is timed. Each function prepares one contender and returns the step that is repeated.

All train a ResNet18 from random weights on the same class-per-folder images; the step shows every
image once. `files` are the paths of those images, `size` the side in pixels.
"""

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

CLASSES = 3


def covidxr(folder: Path, files: list[Path], size: int, batch: int):
    """One epoch as `covidxr train` runs it: cached pixels, augmentation, fastest precision."""
    from covidxr.config import TrainConfig
    from covidxr.loaders import Augment, XrayDataset, decode, make_loader
    from covidxr.models import build_model
    from covidxr.training import choose_compute, make_optimizer, make_scheduler, train_one_epoch

    pixels, _ = decode(files, size, folder / "cache")
    loader = make_loader(XrayDataset(pixels, _targets(files)), batch, train=True)
    compute, model = choose_compute(), build_model(CLASSES)
    optimizer = make_optimizer(model.to(compute.device), TrainConfig(batch_size=batch))
    scheduler = make_scheduler(optimizer, 1_000_000, 0.1)
    loss_fn, augment = nn.CrossEntropyLoss(label_smoothing=0.1), Augment()
    return lambda: train_one_epoch(model, loader, loss_fn, optimizer, scheduler, augment, compute)


def limit(folder: Path, files: list[Path], size: int, batch: int):
    """The same model stepping on one batch that is already in memory, as often as an epoch has."""
    from covidxr.config import TrainConfig
    from covidxr.models import build_model
    from covidxr.training import choose_compute, make_optimizer

    compute, model = choose_compute(), build_model(CLASSES)
    optimizer = make_optimizer(model.to(compute.device), TrainConfig(batch_size=batch))
    images = torch.rand(batch, 1, size, size, device=compute.device)
    targets = torch.arange(batch, device=compute.device) % CLASSES

    def epoch():
        model.train()
        for _ in range(len(files) // batch):
            optimizer.zero_grad()
            with compute.autocast():
                loss = nn.functional.cross_entropy(model(images), targets)
            loss.backward()
            optimizer.step()

    return epoch


def original(folder: Path, files: list[Path], size: int, batch: int):
    """The loop this course replaces: PIL at every step, float32, NCHW, Adam, no workers."""
    return _plain_epoch(folder, size, batch, workers=0, flip=True)


def torchvision(folder: Path, files: list[Path], size: int, batch: int):
    """ImageFolder and a DataLoader with two workers, float32, Adam."""
    return _plain_epoch(folder, size, batch, workers=2, flip=False)


def fastai(folder: Path, files: list[Path], size: int, batch: int):
    """fastai's vision_learner with its defaults, its progress bars off."""
    from fastai.vision.all import ImageDataLoaders, Resize, resnet18, vision_learner

    loaders = ImageDataLoaders.from_folder(
        folder / "images", valid_pct=1 / len(files), seed=0, item_tfms=Resize(size), bs=batch
    )
    learner = vision_learner(loaders, resnet18, pretrained=False)

    def epoch():
        with learner.no_bar(), learner.no_logging():
            learner.fit_one_cycle(1)

    return epoch


def frozen(folder: Path, files: list[Path], size: int, batch: int):
    """A run of 20 epochs that trains the head alone, on four fifths of the images."""
    from covidxr.config import TrainConfig
    from covidxr.loaders import XrayDataset, decode
    from covidxr.models import build_model
    from covidxr.training import fit

    pixels, _ = decode(files, size, folder / "cache")
    rows = np.random.default_rng(0).permutation(len(files))
    train, val = (
        XrayDataset(pixels, _targets(files), part) for part in np.split(rows, [len(rows) * 4 // 5])
    )
    config = TrainConfig(batch_size=batch, epochs=20, patience=20, freeze=True)
    model = build_model(CLASSES)
    return lambda: fit(model, train, val, config)


def predict(folder: Path, files: list[Path], size: int, batch: int):
    """`covidxr predict` on the files, end to end: decode, network, probabilities, table."""
    from covidxr import runs
    from covidxr.models import build_model, save_checkpoint

    metadata = {"classes": list("abc"), "image_size": size, "normalisation": "", "temperature": 1.0}
    save_checkpoint(folder / "model.safetensors", build_model(CLASSES), metadata)
    return lambda: runs.predict_files(folder, files, batch)


def predict_limit(folder: Path, files: list[Path], size: int, batch: int):
    """The same network on one batch that is already in memory, as often as the files need."""
    from covidxr.models import build_model, fold_batch_norm
    from covidxr.training import choose_compute

    compute = choose_compute()
    model = fold_batch_norm(build_model(CLASSES)).to(compute.device)
    images = torch.rand(batch, 1, size, size, device=compute.device)

    @torch.inference_mode()
    def sweep():
        for start in range(0, len(files), batch):
            with compute.autocast():
                model(images[: len(files) - start]).float().cpu()

    return sweep


def predict_plain(folder: Path, files: list[Path], size: int, batch: int):
    """The loop of many tutorials: PIL, float32, one image at a time."""
    from PIL import Image
    from torchvision.models import resnet18

    model, transform = resnet18(num_classes=CLASSES).eval(), _transform(size)

    @torch.inference_mode()
    def sweep():
        for path in files:
            model(transform(Image.open(path).convert("RGB"))[None]).softmax(1)

    return sweep


def _targets(files: list[Path]) -> np.ndarray:
    names = sorted({path.parent.name for path in files})
    return np.array([names.index(path.parent.name) for path in files])


def _transform(size: int, flip: bool = False):
    from torchvision import transforms

    return transforms.Compose(
        [
            transforms.Resize((size, size)),
            *([transforms.RandomHorizontalFlip()] if flip else []),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )


def _plain_epoch(folder: Path, size: int, batch: int, workers: int, flip: bool):
    from torchvision.datasets import ImageFolder
    from torchvision.models import resnet18

    dataset = ImageFolder(folder / "images", _transform(size, flip))
    loader = DataLoader(dataset, batch, shuffle=True, num_workers=workers)
    model = resnet18(num_classes=CLASSES)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-5)

    def epoch():
        model.train()
        for images, targets in loader:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images), targets)
            loss.backward()
            optimizer.step()

    return epoch
