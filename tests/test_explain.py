"""Maps against closed forms, on every kind of film; scores with known answers; sanity checks."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from captum.attr import LayerGradCam
from PIL import Image
from torch import nn

from covidxr import InputError, datasets, explain, plots
from covidxr.models import build_model, load_checkpoint

matplotlib.use("Agg")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model():
    """Random weights in every part, residual branches included."""
    torch.manual_seed(0)
    return explain.randomise(build_model(3), "stem").eval()


@pytest.fixture(scope="module")
def films():
    return np.random.default_rng(0).integers(0, 256, (6, 96, 96), np.uint8)


TARGETS = np.array([0, 1, 2, 0, 1, 2])


@torch.no_grad()
def layer4_cells(model, films) -> torch.Tensor:
    """(N, 512, h, h): what the global mean before the head sees."""
    kept = []
    handle = model.layer4.register_forward_hook(lambda *args: kept.append(args[-1]))
    model(torch.from_numpy(films)[:, None])
    handle.remove()
    return kept[0]


def test_layer4_is_the_class_activation_map(model, films):
    """Zhou et al. (2016): head weights times cells; the gradient of a mean adds 1 / (h * w)."""
    cells = layer4_cells(model, films)
    weights = (model.fc.weight - model.fc.weight.mean(dim=0))[TARGETS].detach()
    expected = torch.einsum("nc,nchw->nhw", weights, cells) / 9
    for averaged in (True, False):
        maps = explain.grad_cam(model, films, TARGETS, averaged=averaged)
        assert maps.shape == films.shape and maps.dtype == np.float32
        np.testing.assert_allclose(maps[:, ::32, ::32], expected, rtol=1e-4, atol=1e-6)
    assert expected.min() < 0 < expected.max()


def test_the_cells_of_layer4_add_up_to_the_score(model, films):
    cells = explain.grad_cam(model, films, TARGETS)[:, ::32, ::32]
    with torch.no_grad():
        scores = model(torch.from_numpy(films)[:, None]) - model.fc.bias
    scores = (scores - scores.mean(dim=1, keepdim=True))[range(6), TARGETS]
    np.testing.assert_allclose(cells.sum(axis=(1, 2)), scores, rtol=1e-4, atol=1e-5)


def test_hirescam_is_gradient_times_activation(model, films):
    """Draelos & Carin (2020), by hand on layer2."""
    kept = []
    handle = model.layer2.register_forward_hook(lambda *args: kept.append(args[-1]))
    logits = model(torch.from_numpy(films)[:, None])
    handle.remove()
    scores = logits[range(6), TARGETS] - logits.mean(dim=1)
    (gradient,) = torch.autograd.grad(scores.sum(), kept[0])
    expected = (gradient * kept[0]).sum(dim=1).detach()
    maps = explain.grad_cam(model, films, TARGETS, "layer2", averaged=False)
    np.testing.assert_allclose(maps[:, ::8, ::8], expected, rtol=1e-3, atol=1e-6)
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    expected = (weights * kept[0]).sum(dim=1).detach()
    maps = explain.grad_cam(model, films, TARGETS, "layer2")
    np.testing.assert_allclose(maps[:, ::8, ::8], expected, rtol=1e-3, atol=1e-6)


def test_what_changes_no_probability_changes_no_map(model, films):
    shifted = explain.randomise(model, "fc", seed=5)
    shifted.load_state_dict(model.state_dict())
    shifted.fc.weight.data += torch.randn(512, generator=torch.Generator().manual_seed(1))
    same = [explain.grad_cam(m, films, TARGETS) for m in (model, shifted)]
    np.testing.assert_allclose(*same, rtol=1e-3, atol=1e-5)


def test_why_this_class_rather_than_that(model, films):
    """The difference of two logits is the difference of their maps, and nothing against itself."""
    one, two = (explain.grad_cam(model, films, [c] * 6) for c in (1, 2))
    rather = explain.grad_cam(model, films, [2] * 6, against=1)
    np.testing.assert_allclose(rather, two - one, rtol=1e-3, atol=1e-5)
    with pytest.raises(InputError, match="constant or not finite"):
        explain.grad_cam(model, films, [1] * 6, against=1)


@pytest.mark.parametrize("layer", ["layer2", "layer4"])
def test_grad_cam_is_that_of_captum(model, films, layer):
    step = explain.STRIDES[layer]
    method = LayerGradCam(lambda x: (z := model(x)) - z[:, :1], getattr(model, layer))
    expected = method.attribute(torch.from_numpy(films)[:, None] / 255, target=2)[:, 0].detach()
    maps = explain.grad_cam(model, films, [2] * 6, layer, against=0)
    np.testing.assert_allclose(maps[:, ::step, ::step], expected, rtol=1e-3, atol=1e-6)


def test_what_normal_films_have_too_is_taken_off(model, films):
    """On layer4 all is linear: the map less the mean map of the normal films."""
    ill, normal = films[:2], films[2:]
    plain = [explain.grad_cam(model, part, [1] * len(part)) for part in (ill, normal)]
    maps = explain.grad_cam(model, ill, [1, 1], normal=normal)
    np.testing.assert_allclose(maps, plain[0] - plain[1].mean(axis=0), rtol=1e-3, atol=1e-5)
    with pytest.raises(InputError, match="constant or not finite"):
        explain.grad_cam(model, ill[:1], [1], normal=ill[:1])


@pytest.mark.parametrize("layer", explain.STRIDES)
@pytest.mark.parametrize("place", [(32, 64), (96, 32)])
def test_a_map_is_highest_where_the_only_bright_spot_is(layer, place):
    """With positive weights everywhere evidence is brightness, so the map must find the spot."""
    torch.manual_seed(0)
    model = build_model(2).eval()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.weight, 1 / module.weight[0].numel())
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    model.fc.weight.data[:] = torch.tensor([[-1.0], [1.0]])
    film = np.full((1, 128, 128), 115, np.uint8)
    film[0, place[0] - 4 : place[0] + 5, place[1] - 4 : place[1] + 5] = 255
    (found,) = explain.grad_cam(model, film, [1], layer, averaged=False)
    highest = np.unravel_index(found.argmax(), found.shape)
    assert np.abs(np.subtract(highest, place)).max() <= 4


def odd_films(size: int) -> np.ndarray:
    """Seventy films of noise, seventy blank or nearly so."""
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 256, (70, size, size), np.uint8)
    blank = np.repeat(np.linspace(0, 255, 70).astype(np.uint8), size * size)
    blank = blank.reshape(70, size, size)
    blank[::3, 5, 7] ^= 255  # one pixel differs
    blank[1::3, : size // 2] //= 2
    return np.concatenate([noise, blank])


@pytest.fixture(scope="module")
def all_films(phantom_dir):
    """Sixty phantoms and 140 films of noise or nothing."""
    manifest, root = datasets.load("phantom", phantom_dir)
    films = np.stack([np.asarray(Image.open(root / p)) for p in manifest["image_path"]])
    return np.concatenate([films, odd_films(64)])


@pytest.mark.parametrize("method", ["coarse", "fine"])
def test_maps_of_200_films_are_finite_and_not_constant(tiny_run, all_films, method):
    model = load_checkpoint(tiny_run / "model.safetensors")[0]
    targets = np.arange(len(all_films)) % 2 + 1
    if method == "coarse":
        maps = explain.grad_cam(model, all_films, targets)
    else:
        layers = ("layer2", "layer3")
        maps = explain.fine_map(model, all_films, targets, layers, 0.09, 0, all_films[:16])
    assert maps.shape == (200, 64, 64) and np.isfinite(maps).all()
    assert (np.ptp(maps.reshape(200, -1), axis=1) > 0).all()


def test_fine_map_adds_layers_by_their_share_of_the_evidence(model, films):
    layers = [
        explain.grad_cam(model, films, TARGETS, name, averaged=False) for name in explain.STRIDES
    ]
    sums = [np.abs(maps).sum(axis=(1, 2), keepdims=True) for maps in layers]
    expected = sum(maps / total for maps, total in zip(layers, sums, strict=True))
    fine = explain.fine_map(model, films, TARGETS, explain.STRIDES)
    np.testing.assert_allclose(fine, expected, rtol=1e-4, atol=1e-9)
    blurred = explain.fine_map(model, films, TARGETS, explain.STRIDES, smooth=0.1)
    assert (np.ptp(blurred, axis=(1, 2)) < np.ptp(fine, axis=(1, 2))).all()


def test_maps_that_say_nothing_raise(model, films):
    dead = explain.randomise(model, "fc")
    nn.init.zeros_(dead.fc.weight)
    with pytest.raises(InputError, match="6 of 6 maps are constant or not finite.*film 0"):
        explain.grad_cam(dead, films, TARGETS)
    dead.fc.weight.data[1] = torch.nan
    with pytest.raises(InputError, match="constant or not finite"):
        explain.grad_cam(dead, films, TARGETS)
    with pytest.raises(InputError, match="32 pixels have one cell in layer4"):
        explain.grad_cam(model, films[:, :32, :32], TARGETS)
    with pytest.raises(InputError, match="'layer5', expected one of layer1"):
        explain.grad_cam(model, films, TARGETS, "layer5")


def test_energy_and_pointing_have_known_answers():
    maps = np.array([[[3.0, 1.0], [-8.0, 0.0]], [[-1.0, -2.0], [-3.0, -4.0]]])
    masks = np.array([[[True, False], [True, False]], [[True, False], [False, False]]])
    np.testing.assert_allclose(explain.energy_inside(maps, masks), [0.75, np.nan])
    np.testing.assert_array_equal(explain.pointing_game(maps, masks), [1, 1])
    np.testing.assert_array_equal(explain.pointing_game(-maps, masks), [1, 0])


def test_a_constant_map_plays_at_chance():
    rng = np.random.default_rng(0)
    lesions = rng.random((5, 8, 8)) < 0.3
    lungs = lesions | (rng.random((5, 8, 8)) < 0.3)
    share = lesions.mean(axis=(1, 2))
    for score in (explain.pointing_game, explain.energy_inside):
        np.testing.assert_allclose(score(np.ones((5, 8, 8)), lesions), share)
        np.testing.assert_allclose(
            score(lungs, lesions), lesions.sum(axis=(1, 2)) / lungs.sum(axis=(1, 2))
        )
    points = rng.random((4000, 8, 8))
    hits = explain.pointing_game(points, np.broadcast_to(lesions[0], points.shape))
    assert abs(hits.mean() - share[0]) < 0.03


def test_masks_are_read_at_the_size_of_the_films(phantom_dir):
    manifest, root = datasets.load("phantom", phantom_dir)
    ill = manifest[manifest["label"] == "COVID"].iloc[:3]
    lungs = explain.read_masks(root, ill["lung_mask_path"], 64)
    lesions = explain.read_masks(root, ill["lesion_mask_path"], 64)
    assert lungs.dtype == bool and lesions.any(axis=(1, 2)).all() and (lesions <= lungs).all()
    halved = explain.read_masks(root, ill["lung_mask_path"], 32)
    assert halved.shape == (3, 32, 32) and abs(halved.mean() - lungs.mean()) < 0.02
    with pytest.raises(InputError, match="mask absent.png: cannot be read"):
        explain.read_masks(root, ["absent.png"], 64)


def test_mean_with_interval_resamples_patients():
    values = np.repeat(np.arange(20) % 2, 5).astype(float)
    films = explain.mean_with_interval(values, np.arange(100))
    patients = explain.mean_with_interval(values, np.repeat(np.arange(20), 5))
    assert films["value"] == patients["value"] == 0.5 and films["n"] == patients["n"] == 100
    width = {k: d["high"] - d["low"] for k, d in {"films": films, "patients": patients}.items()}
    assert width["films"] == pytest.approx(2 * 1.96 * 0.05, rel=0.1)
    assert width["patients"] == pytest.approx(2 * 1.96 * 0.5 / 20**0.5, rel=0.15)


def test_mean_with_interval_at_its_edges():
    sure = explain.mean_with_interval([1.0] * 12 + [np.nan], range(13))
    assert (sure["n"], sure["undefined"], sure["high"]) == (12, 1, 1)
    assert sure["low"] == pytest.approx(0.7575, abs=1e-3)  # Wilson, 12 of 12
    few = explain.mean_with_interval([0.0, 1.0], [1, 2])
    assert few["value"] == 0.5 and few["low"] is None
    assert explain.mean_with_interval([np.nan], [1])["value"] is None


class Brightness(nn.Module):
    """Logits 0 and k times the mean of the film's left half."""

    def forward(self, images):
        left = images[..., : images.shape[-1] // 2].float().mean(dim=(1, 2, 3)) / 255
        return torch.stack([torch.zeros_like(left), 40 * (left - 0.25)], dim=1)


def test_perturbation_follows_the_order_of_the_map():
    rng = np.random.default_rng(0)
    films = np.zeros((3, 64, 64), np.uint8)
    films[:, 16:48, 4:28] = rng.integers(180, 256, (3, 32, 24))
    good, bad = np.zeros((2, 3, 64, 64))
    good[:, :, :32], bad[:, :, 32:] = 1, 1
    curves = {
        name: explain.perturb(Brightness(), films, [1] * 3, maps, steps=4)
        for name, maps in {"good": good, "bad": bad}.items()
    }
    for curve in curves.values():
        assert curve["deletion"].shape == (3, 5)
        np.testing.assert_allclose(curve["deletion"][:, 0], curve["insertion"][:, -1], atol=1e-6)
        np.testing.assert_allclose(curve["deletion"][:, -1], curve["insertion"][:, 0], atol=1e-6)
    assert np.ptp(curves["good"]["deletion"][:, 2:], axis=1).max() < 1e-6  # nothing left to lose
    assert np.ptp(curves["bad"]["deletion"][:, :3], axis=1).max() < 1e-6  # nothing lost yet
    assert (curves["good"]["deletion"][:, 2] < curves["bad"]["deletion"][:, 2]).all()
    assert (curves["good"]["insertion"][:, 2] > curves["bad"]["insertion"][:, 2]).all()


def test_ssim_has_the_known_properties():
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 4, 48, 48))
    np.testing.assert_allclose(explain.ssim(a, a), 1)
    np.testing.assert_allclose(explain.ssim(a, 5 * a - 2), 1)  # each map is stretched first
    np.testing.assert_allclose(explain.ssim(a, b), explain.ssim(b, a))
    assert np.abs(explain.ssim(a, b)).max() < 0.05
    assert (explain.ssim(a, -a) < -0.5).all()
    noisy = [explain.ssim(a, a + noise * b) for noise in (0.1, 0.5, 2)]
    assert (np.diff(noisy, axis=0) < 0).all()


