"""A shortcut planted on purpose: a token in the corner, tied to site and class, and three cures.

Works on copies of pixels, uint8 (N, S, S); no file is written.
"""

import numpy as np

from covidxr import InputError

TOKEN, GAP = 0.14, 0.03  # side of the token and its distance from the edges, shares of the side
CORNER = 1 / 5  # side of the corners that two of the cures hide, share of the side


def token(size: int) -> np.ndarray:
    """Mask (size, size) of the token: a square in the lower left corner."""
    side, gap = round(size * TOKEN), round(size * GAP)
    mask = np.zeros((size, size), bool)
    mask[size - gap - side : size - gap, gap : gap + side] = True
    return mask


def carriers(positive, home, strength: float, seed: int = 0) -> np.ndarray:
    """Which films carry the token, bool (N,).

    At the home site a positive film carries it with probability (1 + strength) / 2 and any other
    with (1 - strength) / 2; at other sites it is the other way round. At strength 0 the token says
    nothing anywhere, at 1 it tells the class at home without error and misleads elsewhere.

    Args:
        positive, home: bool (N,), film of the chosen class, film of the home site.
        strength: 0 to 1.
    """
    if not 0 <= strength <= 1:
        raise InputError(f"strength: found {strength}, expected 0 to 1")
    agrees = np.asarray(positive) == np.asarray(home)
    chance = np.where(agrees, 1 + strength, 1 - strength) / 2
    return np.random.default_rng(seed).random(len(chance)) < chance


def plant(pixels: np.ndarray, carries: np.ndarray) -> np.ndarray:
    """Copy of the pixels in which every carrier has the token: its upper half white, lower black.

    Half and half, so that it stands out on any background.
    """
    mask, pixels = token(pixels.shape[1]), np.array(pixels)
    row, column = np.nonzero(mask)
    tone = np.where(row < row.mean(), 255, 0)
    for film in np.flatnonzero(carries):
        pixels[film, row, column] = tone
    return pixels


def corners(size: int) -> np.ndarray:
    """Mask (size, size) of the four corners, squares in which seldom a lung shows."""
    side = round(size * CORNER)
    mask = np.zeros((size, size), bool)
    mask[np.ix_([*range(side), *range(size - side, size)], range(-side, side))] = True
    return mask


def hide_corners(pixels: np.ndarray) -> np.ndarray:
    """Cure 1, masking: the corners of every film blacked out, for training and for testing."""
    return np.where(corners(pixels.shape[1]), 0, pixels).astype(np.uint8)


def swap_corners(pixels: np.ndarray, seed: int = 0) -> np.ndarray:
    """Cure 2, augmentation: every film gets the corners of another, at random, for training only.

    What stands in a corner then says nothing of the class, and testing needs no change.
    """
    order = np.random.default_rng(seed).permutation(len(pixels))
    return np.where(corners(pixels.shape[1]), pixels[order], pixels)


def balance(labels, home, seed: int = 0) -> np.ndarray:
    """Cure 3, balanced sources: rows of as many films as the home site has, half from elsewhere.

    Of each class half the home site's number from home, the other half (as far as there are as
    many) from the other sites: what differs between the sites then says nothing of the class.
    """
    labels, home = np.asarray(labels), np.asarray(home)
    rng, rows = np.random.default_rng(seed), []
    for label in np.unique(labels):
        wanted = ((labels == label) & home).sum() // 2
        for site in (home, ~home):
            found = np.flatnonzero((labels == label) & site)
            rows.append(rng.permutation(found)[:wanted])
    return np.sort(np.concatenate(rows))
