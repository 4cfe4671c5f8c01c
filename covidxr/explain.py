"""Where a model looks, and whether the picture of it can be believed.

Everything works on arrays, film by film: `images` uint8 (N, S, S), `targets` (N,) class indices,
`maps` float32 (N, S, S) with evidence for the class above zero, `masks` bool (N, S, S).
"""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from captum.attr import LayerActivation, LayerGradientXActivation
from PIL import Image
from scipy import ndimage
from torch import nn
from torch.nn import functional as F

from covidxr import InputError, metrics
from covidxr.calibration import softmax
from covidxr.loaders import XrayDataset, as_float, make_loader
from covidxr.models import XrayResNet18
from covidxr.training import choose_compute, predict

STRIDES = {"layer1": 4, "layer2": 8, "layer3": 16, "layer4": 32}  # film pixels a cell
BATCH = 16  # films whose gradients are held at a time
STAGES = ("fc", "layer4", "layer3", "layer2", "layer1", "stem")  # from the output to the input


def grad_cam(
    model: XrayResNet18, images, targets, layer="layer4", averaged=True, against=None, normal=None
) -> np.ndarray:
    """Where the score of a class comes from, as a layer sees it, at the size of the films (captum).

    Gradients averaged over the film are one weight per channel: Grad-CAM (Selvaraju et al., 2017).
    Taken cell by cell they give HiResCAM (Draelos & Carin, 2020), which stays faithful in earlier,
    finer layers; on `layer4`, which a mean and a linear head follow, both are the same.

    Two choices differ from the papers. The score is the class's logit minus another, or minus the
    mean of all: a constant added to all logits changes no probability and must change no map. And
    evidence against the class keeps its sign: a ReLU would leave an empty map where none speaks in
    favour. `np.maximum(maps, 0)` is the paper's map.

    Args:
        layer: layer1 to layer4, with a cell every 4, 8, 16, 32 pixels.
        averaged: Grad-CAM; False: HiResCAM.
        against: index of the class to compare with ("why COVID rather than Normal?"); None: the
            mean of all classes.
        normal: films (M, S, S) whose mean activation, cell by cell, is taken off first: what every
            film has at a place (shoulders, heart, the padding at the edge) explains no disease.

    Returns:
        float32 (N, S, S). Cell (i, j) of the layer stands at the centre of its receptive field,
        pixel (i, j) times the layer's stride (Araujo et al., 2019), and between cells it is linear.

    Raises:
        InputError: a layer without a map, a map of a single cell, or one that is not finite or
            constant, which says nothing; the film is named by its row.
    """
    if layer not in STRIDES:
        raise InputError(f"layer: found {layer!r}, expected one of {', '.join(STRIDES)}")
    stride, size, device = STRIDES[layer], images.shape[-1], choose_compute().device
    if size <= stride:
        raise InputError(f"images of {size} pixels have one cell in {layer}; give larger ones")
    network, block = model.to(device).eval(), getattr(model, layer)
    activation = LayerActivation(network, block)
    gradient = LayerGradientXActivation(
        _Contrast(network, against), block, multiply_by_inputs=False
    )
    usual = 0.0
    if normal is not None:
        usual = torch.cat([activation.attribute(films) for films, _ in _batches(normal, device)])
        usual = usual.detach().mean(dim=0)
    maps = []
    for films, rows in _batches(images, device):
        target = torch.as_tensor(np.asarray(targets)[rows], device=device)
        weights = gradient.attribute(films.requires_grad_(), target).detach()
        if averaged:
            weights = weights.mean(dim=(2, 3), keepdim=True)
        cells = weights * (activation.attribute(films).detach() - usual)
        maps.append(_enlarge(cells.sum(dim=1, keepdim=True), size, stride)[:, 0].cpu().numpy())
    return _check_maps(np.concatenate(maps))


def _batches(images, device: str):
    """Films (N, S, S) as float batches (B, 1, S, S), each with its slice of rows."""
    for start in range(0, len(images), BATCH):
        rows = slice(start, start + BATCH)
        yield as_float(torch.from_numpy(np.array(images[rows]))[:, None]).to(device), rows


