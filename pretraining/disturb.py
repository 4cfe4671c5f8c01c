"""Domain randomisation: what films of other machines, wards and archives look like.

After Tobin et al. (2017): a model that has seen wilder pictures than any real one takes real ones
for another variation. Everything works on batches of float films (B, 1, S, S) in [0, 1].
"""

import math

import torch
from torch.nn import functional as F


def uniform(films: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """One number a film, (B, 1, 1, 1)."""
    return low + (high - low) * torch.rand(len(films), 1, 1, 1)


def place(films: torch.Tensor) -> torch.Tensor:
    """Random affine maps (B, 2, 3): turned, shifted, scaled, stretched; never mirrored."""
    n = len(films)
    angle = math.radians(15) * (2 * torch.rand(n) - 1)
    zoom, aspect = 1 + 0.22 * (2 * torch.rand(n) - 1), 1 + 0.12 * (2 * torch.rand(n) - 1)
    rotation = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=1)
    stretch = torch.stack([zoom * aspect, zoom, zoom, zoom / aspect], dim=1)
    shift = 0.2 * (2 * torch.rand(n, 2) - 1)
    return torch.cat([(rotation * stretch).view(-1, 2, 2), shift[:, :, None]], dim=2)


def move(films: torch.Tensor, matrices: torch.Tensor, padding: str) -> torch.Tensor:
    """Films, or their maps, seen through `matrices`."""
    grid = F.affine_grid(matrices, films.shape, align_corners=False)
    return F.grid_sample(films, grid, padding_mode=padding, align_corners=False)


def tone_curve(films: torch.Tensor, knots: int = 6) -> torch.Tensor:
    """A random rising curve from grey to grey: other windows, gammas, equalised histograms."""
    steps = torch.rand(len(films), knots) ** 1.5 + 0.08
    curve = F.pad(steps.cumsum(1) / steps.sum(1, keepdim=True), (1, 0))
    spot = films.flatten(1).clamp(0, 1) * knots
    below = spot.long().clamp(max=knots - 1)
    low, high = curve.gather(1, below), curve.gather(1, below + 1)
    return (low + (spot - below) * (high - low)).view_as(films)


def shade(films: torch.Tensor) -> torch.Tensor:
    """Smooth light and dark areas: uneven exposure, scatter, soft tissue in the way."""
    for cells, width in ((3, 0.18), (8, 0.08)):
        field = torch.randn(len(films), 1, cells, cells)
        field = F.interpolate(field, films.shape[-2:], mode="bicubic", align_corners=False)
        films = films + uniform(films, 0, width) * field
    return films


def blur(films: torch.Tensor) -> torch.Tensor:
    """Softer by a share between none and all of a 3 x 3 mean."""
    soft = F.avg_pool2d(F.pad(films, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return films + uniform(films, -0.6, 1) * (soft - films)


def clutter(films: torch.Tensor, most: int = 2) -> torch.Tensor:
    """Straight wires and tubes, and blocks of burnt-in text or patches over the film."""
    size = films.shape[-1]
    axis = torch.linspace(-1, 1, size)
    y, x = axis.view(1, 1, -1, 1), axis.view(1, 1, 1, -1)
    for _ in range(most):
        angle = uniform(films, 0, math.pi)
        across = x * angle.cos() + y * angle.sin() - uniform(films, -0.9, 0.9)
        wire = (across.abs() < uniform(films, 0.008, 0.04)) & (uniform(films, 0, 1) < 0.4)
        films = torch.where(wire, films + uniform(films, -0.3, 0.5), films)
        inside = (x - uniform(films, -1, 1)).abs() < uniform(films, 0.02, 0.22)
        inside = inside & ((y - uniform(films, -1, 1)).abs() < uniform(films, 0.02, 0.12))
        block = inside & (uniform(films, 0, 1) < 0.35)
        films = torch.where(block, uniform(films, 0, 1), films)
    return films


def disturb(films: torch.Tensor) -> torch.Tensor:
    """All of the above in the order in which they come about, then noise."""
    films = clutter(shade(blur(films)))
    films = torch.where(uniform(films, 0, 1) < 0.7, tone_curve(films), films.clamp(0, 1))
    films = films ** uniform(films, -0.4, 0.4).exp()
    films = films + uniform(films, 0, 0.06) * torch.randn_like(films)
    return films.clamp(0, 1)
