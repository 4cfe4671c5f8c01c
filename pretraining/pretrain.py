"""Pre-train the ResNet18 that ships with the package, on phantoms only: `make pretrain`.

One backbone learns at once all that the renderer knows of a film (see films.py): its class, which
cells are lung or lesion, how thick air, bone and fluid are there, how much of each zone is ill, the
lungs' scores, and the patient's view, sex, age and rotation. The class head and the other helpers
are thrown away; backbone and severity head stay.
"""

import argparse
import json
import time
from pathlib import Path

import films as source
import torch
from disturb import disturb, move, place
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from covidxr import CLASSES, datasets
from covidxr.models import SHIPPED, XrayResNet18
from covidxr.training import choose_compute, make_scheduler, set_seed

FILMS, HELD_OUT = 32_000, 1_000
SIZES = (64, 96, 128)  # of the films in a batch, drawn for each
BATCH, LR, WEIGHT_DECAY, SEED = 64, 2e-3, 0.02, 0
EPOCHS, COSINE = 6, 8  # training stops where the rate, half a cosine over 8 epochs, is at 15%


class Pretext(nn.Module):
    """A ResNet18 with a head for every truth; maps come from a small feature pyramid (Lin 2017)."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.backbone = XrayResNet18(len(CLASSES), severity=True)
        self.zones, self.traits = nn.Linear(512, 6), nn.Linear(512, len(source.TRAITS))
        self.sides = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in (128, 256, 512))
        self.draw = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, len(source.MAPS), 1),
        )

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        net, stages = self.backbone, []
        x = (images - 0.449) / 0.226
        x = net.layer1(net.maxpool(net.relu(net.bn1(net.conv1(x)))))
        for layer in (net.layer2, net.layer3, net.layer4):
            x = layer(x)
            stages.append(x)
        top = self.sides[2](stages[2])
        for side, stage in zip(self.sides[1::-1], stages[1::-1], strict=True):
            top = side(stage) + F.interpolate(top, stage.shape[-2:])
        whole, halves = net.avgpool(x).flatten(1), F.adaptive_avg_pool2d(x, (1, 2))[:, :, 0]
        return {
            "label": net.fc(whole),
            "zones": self.zones(whole),
            "traits": self.traits(whole),
            "scores": net.score_lungs(halves.transpose(1, 2)),  # (B, 2, 4)
            "maps": self.draw(top),  # (B, 6, S/8, S/8), before the sigmoid
        }


def losses(out: dict, truth: dict) -> dict[str, torch.Tensor]:
    """One loss a head, each of the order of one at the start."""
    scores, doubts = out["scores"].float().chunk(2, dim=2)
    error = scores - truth["scores"].view(-1, 2, 2)
    spread = F.gaussian_nll_loss(
        scores.detach(), truth["scores"].view(-1, 2, 2), doubts.clamp(-6, 4).exp()
    )
    return {
        "label": F.cross_entropy(out["label"].float(), truth["label"], label_smoothing=0.05),
        "scores": F.smooth_l1_loss(error, torch.zeros_like(error)) + 0.1 * spread,
        "zones": F.binary_cross_entropy_with_logits(out["zones"].float(), truth["zones"]),
        "traits": F.binary_cross_entropy_with_logits(out["traits"].float(), truth["traits"]),
        "maps": 3 * F.binary_cross_entropy_with_logits(out["maps"].float(), truth["maps"]),
    }


def batch(films: dict, rows, size: int, wild: bool = True) -> tuple[torch.Tensor, dict]:
    """Films `rows` at `size` pixels, disturbed if `wild`, and their truths."""
    images = torch.from_numpy(films["image"][rows])[:, None].float() / 255
    images = F.interpolate(images, (size, size), mode="area")
    maps = torch.from_numpy(films["maps"][rows]).float() / 255
    if wild:
        matrices = place(images)
        images, maps = disturb(move(images, matrices, "border")), move(maps, matrices, "zeros")
    truth = {key: torch.from_numpy(films[key][rows]) for key in films if key != "image"}
    truth["maps"] = F.interpolate(maps, (size // 8, size // 8), mode="area")
    return images, truth


@torch.inference_mode()
def check(model: Pretext, films: dict, rows, size: int, compute) -> dict[str, float]:
    """What the heads have learnt, on films that were held out, undisturbed."""
    model.eval()
    right, error, lesion = [], [], []
    for part in rows.split(100):
        images, truth = batch(films, part.numpy(), size, wild=False)
        with compute.autocast():
            out = model(images)
        right.append((out["label"].argmax(1) == truth["label"]).float())
        found = out["scores"][:, :, :2].float().sum(1)
        error.append((found - truth["scores"].view(-1, 2, 2).sum(1)).abs())
        overlap = (out["maps"][:, 2].float().sigmoid() - truth["maps"][:, 2]).abs().flatten(1)
        lesion.append(overlap.mean(1))
    model.train()
    extent, opacity = torch.cat(error).mean(0).tolist()
    return {
        f"accuracy at {size} px": torch.cat(right).mean().item(),
        f"MAE of extent at {size} px": extent,
        f"MAE of opacity at {size} px": opacity,
        f"MAE of the lesion map at {size} px": torch.cat(lesion).mean().item(),
    }


def pretrain(films: dict, epochs: int) -> tuple[Pretext, list[dict]]:
    """The pretext model after `epochs` passes over all films but the held-out ones."""
    set_seed(SEED)
    compute = choose_compute()
    model = Pretext().to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), LR, weight_decay=WEIGHT_DECAY, fused=True)
    count = len(films["label"])
    held_out, learn = torch.arange(count)[:HELD_OUT], count - HELD_OUT
    scheduler = make_scheduler(optimizer, COSINE * (learn // BATCH), 0.05)
    history, start = [], time.monotonic()
    for epoch in range(1, epochs + 1):
        order = HELD_OUT + torch.randperm(learn)[: learn // BATCH * BATCH]
        sums = {}
        for rows in order.split(BATCH):
            size = SIZES[torch.randint(len(SIZES), ()).item()]
            images, truth = batch(films, rows.numpy(), size)
            optimizer.zero_grad()
            with compute.autocast():
                out = model(images.to(memory_format=torch.channels_last))
            parts = losses(out, truth)
            sum(parts.values()).backward()
            optimizer.step()
            scheduler.step()
            sums = {key: sums.get(key, 0) + value.item() for key, value in parts.items()}
        steps = learn // BATCH
        row = {"epoch": epoch} | {f"{key} loss": total / steps for key, total in sums.items()}
        for size in (SIZES[0], SIZES[-1]):
            row |= check(model, films, held_out, size, compute)
        history.append(row)
        told = "  ".join(f"{k} {v:.3f}" for k, v in row.items() if k != "epoch")
        print(f"epoch {epoch}/{epochs} ({time.monotonic() - start:.0f} s)  {told}", flush=True)
        save(model, history, Path("runs/pretraining"))
    return model, history


def save(model: Pretext, history: list[dict], folder: Path) -> None:
    """Backbone and severity head as float16, without the class head."""
    folder.mkdir(parents=True, exist_ok=True)
    state = model.backbone.state_dict()
    state = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    state = {k: v.contiguous() for k, v in state.items() if not k.startswith("fc.")}
    about = {"made by": "make pretrain", "films": str(FILMS), "seed": str(source.SEED)}
    save_file(state, folder / SHIPPED.name, metadata=about)
    (folder / "history.json").write_text(json.dumps(history, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--films", type=int, default=FILMS)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    asked = parser.parse_args()
    pretrain(source.films(asked.films, datasets.data_root()), asked.epochs)


if __name__ == "__main__":
    main()