def fine_map(model, images, targets, layers, smooth=0.0, against=None, normal=None) -> np.ndarray:
    """HiResCAM of several layers in one map, (N, S, S), to point with.

    Early layers are fine and noisy, late ones coarse: each map is divided by its total evidence,
    for and against, then they are added and blurred by a Gaussian whose standard deviation is
    `smooth` times the film's side; outside the film there is no evidence, so its edge fades.
    Raises InputError as `grad_cam` does.
    """
    total = np.zeros(images.shape, np.float32)
    for layer in layers:
        maps = grad_cam(model, images, targets, layer, False, against, normal)
        total += maps / np.abs(maps).sum(axis=(1, 2), keepdims=True)
    width = smooth * images.shape[-1]
    return _check_maps(ndimage.gaussian_filter(total, (0, width, width), mode="constant"))


class _Contrast(nn.Module):
    """The model's logits, less that of class `against` or, where it is None, less their mean."""

    def __init__(self, model: nn.Module, against: int | None) -> None:
        super().__init__()
        self.model, self.against = model, against

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = self.model(images)
        if self.against is None:
            return logits - logits.mean(dim=1, keepdim=True)
        return logits - logits[:, self.against, None]


def _enlarge(cells: torch.Tensor, size: int, stride: int) -> torch.Tensor:
    """(N, 1, h, h) to (N, 1, size, size): cell i at pixel i * stride, linear between."""
    place = torch.arange(size, device=cells.device) / stride
    place = place / (cells.shape[-1] - 1) * 2 - 1  # grid_sample counts from -1 to 1
    grid = torch.stack(torch.meshgrid(place, place, indexing="xy"), dim=-1)
    grid = grid.expand(len(cells), -1, -1, -1)
    return F.grid_sample(cells, grid, padding_mode="border", align_corners=True)


def _check_maps(maps: np.ndarray) -> np.ndarray:
    flat = maps.reshape(len(maps), -1)
    useless = ~np.isfinite(flat).all(axis=1) | (np.ptp(flat, axis=1) == 0)
    if useless.any():
        raise InputError(
            f"Grad-CAM: {useless.sum()} of {len(maps)} maps are constant or not finite, the first "
            f"is film {useless.argmax()}; is the layer dead, or are there NaN in the weights?"
        )
    return maps


def read_masks(root, paths, size: int) -> np.ndarray:
    """Mask files as bool (N, size, size), at least half inside; InputError on a broken file."""
    masks = np.zeros((len(paths), size, size), bool)
    for row, path in enumerate(paths):
        try:
            with Image.open(Path(root) / path) as image:
                image = image.convert("L").resize((size, size), Image.Resampling.BILINEAR)
        except (OSError, TypeError) as error:
            raise InputError(f"mask {path}: cannot be read ({error})") from error
        masks[row] = np.asarray(image) > 127
    return masks


