"""The palette under simulated colour blindness, and that colour is never the only sign."""

import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from covidxr import plots

REPO = Path(__file__).resolve().parent.parent
SERIES = (*plots.CLASS_COLOURS.values(), *plots.OTHER_COLOURS)
# What full colour blindness of each kind makes of linear RGB (Machado, Oliveira and Fernandes,
# 2009, A physiologically-based model for simulation of color vision deficiency, severity 1.0).
SIMULATIONS = {
    "none": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
TO_XYZ = [
    [0.4124564, 0.3575761, 0.1804375],
    [0.2126729, 0.7151522, 0.0721750],
    [0.0193339, 0.1191920, 0.9503041],
]
WHITE = np.sum(TO_XYZ, axis=1)


def cielab(linear: np.ndarray) -> np.ndarray:
    """Linear RGB (N, 3) as L*, a*, b* under D65."""
    xyz = linear @ np.transpose(TO_XYZ) / WHITE
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.stack(
        [116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1
    )


def distances(colours, simulation) -> list[float]:
    """CIE 1976 distances between all pairs; 2.3 is just noticeable."""
    rgb = np.array([to_rgb(colour) for colour in colours])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    lab = cielab(np.clip(linear @ np.transpose(simulation), 0, 1))
    return [float(np.linalg.norm(a - b)) for a, b in combinations(lab, 2)]


def test_known_colours_are_converted_rightly():
    lab = cielab(np.array([[1.0, 1, 1], [0, 0, 0], [1, 0, 0]]))
    assert np.allclose(lab, [[100, 0, 0], [0, 0, 0], [53.24, 80.09, 67.2]], atol=0.05)


@pytest.mark.parametrize("kind", SIMULATIONS)
def test_colours_of_series_stay_apart(kind):
    assert min(distances(SERIES, SIMULATIONS[kind])) > 15
    assert min(distances([*SERIES, plots.GREY], SIMULATIONS[kind])) > 10


def test_simulations_keep_grey_and_bring_red_and_green_together():
    pair = ["#d62728", "#2ca02c"]
    normal, protan, deutan, tritan = (distances(pair, m)[0] for m in SIMULATIONS.values())
    assert max(protan, deutan) < normal / 2 < tritan
    assert all(np.allclose(np.sum(m, axis=1), 1, atol=1e-5) for m in SIMULATIONS.values())


def test_every_series_has_a_marker_and_a_line_of_its_own():
    styles = plots._styles([*plots.CLASS_COLOURS, "d", "e", "f", "g"]).values()
    for sign in ("color", "marker", "linestyle"):
        assert len({str(style[sign]) for style in styles}) == 7


def test_figures_use_this_palette_alone():
    """Colour maps here rise in lightness, or fall and rise, so that grey shows them, too."""
    sources = [REPO / "covidxr" / "plots.py", *(REPO / "notebooks" / "src").glob("*.py")]
    text = "".join(path.read_text() for path in sources)
    colours = set(re.findall(r"#[0-9A-Fa-f]{6}\b", text))
    assert colours <= {*SERIES, plots.GREY}
    assert set(re.findall(r'cmap="(\w+)"|"cmap": "(\w+)"', text)) <= {
        *[(name, "") for name in ("gray", "cividis", "PuOr")],
        ("", "Blues"),
    }
