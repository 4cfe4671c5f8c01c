"""What a checkpoint says of itself, checked before anything is made from it."""

import json
import math
from collections.abc import Callable
from pathlib import Path

from covidxr import InputError
from covidxr.config import CHOICES

FORMAT = 1  # of the metadata; a checkpoint without one is of the first


def _is_number(value, low: float, high: float) -> bool:
    real = isinstance(value, int | float) and not isinstance(value, bool)
    return real and math.isfinite(value) and low <= value <= high


def _are_classes(value) -> bool:
    names = isinstance(value, list) and all(isinstance(x, str) and x for x in value)
    return names and 2 <= len(value) == len(set(value)) <= 1000


def _are_factors(value) -> bool:
    return isinstance(value, dict) and all(
        value.get(name, "") is None or _is_number(value.get(name), 0, math.inf)
        for name in ("extent", "opacity")
    )


RULES: dict[str, tuple[Callable, str]] = {
    "format": (lambda value: value == FORMAT and value is not True, f"{FORMAT}"),
    "classes": (_are_classes, "a list of two or more different names"),
    "image_size": (
        lambda value: isinstance(value, int) and _is_number(value, 32, 1024),
        "pixels a side, 32 to 1024",
    ),
    "normalisation": (lambda value: isinstance(value, str), "text"),
    "temperature": (lambda value: _is_number(value, 1e-6, 1e6), "a finite number above 0"),
    "threshold": (lambda value: value is None or _is_number(value, 0, 1), "null or 0 to 1"),
    "precision": (lambda value: value in CHOICES["precision"], f"one of {CHOICES['precision']}"),
    "severity": (_are_factors, "extent and opacity, each null or a number from 0"),
}
DEFAULTS = {"format": FORMAT, "threshold": None, "precision": "auto"}  # of older checkpoints
REQUIRED = ("classes", "image_size", "normalisation", "temperature")


def parse(path: Path, text: str | None, scored: bool = False) -> dict:
    """The metadata of a checkpoint from its JSON text.

    Args:
        path: of the checkpoint, for messages.
        scored: whether it has a severity head, which needs its factors.

    Raises:
        InputError: damaged, of another kind of file or version, or a value out of range.
    """
    try:
        found = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: its metadata are damaged; train it again") from error
    needed = (*REQUIRED, "severity") if scored else REQUIRED
    missing = [key for key in needed if not isinstance(found, dict) or key not in found]
    if missing:
        raise InputError(f"{path}: not a covidxr checkpoint, its metadata lacks {missing}")
    found = DEFAULTS | found
    for key, (holds, expected) in RULES.items():
        if key in found and not holds(found[key]):
            raise InputError(
                f"{path}: {key}: found {str(found[key])[:60]!r}, expected {expected}; written by "
                "another version, or damaged: train it again"
            )
    return found
