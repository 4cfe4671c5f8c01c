"""The training phase: one epoch, predictions, and `fit` around them."""

import math
import os
import random
from collections.abc import Callable
from copy import deepcopy
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import gather_object, reduce
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from covidxr.config import TrainConfig
from covidxr.loaders import Augment, XrayDataset, class_weights, make_loader
from covidxr.models import AllHeads, HeadsAlone, XrayResNet18
from covidxr.resume import Keeper
from covidxr.severity import HIGHEST, OUTPUTS, JointLoss, mean_error


def set_seed(seed: int) -> None:
    """Seed Python, NumPy and PyTorch and ask for deterministic kernels."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True, warn_only=True)


class Compute(NamedTuple):
    """Where and how precisely to compute; chosen once, by `choose_compute`."""

    device: str  # cuda, mps or cpu; of this process
    dtype: str  # float32, bfloat16 or float16: what matrix products are computed in
    rank: int = 0  # number of this process
    processes: int = 1

    @property
    def kind(self) -> str:
        return torch.device(self.device).type

    @property
    def shard(self) -> tuple[int, int]:
        return self.rank, self.processes

    def autocast(self):
        dtype = getattr(torch, self.dtype)
        return torch.autocast(self.kind, dtype, enabled=self.dtype != "float32")

    def scaler(self) -> torch.amp.GradScaler:
        """Keeps small gradients from vanishing in float16; does nothing in other types."""
        return torch.amp.GradScaler(self.kind, init_scale=1024, enabled=self.dtype == "float16")


def choose_compute(precision: str = "auto") -> Compute:
    """This process's device and, unless `precision` is float32, its fastest safe data type.

    Joins the processes of `accelerate launch`, where there are several.
    """
    on_processor = os.environ.get("ACCELERATE_USE_CPU") == "True"
    state = PartialState(cpu=on_processor or not torch.accelerator.is_available())
    dtype = _fast_dtype(state.device.type) if precision == "auto" else "float32"
    return Compute(str(state.device), dtype, state.process_index, state.num_processes)


def _fast_dtype(device: str) -> str:
    """bfloat16 only where the processor computes it natively."""
    if device == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(False) else "float16"
    has_bf16 = torch.backends.cpu.get_cpu_capability() == "AVX512" and (
        torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    )
    return "bfloat16" if device == "cpu" and has_bf16 else "float32"


def train_one_epoch(
    model: nn.Module,
    loader: DataLoader,
    loss_fn: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    augment: Callable | None = None,
    compute: Compute = Compute("cpu", "float32"),  # noqa: B008, an immutable tuple
) -> float:
    """Show the model every batch once and step the weights after each; the mean loss per image."""
    model.train()
    scaler = compute.scaler()
    total, seen = torch.zeros((), device=compute.device), 0
    # The bar shows on a terminal only; elsewhere `fit` prints one line per epoch.
    for images, targets in tqdm(loader, leave=False, disable=compute.rank > 0 or None):
        images = images.to(compute.device, non_blocking=True)
        targets = targets.to(compute.device, non_blocking=True)
        if augment is not None:
            images = augment(images)
        optimizer.zero_grad()
        with compute.autocast():
            loss = loss_fn(model(images), targets)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
        total, seen = total + loss.detach() * len(targets), seen + len(targets)
    totals, counts = zip(*gather_object([(total.item(), seen)]), strict=True)
    return sum(totals) / sum(counts)


@torch.inference_mode()
def predict(
    model: nn.Module,
    loader: DataLoader,
    compute: Compute = Compute("cpu", "float32"),  # noqa: B008, an immutable tuple
    forward: Callable | None = None,
) -> np.ndarray:
    """Outputs for every image of `loader`, in order: float32 (N, C) logits.

    Several processes each predict the batches of their shard and all get all outputs.

    Args:
        forward: what to call in place of the whole model, e.g. `model.features` for (N, 512).
    """
    model.eval()
    outputs = []
    for images, _ in loader:
        with compute.autocast():
            output = (forward or model)(images.to(compute.device, non_blocking=True))
        outputs.append(output.float().cpu().numpy())
    return np.concatenate(gather(outputs, compute))


def gather(items: list, compute: Compute) -> list:
    """The items of all processes in their order, where item i of process r is i * processes + r."""
    numbered = [(i * compute.processes + compute.rank, item) for i, item in enumerate(items)]
    return [item for _, item in sorted(gather_object(numbered), key=lambda pair: pair[0])]


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019); a new head on trained layers gets ten times the rate.

    Biases and normalisation parameters are not decayed.
    """
    fine_tuning = config.weights != "none" and not config.freeze
    groups = {}
    for name, parameter in model.named_parameters():
        head = fine_tuning and name.split(".")[-2] in ("fc", "severity")
        groups.setdefault((head, parameter.ndim > 1), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "lr": config.learning_rate * (10 if head else 1),
                "weight_decay": config.weight_decay if decay else 0.0,
            }
            for (head, decay), parameters in groups.items()
        ],
        fused=True,  # one pass over the parameters in place of one per operation
    )