def energy_inside(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Share (N,) of each map's positive evidence that lies inside its mask.

    After the energy-based pointing game of Wang et al. (2020); NaN where nothing is positive.
    With lung masks as maps and lesion masks as masks it is the lesion's share of the lungs.
    """
    evidence = np.maximum(maps, 0, dtype=np.float64)
    total = evidence.sum(axis=(1, 2))
    inside = (evidence * masks).sum(axis=(1, 2))
    return np.divide(inside, total, out=np.full(len(maps), np.nan), where=total > 0)


def pointing_game(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """1 where a map's highest pixel lies inside its mask, else 0; (N,) (Zhang et al., 2018).

    Pixels that share the maximum share the hit, so a constant map gets the mask's share of the
    film, which is the chance level, and a lung mask as map the chance level within the lungs. No
    tolerance around the mask.
    """
    highest = maps == maps.max(axis=(1, 2), keepdims=True)
    return (highest & masks).sum(axis=(1, 2)) / highest.sum(axis=(1, 2))


def mean_with_interval(values, groups) -> dict:
    """Mean of film values (N,) with the 95% interval of a bootstrap over groups (patients).

    Returns:
        value, low, high, n, undefined; NaN are left out and counted as undefined. Where no resample
        differs from a mean of 0 or 1 the interval is Wilson's on the number of groups; with fewer
        than 10 groups it is None.
    """
    values = np.asarray(values, dtype=float)
    known = np.isfinite(values)
    result = {"value": None, "low": None, "high": None, "n": int(known.sum())}
    result["undefined"] = int(len(known) - known.sum())
    if not known.any():
        return result
    codes, names = pd.factorize(np.asarray(groups)[known])
    values = values[known]
    result["value"] = float(values.mean())
    if len(names) < metrics.MIN_GROUPS:
        return result
    draws = metrics.resampled(lambda counts: values @ counts / counts.sum(axis=0), codes)
    low, high = metrics.percentile_interval(draws)
    if low == high and result["value"] in (0.0, 1.0):
        low, high = metrics.wilson_interval(result["value"] * len(names), len(names))
    return result | {"low": float(low), "high": float(high)}


def perturb(model: XrayResNet18, images, targets, maps, steps: int = 10) -> dict[str, np.ndarray]:
    """Deletion and insertion curves (Petsiuk et al., 2018): the class's probability (N, steps + 1).

    `deletion` blurs the film, highest pixels of the map first, in equal shares; `insertion` starts
    from the blurred film and brings the sharp pixels back in that order. The blur has a standard
    deviation of a tenth of the film's side. A faithful map makes the first fall and the second rise
    early. Compare with maps in which the order is random but the grain is the same.
    """
    images, rows = np.asarray(images), np.arange(len(images))
    blurred = ndimage.gaussian_filter(images, (0, images.shape[1] / 10, images.shape[2] / 10))
    order = np.argsort(-maps.reshape(len(maps), -1), axis=1, kind="stable")
    rank = np.argsort(order, axis=1).reshape(images.shape)
    curves = {"deletion": [], "insertion": []}
    compute = choose_compute()
    model = model.to(compute.device)
    for share in np.linspace(0, 1, steps + 1):
        first = rank < share * rank[0].size
        films = {"deletion": (blurred, images), "insertion": (images, blurred)}
        for name, (inside, outside) in films.items():
            loader = make_loader(XrayDataset(np.where(first, inside, outside), rows), 64)
            p = softmax(predict(model, loader, compute))
            curves[name].append(p[rows, np.asarray(targets)])
    return {name: np.stack(curve, axis=1) for name, curve in curves.items()}


def ssim(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Mean structural similarity (N,) of maps (Wang et al., 2004): 1 if equal, near 0 if unrelated.

    Each map is first stretched to 0-1.
    """
    return ssim_map(_stretch(a), _stretch(b)).mean(axis=(1, 2))


def _stretch(maps: np.ndarray) -> np.ndarray:
    low, high = maps.min(axis=(1, 2), keepdims=True), maps.max(axis=(1, 2), keepdims=True)
    return (np.asarray(maps, dtype=float) - low) / (high - low)


def ssim_map(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """SSIM (N, S, S) of images in 0-1 around each pixel, in a square of 7 pixels a side."""

    def mean(images):
        return ndimage.uniform_filter(images, (0, 7, 7))

    c1, c2 = 0.01**2, 0.03**2
    mean_a, mean_b = mean(a), mean(b)
    var_a, var_b = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2
    covariance = mean(a * b) - mean_a * mean_b
    top = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return top / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))


def randomise(model: XrayResNet18, stage: str, seed: int = 0) -> XrayResNet18:
    """A copy with random weights from the output down to `stage` (Adebayo et al., 2018).

    Convolutions as at the start of training (He et al., 2015); batch normalisations get scales
    around 1, shifts around 0 and the statistics of a new layer. The scales of a new model would not
    do: those that close a residual branch start at 0 there, and its maps would skip the branch.
    """
    if stage not in STAGES:
        raise InputError(f"stage: found {stage!r}, expected one of {', '.join(STAGES)}")
    model, generator = deepcopy(model), torch.Generator().manual_seed(seed)
    for name in STAGES[: STAGES.index(stage) + 1]:
        parts = (model.conv1, model.bn1) if name == "stem" else (getattr(model, name),)
        for module in (module for part in parts for module in part.modules()):
            _randomise(module, generator)
    return model


def _randomise(module: nn.Module, generator: torch.Generator) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, 0, "fan_out", "relu", generator)
    elif isinstance(module, nn.BatchNorm2d):
        module.reset_running_stats()
        nn.init.normal_(module.weight, 1, 0.1, generator)
        nn.init.normal_(module.bias, 0, 0.1, generator)
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, 0, module.in_features**-0.5, generator)
        nn.init.zeros_(module.bias)


def sanity_check(method: Callable, model, seed: int = 0) -> dict[str, np.ndarray]:
    """SSIM (N,) of each film's map with the trained model's, from `fc` down to the whole model.

    `method` turns a model into maps (N, S, S). A map that depends on what was learned changes: its
    SSIM falls to that of unrelated maps.
    """
    maps = method(model)
    return {stage: ssim(maps, method(randomise(model, stage, seed))) for stage in STAGES}