def test_ssim_of_one_window_is_the_formula():
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 1, 7, 7))
    for x in (a, b):
        x -= x.min()
        x /= x.max()
    variance, covariance = (a.var(), b.var()), np.mean((a - a.mean()) * (b - b.mean()))
    expected = (2 * a.mean() * b.mean() + 1e-4) * (2 * covariance + 9e-4)
    expected /= (a.mean() ** 2 + b.mean() ** 2 + 1e-4) * (sum(variance) + 9e-4)
    assert explain.ssim_map(a, b)[0, 3, 3] == pytest.approx(expected)


def test_randomising_goes_down_from_the_head_and_leaves_the_model_alone(model):
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for depth, stage in enumerate(explain.STAGES):
        changed = {
            "stem" if key.split(".")[0] in ("conv1", "bn1") else key.split(".")[0]
            for key, value in explain.randomise(model, stage, seed=3).state_dict().items()
            if not torch.equal(value, before[key])
        }
        assert changed == set(explain.STAGES[: depth + 1])
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    with pytest.raises(InputError, match="'conv1', expected one of fc"):
        explain.randomise(model, "conv1")


def test_randomised_residual_branches_are_open():
    fresh = build_model(3)
    assert not fresh.layer3[1].bn2.weight.any()  # closed at the start of training
    opened = explain.randomise(fresh, "stem")
    assert all(block.bn2.weight.abs().min() > 0.2 for block in opened.layer3)


