"""ResNet18 for one-channel radiographs: weights by name, checkpoints without pickle."""

import json
import os
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from urllib.error import URLError

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models import ResNet18_Weights
from torchvision.models.resnet import BasicBlock, ResNet

from covidxr import InputError
from covidxr.loaders import as_float

# Mean over the colour channels of the ImageNet statistics that torchvision's weights expect.
MEAN, STD = 0.449, 0.226
REQUIRED_METADATA = ("classes", "image_size", "normalisation", "temperature")


class XrayResNet18(ResNet):
    """ResNet18 (He et al. 2016) that takes one grey channel and normalises it itself.

    Input: uint8 [0, 255] or float [0, 1], (B, 1, S, S), S >= 32. Output: logits (B, C).
    The first convolution has one input channel; RGB weights are summed over the channels, which
    gives the same response as three copies of the grey image.
    """

    def __init__(self, n_classes: int) -> None:
        super().__init__(BasicBlock, [2, 2, 2, 2], num_classes=n_classes, zero_init_residual=True)
        self.conv1 = nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 1, S, S) -> (B, 512): what the head sees."""
        x = (as_float(images) - MEAN) / STD
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))  # (B, 64, S/4, S/4)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))  # (B, 512, S/32, S/32)
        return self.avgpool(x).flatten(1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(self.features(images))


def build_model(n_classes: int, weights: str = "none") -> XrayResNet18:
    """A ResNet18 with a new head.

    Args:
        weights: `none` (random), `imagenet` (torchvision's IMAGENET1K_V1, downloaded and checked
            by its hash) or the path of a covidxr checkpoint.

    Raises:
        InputError: the weights cannot be had; nothing is put in their place.
    """
    model = XrayResNet18(n_classes)
    model.load_state_dict(model.state_dict() | load_weights(weights))
    return model.to(memory_format=torch.channels_last)


def load_weights(weights: str) -> dict[str, torch.Tensor]:
    """The tensors that a name of weights stands for, without a head; none for `none`."""
    if weights == "none":
        return {}
    state = _imagenet_state() if weights == "imagenet" else _checkpoint_state(weights)
    return {key: value for key, value in state.items() if not key.startswith("fc.")}


def _imagenet_state() -> dict[str, torch.Tensor]:
    weights = ResNet18_Weights.IMAGENET1K_V1
    try:
        state = weights.get_state_dict(check_hash=True, progress=False)
    except (URLError, OSError, RuntimeError) as error:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise InputError(
            f"weights 'imagenet': {weights.url} could not be downloaded and verified ({error}). "
            f"Connect to the internet, or put that file into {folder}, or choose weights 'none'"
        ) from error
    state["conv1.weight"] = state["conv1.weight"].sum(dim=1, keepdim=True)
    return state


def _checkpoint_state(weights: str) -> dict[str, torch.Tensor]:
    if not Path(weights).is_file():
        raise InputError(
            f"weights {weights!r}: neither 'imagenet', 'none' nor the path of a checkpoint "
            "(model.safetensors in a run folder)"
        )
    return load_checkpoint(weights)[0].state_dict()


def save_checkpoint(path, model: nn.Module, metadata: dict) -> None:
    """Write weights and metadata as safetensors, under a temporary name, then rename."""
    path = Path(path)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    try:
        save_file(state, temporary, metadata={"covidxr": json.dumps(metadata)})
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load_checkpoint(path) -> tuple[XrayResNet18, dict]:
    """The model in eval mode, and its metadata.

    Raises:
        InputError: no such file, not safetensors (a pickle can run code and is refused),
            not a covidxr checkpoint, or tensors that do not fit a ResNet18 of these classes.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no checkpoint here; train one with `python -m covidxr train`")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {}).get("covidxr", "{}"))
            state = {key: file.get_tensor(key) for key in file.keys()}
    except SafetensorError as error:
        raise InputError(
            f"{path}: not a safetensors file ({error}); pickled weights are refused because "
            "loading them can run code"
        ) from error
    missing = [key for key in REQUIRED_METADATA if key not in metadata]
    if missing:
        raise InputError(f"{path}: not a covidxr checkpoint, its metadata lacks {missing}")
    with torch.device("meta"):  # no memory, and no random numbers that the file would replace
        model = XrayResNet18(len(metadata["classes"]))
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    found = {key: value.shape for key, value in state.items()}
    wrong = sorted(key for key in shapes | found if shapes.get(key) != found.get(key))
    if wrong:
        raise InputError(
            f"{path}: {len(wrong)} tensors do not fit a ResNet18 with classes "
            f"{metadata['classes']}, the first is {wrong[0]}; train it again"
        )
    model.to_empty(device="cpu").load_state_dict(state)
    return model.to(memory_format=torch.channels_last).eval(), metadata


def fold_batch_norm(model: nn.Module) -> nn.Module:
    """A copy for inference whose convolutions do their batch normalisation: same logits, faster.

    In eval mode normalisation is a fixed scale and shift, which the weights can take over.
    """
    model = deepcopy(model).eval()
    for module in model.modules():
        for (name, layer), (following, norm) in pairwise(list(module.named_children())):
            if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(layer, norm))
                setattr(module, following, nn.Identity())
    return model
