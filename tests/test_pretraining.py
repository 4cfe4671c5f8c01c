"""Pre-training: films of other patients than the course's, truths that fit, weights that load."""

import ast
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from covidxr import phantom
from covidxr.models import SHIPPED, build_model, load_weights

REPO = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def films():
    sys.path.insert(0, str(REPO / "pretraining"))
    import films

    yield films
    sys.path.remove(str(REPO / "pretraining"))


def seeds_of_phantoms() -> set[int]:
    """Every whole number that the course's own code gives as a seed, and the defaults."""
    found = {0}
    folders = ("covidxr", "notebooks/src", "docs", "benchmarks", "tests")
    for path in (path for folder in folders for path in (REPO / folder).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "seed":
                found |= {n.value for n in ast.walk(node.value) if isinstance(n, ast.Constant)}
            if isinstance(node, ast.Assign) and any(
                "SEED" in ast.unparse(target).upper() for target in node.targets
            ):
                values = (n.value for n in ast.walk(node.value) if isinstance(n, ast.Constant))
                found |= {value for value in values if isinstance(value, int)}
    return found


def test_no_seed_is_shared_with_the_course(films):
    seeds = seeds_of_phantoms()
    assert {0, 778} <= seeds and films.SEED not in seeds


def test_patients_of_pretraining_are_not_the_courses(films):
    """Same numbers, other patients: the random streams start from the seed."""
    own = films.film(0)["image"]
    course = phantom.render(phantom.plan()[0], image_size=films.SIZE).image
    assert own.shape == course.shape and np.abs(own.astype(int) - course).mean() > 5


def test_a_films_truths_fit_each_other(films):
    rows = [films.film(number) for number in range(12)]
    assert {int(row["label"]) for row in rows} == {0, 1, 2}
    for row in rows:
        assert row["image"].shape == (128, 128) and row["image"].dtype == np.uint8
        right, left, lesion = row["maps"][:3].astype(int)
        assert (lesion <= right + left + 1).all() and (np.minimum(right, left) == 0).all()
        healthy = row["label"] == 0
        assert (row["zones"].max() == 0) == healthy and (lesion.max() == 0) == healthy
        assert (row["scores"].max() == 0) == healthy
        assert ((row["traits"] >= 0) & (row["traits"] <= 1)).all()
        for lung in (0, 1):
            ill = row["zones"][3 * lung : 3 * lung + 3].max() > 0
            assert ill == (row["scores"][2 * lung] > 0)


def test_disturbed_films_stay_films_and_maps_move_with_them(films):
    import disturb

    torch.manual_seed(0)
    images = torch.rand(4, 1, 64, 64)
    wild = disturb.disturb(images)
    assert wild.shape == images.shape and wild.min() >= 0 and wild.max() <= 1
    still = torch.tensor([[1.0, 0, 0], [0, 1, 0]]).expand(4, 2, 3)
    torch.testing.assert_close(disturb.move(images, still, "border"), images)
    side = torch.zeros(4, 1, 64, 64)
    side[..., :32] = 1
    assert (disturb.move(side, disturb.place(side), "border")[..., 32, 4] > 0.5).all()  # no mirror


def test_shipped_weights_load_with_and_without_a_severity_head():
    state = load_weights("phantom")
    assert SHIPPED.stat().st_size < 25e6
    assert all(value.dtype in (torch.float32, torch.int64) for value in state.values())
    scored, plain = build_model(3, "phantom", severity=True), build_model(3, "phantom")
    torch.testing.assert_close(scored.severity.weight, state["severity.weight"])
    assert plain.severity is None
    torch.testing.assert_close(plain.conv1.weight, scored.conv1.weight)
    assert not [key for key in state if key.startswith("fc.")]
