"""The training phase: options in range, a seed that decides everything, the best epoch kept."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from covidxr import InputError, training
from covidxr.loaders import XrayDataset, make_loader
from covidxr.models import build_model
from covidxr.training import (
    Compute,
    TrainConfig,
    fit,
    make_optimizer,
    make_scheduler,
    predict,
    set_seed,
    train_one_epoch,
)

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = Compute("cpu", "float32")
TOY = TrainConfig(weights="none", image_size=32, epochs=2, batch_size=8, augment=False)


def toy_set(n: int = 24, seed: int = 0) -> XrayDataset:
    """Noise that is bright on the left (0) or on the right (1)."""
    rng = np.random.default_rng(seed)
    pixels, targets = rng.integers(0, 100, (n, 32, 32), np.uint8), np.arange(n) % 2
    pixels[targets == 0, :, :16] += 100
    pixels[targets == 1, :, 16:] += 100
    return XrayDataset(pixels, targets)


def with_options(**options) -> TrainConfig:
    return replace(TOY, **options)


def fitted(config: TrainConfig):
    set_seed(config.seed)
    model = build_model(2)
    history = fit(model, toy_set(), toy_set(10, seed=1), config, CPU)
    return model, history


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("image_size", 31),
        ("image_size", 1025),
        ("epochs", 0),
        ("batch_size", 1),
        ("lr", -1e-3),
        ("lr", float("nan")),
        ("weight_decay", -0.1),
        ("warmup", 1.0),
        ("label_smoothing", 1.0),
        ("patience", 0),
        ("folds", 2),
        ("test_fold", 5),
        ("test_fold", -1),
        ("seed", -1),
        ("seed", 2**32),
        ("epochs", "three"),
        ("imbalance", "smote"),
        ("precision", "int4"),
    ],
)
def test_an_option_out_of_range_is_named(option, value):
    with pytest.raises(InputError, match=f"^{option}: found .*expected"):
        TrainConfig(**{option: value})


def test_config_from_a_run():
    assert TrainConfig.from_dict(vars(TOY)) == TOY
    with pytest.raises(InputError, match=r"unknown keys \['dropout'\]"):
        TrainConfig.from_dict({"epochs": 1, "dropout": 0.5})
    with pytest.raises(InputError, match="epochs: found 0"):
        TrainConfig.from_dict({"epochs": 0})


@pytest.mark.parametrize(
    ("options", "rate"),
    [
        ({"weights": "none"}, 3e-3),
        ({}, 1e-4),
        ({"dataset": "radiography"}, 3e-3),
        ({"dataset": "folder", "weights": "imagenet"}, 1e-4),
        ({"dataset": "folder", "freeze": True}, 1e-2),
        ({"weights": "runs/a/model.safetensors"}, 1e-4),
        ({"weights": "imagenet", "freeze": True}, 1e-2),
        ({"freeze": True}, 1e-2),
        ({"weights": "imagenet", "lr": 0.5}, 0.5),
    ],
)
def test_learning_rate_rule(options, rate):
    assert TrainConfig(**options).learning_rate == rate


def test_every_parameter_has_its_rate_and_decay():
    model = build_model(2)
    names = {id(p): name for name, p in model.named_parameters()}

    def settings(**options):
        groups = make_optimizer(model, with_options(**options)).param_groups
        pairs = [(names[id(p)], g) for g in groups for p in g["params"]]
        assert sorted(name for name, _ in pairs) == sorted(names.values())
        return {name: (g["lr"], g["weight_decay"]) for name, g in pairs}

    scratch, tuned = settings(), settings(weights="imagenet")
    for name, parameter in model.named_parameters():
        decay = 0.05 if parameter.ndim > 1 else 0.0
        head = 10 if name in ("fc.weight", "fc.bias") else 1
        assert scratch[name] == (3e-3, decay)
        assert tuned[name] == (pytest.approx(1e-4 * head), decay)
    frozen = make_optimizer(model.fc, with_options(weights="imagenet", freeze=True)).param_groups
    assert [(g["lr"], g["weight_decay"]) for g in frozen] == [(1e-2, 0.05), (1e-2, 0.0)]


def test_schedule_rises_then_falls_to_zero():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = make_scheduler(optimizer, steps=100, warmup=0.1)
    rates = []
    for _ in range(100):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    np.testing.assert_allclose(rates[:10], 2 * np.arange(1, 11) / 10)
    assert max(rates) == 2.0 and (np.diff(rates[10:]) < 0).all()
    assert rates[55] == pytest.approx(1.0) and 0 < rates[-1] < 0.01
    assert scheduler.get_last_lr()[0] == pytest.approx(0, abs=1e-12)


def test_one_epoch_returns_the_mean_loss_of_the_images():
    """At a rate of zero the weights stay, so the loss can be computed beside it."""
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    dataset = XrayDataset(np.random.default_rng(0).normal(size=(10, 3)).astype("f"), [0, 1] * 5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    scheduler = make_scheduler(optimizer, 3, 0.1)
    loss_fn = nn.CrossEntropyLoss()
    loader = make_loader(dataset, 4, train=True)  # batches of 4, 4 and 2
    expected = loss_fn(model(torch.from_numpy(dataset.inputs)), dataset.targets).item()
    loss = train_one_epoch(model, loader, loss_fn, optimizer, scheduler)
    assert loss == pytest.approx(expected, rel=1e-6) and scheduler.last_epoch == 3


def test_predict_keeps_the_order_and_the_model():
    model = build_model(2)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    dataset = toy_set(10)
    logits = predict(model, make_loader(dataset, 4))
    assert logits.shape == (10, 2) and logits.dtype == np.float32
    alone = [model(image[None]).detach().numpy()[0] for image, _ in dataset]
    np.testing.assert_allclose(logits, alone, atol=1e-5)
    features = predict(model, make_loader(dataset, 4), forward=model.features)
    assert features.shape == (10, 512)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_the_seed_decides_everything():
    config = with_options(augment=True, imbalance="balanced_sampler", epochs=1)
    (first, history), (second, again) = fitted(config), fitted(config)
    for key, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[key]), key
    assert history.equals(again)
    loader = make_loader(toy_set(10, seed=1), 4)
    np.testing.assert_array_equal(predict(first, loader), predict(second, loader))
    other, _ = fitted(replace(config, seed=1))
    assert not torch.equal(other.fc.weight, first.fc.weight)


def test_fit_learns_and_prints_one_line_an_epoch(capsys):
    model, history = fitted(with_options(epochs=5))
    assert list(history) == ["epoch", "lr", "train_loss", "val_loss", "val_macro_f1"]
    assert history["epoch"].tolist() == [1, 2, 3, 4, 5]
    assert history["train_loss"].iloc[-1] < history["train_loss"].iloc[0] - 0.1
    assert history["val_macro_f1"].max() > 0.8
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert [line.split()[:2] for line in lines] == [["epoch", f"{n}/5"] for n in range(1, 6)]
    assert "\r" not in printed.out and printed.err == ""


def test_the_class_weights_and_the_sampler_are_used(monkeypatch):
    seen = []
    monkeypatch.setattr(
        training,
        "train_one_epoch",
        lambda model, loader, loss_fn, *_: seen.append((loader.sampler.sampler, loss_fn)) or 0.0,
    )
    train_set = XrayDataset(toy_set(12).inputs, [0] * 9 + [1] * 3)
    for imbalance in ("weighted_loss", "balanced_sampler", "none"):
        config = with_options(imbalance=imbalance, epochs=1)
        fit(build_model(2), train_set, toy_set(4), config, CPU)
    (plain, weighted), (balanced, unweighted), (other, none) = seen
    torch.testing.assert_close(weighted.weight, torch.tensor([12 / 18, 2.0]))
    assert weighted.label_smoothing == 0.1
    assert unweighted.weight is None and none.weight is None
    assert type(balanced).__name__ == "WeightedRandomSampler"
    assert type(plain).__name__ == type(other).__name__ == "RandomSampler"


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler")
def test_frozen_run_changes_the_head_only():
    set_seed(0)
    model = build_model(2)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    fit(model, toy_set(), toy_set(10, seed=1), with_options(freeze=True), CPU)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]) != key.startswith("fc."), key


def test_early_stopping_keeps_the_best_epoch(monkeypatch):
    """Scores of 0.2, 0.8, 0.5, 0.5, ...: stops two epochs after the second, and returns to it."""
    scores, states = iter([0.2, 0.8, 0.5, 0.5, 0.9]), []

    def validate(model, loader, compute):
        states.append({key: value.clone() for key, value in model.state_dict().items()})
        return {"val_loss": 1.0, "val_macro_f1": next(scores)}

    monkeypatch.setattr(training, "validate", validate)
    model, history = fitted(with_options(epochs=5, patience=2))
    assert history["val_macro_f1"].tolist() == [0.2, 0.8, 0.5, 0.5]
    for key, value in model.state_dict().items():
        assert torch.equal(value, states[1][key]), key
    assert not torch.equal(model.fc.weight, states[3]["fc.weight"])


def test_score_of_the_returned_model_is_the_best_in_the_history():
    model, history = fitted(with_options(epochs=3, lr=0.01))
    found = training.validate(model, make_loader(toy_set(10, seed=1), 64), CPU)
    best = history["val_macro_f1"].idxmax()
    assert found == history.loc[best, ["val_loss", "val_macro_f1"]].to_dict()
