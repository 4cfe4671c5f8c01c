"""The planted token, and what the cures do to it."""

import numpy as np
import pytest

from covidxr import CLASSES, InputError, shift, shortcut

SIZE = 64


@pytest.fixture
def films():
    """600 noise images, three classes, two sites; the class shows faintly in the middle."""
    rng = np.random.default_rng(7)
    y, home = np.arange(600) % 3, rng.random(600) < 0.5
    pixels = rng.integers(60, 180, (600, SIZE, SIZE))
    for c in range(3):
        row = 16 + 10 * c
        pixels[y == c, row : row + 8, 16:48] += 3
    return pixels.astype(np.uint8), y, home


@pytest.mark.parametrize("size", [32, 48, 64, 128, 224])
def test_token_lies_in_a_corner_that_is_hidden(size):
    mask = shortcut.token(size)
    assert 0.01 < mask.mean() < 0.03 and mask[size // 2 :, : size // 2].sum() == mask.sum()
    assert not (mask & ~shortcut.corners(size)).any()


def test_carriers_follow_site_class_and_strength(films):
    _, y, home = films
    positive = y == 2
    full = shortcut.carriers(positive, home, 1.0)
    assert (full == (positive == home)).all()
    for strength, expected in ((0.0, 0.5), (0.5, 0.75)):
        carries = shortcut.carriers(positive, home, strength)
        assert abs(carries[positive == home].mean() - expected) < 0.1
        assert abs(carries[positive != home].mean() - (1 - expected)) < 0.1
    assert (shortcut.carriers(positive, home, 0.5) == carries).all()


@pytest.mark.parametrize("strength", [-0.1, 1.5, float("nan")])
def test_strength_out_of_range(strength):
    with pytest.raises(InputError, match="strength: found"):
        shortcut.carriers([True], [True], strength)


def test_plant_changes_the_token_of_carriers_only(films):
    pixels, *_ = films
    before, carries = pixels.copy(), np.arange(600) < 3
    planted, mask = shortcut.plant(pixels, carries), shortcut.token(SIZE)
    assert (pixels == before).all()
    assert (planted[3:] == pixels[3:]).all() and (planted[:, ~mask] == pixels[:, ~mask]).all()
    assert set(np.unique(planted[:3, mask])) == {0, 255}


def test_cures_keep_the_chest(films):
    pixels, y, home = films
    inside = ~shortcut.corners(SIZE)
    for cured in (shortcut.hide_corners(pixels), shortcut.swap_corners(pixels)):
        assert cured.dtype == np.uint8 and (cured[:, inside] == pixels[:, inside]).all()
    assert (shortcut.hide_corners(pixels)[:, ~inside] == 0).all()
    swapped = shortcut.swap_corners(pixels)[:, ~inside]
    assert sorted(map(bytes, swapped)) == sorted(map(bytes, pixels[:, ~inside]))


def test_balanced_rows(films):
    _, y, home = films
    rows = shortcut.balance(y, home)
    assert len(set(rows)) == len(rows) and abs(len(rows) - home.sum()) <= 3
    for c in range(3):
        here = (y[rows] == c) & home[rows]
        assert here.sum() == ((y[rows] == c) & ~home[rows]).sum() == ((y == c) & home).sum() // 2


def test_the_shortcut_collapses_elsewhere_and_a_cure_recovers(films):
    """Target of the course, on a linear model: 20 points lost out of source, half won back."""
    pixels, y, home = films
    planted = shortcut.plant(pixels, shortcut.carriers(y == 2, home, 1.0))
    train, test = np.arange(600) < 400, np.arange(600) >= 400
    rows = np.flatnonzero(train & home)
    both = np.flatnonzero(train)[shortcut.balance(y[train], home[train])]
    masked = shortcut.hide_corners(planted)
    arms = {
        "shortcut": (planted[rows], y[rows], planted),
        "masking": (masked[rows], y[rows], masked),
        "augmentation": (shortcut.swap_corners(planted[rows]), y[rows], planted),
        "balancing": (planted[both], y[both], planted),
    }
    accuracy = {}
    for name, (inputs, labels, shown) in arms.items():
        model = shift.linear_probe().fit(shift.shrink(inputs, 32), labels)
        table = shift.in_and_out(
            lambda p, model=model: model.predict_proba(shift.shrink(p, 32)),
            *(shown[test], y[test], CLASSES, np.arange(200), home[test]),
        )
        accuracy[name] = table[table["metric"] == "accuracy"].set_index("input")["value"]
    lost = accuracy["shortcut"]["in"] - accuracy["shortcut"]["out"]
    assert lost >= 0.2
    won = {name: accuracy[name]["out"] - accuracy["shortcut"]["out"] for name in arms}
    assert max(won.values()) >= lost / 2, won
