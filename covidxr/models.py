"""ResNet18 for one-channel radiographs: weights by name, checkpoints without pickle."""

import json
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from urllib.error import URLError

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models import ResNet18_Weights
from torchvision.models.resnet import BasicBlock, ResNet

from covidxr import InputError
from covidxr.files import write_tensors
from covidxr.loaders import as_float
from covidxr.metadata import parse

# Mean over the colour channels of the ImageNet statistics that torchvision's weights expect.
MEAN, STD = 0.449, 0.226
SHIPPED = Path(__file__).with_name("weights") / "phantom.safetensors"


class XrayResNet18(ResNet):
    """ResNet18 (He et al. 2016) that takes one grey channel and normalises it itself.

    Input: uint8 [0, 255] or float [0, 1], (B, 1, S, S), S >= 32. Output: logits (B, C).
    The first convolution has one input channel; RGB weights are summed over the channels, which
    gives the same response as three copies of the grey image.

    With `severity` a second head scores the lungs one by one: extent (0-4) and opacity (0-3) from
    the features of the half of the film that shows the lung, and the log-variance of each score's
    error (Nix & Weigend 1994). A film's score is the sum over its lungs, as the readers' is.
    """

    def __init__(self, n_classes: int, severity: bool = False) -> None:
        super().__init__(BasicBlock, [2, 2, 2, 2], num_classes=n_classes, zero_init_residual=True)
        self.conv1 = nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.severity = nn.Linear(512, 4) if severity else None

    def maps(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 1, S, S) -> (B, 512, S/32, S/32): the last feature maps."""
        x = (as_float(images) - MEAN) / STD
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))  # (B, 64, S/4, S/4)
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 1, S, S) -> (B, 512): what the class head sees."""
        return self.avgpool(self.maps(images)).flatten(1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(self.features(images))

    def pooled(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 1, S, S) -> (B, 3, 512): means over the film, its left and its right half.

        On a frontal film the left half shows the patient's right lung.
        """
        maps = self.maps(images)
        halves = F.adaptive_avg_pool2d(maps, (1, 2))[:, :, 0]  # (B, 512, 2)
        return torch.cat([self.avgpool(maps).flatten(2), halves], dim=2).transpose(1, 2)

    def heads(self, pooled: torch.Tensor) -> torch.Tensor:
        """(B, 3, 512) -> (B, C) logits, or (B, C + 8) with the four scores of each lung."""
        logits = self.fc(pooled[:, 0])
        if self.severity is None:
            return logits
        return torch.cat([logits, self.score_lungs(pooled[:, 1:]).flatten(1)], dim=1)

    def score_lungs(self, halves: torch.Tensor) -> torch.Tensor:
        """(B, 2, 512) -> (B, 2, 4): extent, opacity, and the log-variance of the error of each.

        The log-variances learn on features held fixed: how sure the scores are does not shape them.
        """
        scores = F.linear(halves, self.severity.weight[:2], self.severity.bias[:2])
        doubts = F.linear(halves.detach(), self.severity.weight[2:], self.severity.bias[2:])
        return torch.cat([scores, doubts], dim=2)

    def outputs(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 1, S, S) -> all that `heads` give."""
        return self.heads(self.pooled(images))


class AllHeads(nn.Module):
    """A model whose forward pass gives the outputs of all its heads."""

    def __init__(self, model: XrayResNet18) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.model.outputs(images)


class HeadsAlone(nn.Module):
    """The heads of a model, which share its weights, for features that were computed before."""

    def __init__(self, model: XrayResNet18) -> None:
        super().__init__()
        self.fc, self.severity = model.fc, model.severity

    forward, score_lungs = XrayResNet18.heads, XrayResNet18.score_lungs


def build_model(n_classes: int, weights: str = "none", severity: bool = False) -> XrayResNet18:
    """A ResNet18 with a new class head; its severity head comes with the weights, if they have one.

    Args:
        weights: `phantom` (shipped with the package, see docs/WEIGHTS.md), `imagenet`
            (torchvision's IMAGENET1K_V1, downloaded and checked by its hash), `none` (random) or
            the path of a covidxr checkpoint.
        severity: whether the model scores severity too.

    Raises:
        InputError: the weights cannot be had; nothing is put in their place.
    """
    model = XrayResNet18(n_classes, severity)
    own = model.state_dict()
    given = {key: value for key, value in load_weights(weights).items() if key in own}
    model.load_state_dict(own | given)
    return model.to(memory_format=torch.channels_last)


def load_weights(weights: str) -> dict[str, torch.Tensor]:
    """The tensors that a name of weights stands for, without a class head; none for `none`."""
    if weights == "none":
        return {}
    if weights == "phantom":
        state = _shipped_state()
    else:
        state = _imagenet_state() if weights == "imagenet" else _checkpoint_state(weights)
    return {key: value for key, value in state.items() if not key.startswith("fc.")}


def _shipped_state() -> dict[str, torch.Tensor]:
    return {key: value.float() for key, value in load_file(SHIPPED).items()}


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
            f"weights {weights!r}: neither 'phantom', 'imagenet', 'none' nor the path of a "
            "checkpoint (model.safetensors in a run folder)"
        )
    return load_checkpoint(weights)[0].state_dict()


def save_checkpoint(path, model: nn.Module, metadata: dict) -> None:
    """Write weights and metadata as a whole; InputError where they cannot be written."""
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    write_tensors(Path(path), state, {"covidxr": json.dumps(metadata)})


def load_checkpoint(path) -> tuple[XrayResNet18, dict]:
    """The model in eval mode, and its metadata.

    Raises:
        InputError: no such file, not safetensors (a pickle can run code and is refused),
            not a covidxr checkpoint of this version, or tensors that do not fit a ResNet18 of
            these classes.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no checkpoint here; train one with `python -m covidxr train`")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("covidxr")
            state = {key: file.get_tensor(key) for key in file.keys()}
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path}: not a safetensors file ({error}); pickled weights are refused because "
            "loading them can run code"
        ) from error
    metadata = parse(path, text, scored="severity.weight" in state)
    with torch.device("meta"):  # no memory, and no random numbers that the file would replace
        model = XrayResNet18(len(metadata["classes"]), severity="severity.weight" in state)
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    found = {key: value.shape for key, value in state.items()}
    wrong = sorted(key for key in shapes | found if shapes.get(key) != found.get(key))
    if wrong:
        raise InputError(
            f"{path}: {len(wrong)} tensors do not fit a ResNet18 with classes "
            f"{metadata['classes']}, the first is {wrong[0]}; train it again"
        )
    if not all(value.isfinite().all() for value in state.values()):
        raise InputError(f"{path}: some of its weights are not finite numbers; train it again")
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