def test_randomised_weights_change_the_maps(model, films):
    scores = explain.sanity_check(lambda m: explain.grad_cam(m, films, TARGETS), model, seed=1)
    assert list(scores) == list(explain.STAGES)
    assert all(score.shape == (6,) and score.mean() < 0.9 for score in scores.values())


@pytest.fixture
def figures():
    yield
    plt.close("all")


def test_saliency_figure(films, figures):
    maps = np.zeros((2, 96, 96))
    maps[:, 20, 70] = 1
    lesions = np.zeros((2, 96, 96), bool)
    lesions[0, 10:30, 60:80] = True
    axes = plots.saliency(films[:2], maps, lesions, ["COVID", "Normal"])
    axes[0, 0].figure.canvas.draw()
    assert axes.shape == (2, 2) and axes[0, 1].get_title() == "Normal"
    (cross,) = axes[1, 0].lines
    assert (cross.get_xdata()[0], cross.get_ydata()[0]) == (70, 20)
    assert [len(ax.collections) > 0 for ax in axes.flat] == [True, False, True, False]
    assert plots.saliency(films[:1], maps[:1]).shape == (2, 1)


@pytest.mark.parametrize("kind", ["deletion", "insertion"])
def test_perturbation_figure(kind, figures):
    values = np.linspace(1, 0, 5) * np.ones((7, 1))
    curves = {name: {"deletion": values, "insertion": 1 - values} for name in ("map", "random")}
    ax = plots.perturbation(curves, kind)
    ax.figure.canvas.draw()
    assert ax.get_title(loc="left") == f"{kind.capitalize()} (n = 7)" or "n = 7" in ax.get_title()
    assert ax.get_ylabel() == "mean probability of the class"
    np.testing.assert_allclose(ax.lines[0].get_ydata(), curves["map"][kind][0])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["map", "random"]


def test_sanity_figure(figures):
    scores = pd.DataFrame(
        {"value": [0.5, 0.1], "low": [0.4, None], "high": [0.6, None], "n": [9, 9]},
        index=["fc", "layer4"],
    )
    ax = plots.sanity(scores, {"value": 0.2, "name": "chance"})
    ax.figure.canvas.draw()
    assert [label.get_text() for label in ax.get_xticklabels()] == ["fc", "layer4"]
    assert "n = 9" in ax.get_title() + ax.get_title(loc="left")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["chance"]