def make_scheduler(optimizer, steps: int, warmup: float) -> torch.optim.lr_scheduler.LambdaLR:
    """Linear warm-up over the first share of the steps, then half a cosine down to zero."""
    rise = max(1, round(steps * warmup))

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def fit(
    model: XrayResNet18,
    train_set: XrayDataset,
    val_set: XrayDataset,
    config: TrainConfig,
    compute: Compute | None = None,
    keeper: Keeper | None = None,
) -> pd.DataFrame:
    """Train `model` in place and leave it with the weights of its best validation epoch.

    The score that decides is macro-F1 on the validation split; of a model that scores severity,
    less the mean error of extent as a share of its range.

    Args:
        keeper: keeps the state after every epoch, and gives back that of a killed training.

    Returns:
        history, one row per epoch: epoch, lr, train_loss, val_loss, val_macro_f1, and
        val_extent_mae of a model that scores severity.
    """
    compute = compute or choose_compute(config.precision)
    model.to(compute.device)
    if not config.freeze:
        augment = Augment() if config.augment else None
        network = model if model.severity is None else AllHeads(model)
        return _fit(network, train_set, val_set, config, compute, augment, keeper)
    # A frozen backbone gives every image the same features each time: compute them once.
    train_set, val_set = (
        XrayDataset(
            predict(model, make_loader(part, 64, shard=compute.shard), compute, model.pooled),
            part.targets.numpy(),
            scores=part.scores,
        )
        for part in (train_set, val_set)
    )
    return _fit(HeadsAlone(model), train_set, val_set, config, compute, None, keeper)


def _fit(network, train_set, val_set, config, compute, augment, keeper) -> pd.DataFrame:
    loss_fn = make_loss(train_set, config).to(compute.device)
    balanced = config.imbalance == "balanced_sampler"
    loader = make_loader(
        train_set, config.batch_size, True, balanced, config.seed, shard=compute.shard
    )
    val_loader = make_loader(val_set, 64, shard=compute.shard)
    optimizer = make_optimizer(network, config)
    scheduler = make_scheduler(optimizer, config.epochs * len(loader), config.warmup)
    parts = network, optimizer, scheduler, loader.generator
    history, best_state = keeper.load(*parts) if keeper else ([], None)
    parallel = Accelerator().prepare_model(network) if compute.processes > 1 else network
    for epoch in range(len(history) + 1, config.epochs + 1):
        if history and epoch - 1 - best_epoch(history) >= config.patience:
            break
        row = {"epoch": epoch, "lr": scheduler.get_last_lr()[0]}
        row["train_loss"] = train_one_epoch(
            parallel, loader, loss_fn, optimizer, scheduler, augment, compute
        )
        _average_statistics(network, compute)
        row |= validate(network, val_loader, compute)
        history.append(row)
        report_epoch(config.epochs, **row)
        is_best = best_epoch(history) == epoch
        if is_best:
            best_state = deepcopy(network.state_dict())
        if keeper:
            keeper.save(*parts, history, None if is_best else best_state)
    network.load_state_dict(best_state)
    return pd.DataFrame(history)


def best_epoch(history: list[dict]) -> int:
    """The first of those with the best score on the validation split."""

    def score(row: dict) -> float:
        return row["val_macro_f1"] - row.get("val_extent_mae", 0) / HIGHEST["extent"]

    return max(history, key=score)["epoch"]


def make_loss(train_set: XrayDataset, config: TrainConfig) -> nn.Module:
    """Cross-entropy, weighted by class if asked for, with the loss of the scores if there are."""
    weights = None
    if config.imbalance == "weighted_loss":
        weights = class_weights(train_set.targets, int(train_set.targets.max()) + 1)
    of_class = nn.CrossEntropyLoss(weights, label_smoothing=config.label_smoothing)
    return of_class if train_set.scores is None else JointLoss(of_class)


def _average_statistics(model: nn.Module, compute: Compute) -> None:
    """Batch normalisation saw other images in each process: share the mean of what they saw."""
    if compute.processes > 1:
        for buffer in model.buffers():
            if buffer.is_floating_point():
                buffer.copy_(reduce(buffer, "mean"))


def validate(network: nn.Module, loader: DataLoader, compute: Compute) -> dict[str, float]:
    """Cross-entropy and macro-F1 on a validation loader, and the mean error of extent if scored."""
    from sklearn.metrics import f1_score  # here, since it takes long to load

    outputs, known = predict(network, loader, compute), loader.dataset
    scored = known.scores is not None
    logits = torch.from_numpy(outputs[:, :-OUTPUTS] if scored else outputs)
    row = {
        "val_loss": nn.functional.cross_entropy(logits, known.targets).item(),
        "val_macro_f1": float(f1_score(known.targets, logits.argmax(1), average="macro")),
    }
    if scored:
        error = mean_error(outputs[:, -OUTPUTS:], known.scores.numpy())
        if math.isfinite(error):
            row["val_extent_mae"] = error
    return row


def report_epoch(
    epochs, epoch, lr, train_loss, val_loss, val_macro_f1, val_extent_mae=None
) -> None:
    """One plain line an epoch."""
    severity = "" if val_extent_mae is None else f"  extent off by {val_extent_mae:.2f}"
    print(
        f"epoch {epoch}/{epochs}  train loss {train_loss:.3f}  "
        f"validation loss {val_loss:.3f}  macro-F1 {val_macro_f1:.3f}{severity}",
        flush=True,
    )
