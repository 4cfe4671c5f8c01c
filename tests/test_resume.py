"""A training cut off after any epoch goes on to the same bits; a damaged state falls back."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from covidxr import InputError, resume, runs, training
from covidxr.loaders import XrayDataset
from covidxr.models import build_model
from covidxr.resume import Keeper, states_in
from covidxr.training import Compute, TrainConfig, fit, set_seed

pytestmark = [
    pytest.mark.usefixtures("one_thread", "elsewhere"),
    pytest.mark.filterwarnings("ignore:no temperature"),
]

CPU = Compute("cpu", "float32")
CONFIG = TrainConfig(image_size=32, epochs=3, batch_size=6, weights="none")


def noise(n: int, seed: int) -> XrayDataset:
    """Noise with a class and, for some, severity scores."""
    rng = np.random.default_rng(seed)
    pixels, scores = rng.integers(0, 256, (n, 32, 32), np.uint8), rng.uniform(0, 3, (n, 6))
    scores[::3] = np.nan
    return XrayDataset(pixels, np.arange(n) % 2, scores=scores.astype(np.float32))


class CutOff(Exception):
    pass


def trained(config: TrainConfig, folder, cut: int | None = None):
    """Weights and history of a training; `cut` ends it once that many epochs are finished."""
    folder.mkdir(exist_ok=True)
    set_seed(config.seed)
    model = build_model(2, config.weights, severity=True)
    keeper = Keeper(folder, {"config": vars(config)})
    save = keeper.save

    def cut_off(*parts):
        save(*parts)
        if len(parts[-2]) == cut:
            raise CutOff

    keeper.save = cut_off
    history = fit(model, noise(12, 0), noise(6, 1), config, CPU, keeper)
    return model.state_dict(), history


@pytest.fixture(scope="module")
def uncut(one_thread, tmp_path_factory):
    """A training that was never cut off."""
    return trained(CONFIG, tmp_path_factory.mktemp("uncut"))


def assert_same(found, expected) -> None:
    (weights, history), (others, rows) = found, expected
    assert history.equals(rows)
    for key, value in weights.items():
        assert torch.equal(value, others[key]), key


@pytest.mark.parametrize(
    ("options", "cuts"),
    [
        ({}, (1, 3)),
        ({"imbalance": "balanced_sampler", "patience": 1}, (1,)),
        ({"freeze": True}, (2,)),
    ],
)
def test_a_training_cut_off_ends_in_the_same_bits(tmp_path, options, cuts):
    config = replace(CONFIG, **options)
    whole = trained(config, tmp_path / "whole")
    for cut in cuts:
        folder = tmp_path / f"cut-{cut}"
        with pytest.raises(CutOff):
            trained(config, folder, cut)
        random.seed(99)
        np.random.seed(99)
        assert_same(trained(config, folder), whole)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "gone"])
def test_a_damaged_state_falls_back_to_the_one_before(tmp_path, uncut, capsys, damage):
    with pytest.raises(CutOff):
        trained(CONFIG, tmp_path / "cut", 2)
    latest, before = states_in(tmp_path / "cut")
    content = bytearray(latest.read_bytes())
    content[len(content) // 2] ^= 1
    changed = {"truncated": content[:-9], "flipped": content, "empty": b""}
    latest.write_bytes(changed[damage]) if damage in changed else latest.unlink()
    capsys.readouterr()
    assert_same(trained(CONFIG, tmp_path / "cut"), uncut)
    out = capsys.readouterr().out.splitlines()
    assert [line for line in out if "damaged" in line] == (
        [] if damage == "gone" else [line for line in out if line.startswith(f"{latest}: damaged")]
    )
    assert "going on after epoch 1" in out


def test_random_states_come_back(tmp_path):
    network, generator = torch.nn.Linear(2, 2), torch.Generator().manual_seed(3)
    states = resume.random_states(network, generator)

    def draw():
        numbers = torch.rand(3), torch.rand(3, generator=generator)
        return [x.tolist() for x in numbers], np.random.rand(3).tolist(), random.random()

    first = draw()
    assert draw() != first
    resume.restore_random(states, network, generator)
    assert draw() == first


def test_the_state_of_another_training_is_refused(tmp_path):
    with pytest.raises(CutOff):
        trained(CONFIG, tmp_path / "run", 1)
    with pytest.raises(InputError, match="of another training, config differ; give the options"):
        trained(replace(CONFIG, lr=0.5), tmp_path / "run")


def test_a_run_that_was_cut_off(tiny_config, tmp_path, monkeypatch, capsys, listing):
    config = replace(tiny_config, epochs=2)
    whole = runs.train(config, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(training, "validate", fail_at(2, training.validate))
        with pytest.raises(CutOff):
            runs.train(config, tmp_path / "cut")
    assert listing(tmp_path / "cut") == ["state-000001.safetensors"]
    with pytest.raises(InputError, match="cut: holds a training that was cut off; go on with --re"):
        runs.train(config, tmp_path / "cut")
    capsys.readouterr()
    assert runs.train(config, tmp_path / "cut", resume=True) == tmp_path / "cut"
    assert "going on after epoch 1\n" in capsys.readouterr().out
    assert listing(tmp_path / "cut") == listing(whole)
    for name in listing(whole):
        assert (tmp_path / "cut" / name).read_bytes() == (whole / name).read_bytes(), name
    assert runs.train(config, tmp_path / "cut", resume=True) == tmp_path / "cut"
    assert capsys.readouterr().out == ""


def test_what_a_training_leaves_that_is_killed_at_its_very_end(tiny_config, tmp_path):
    run = runs.train(tiny_config, tmp_path / "run")
    finished = sorted(run.iterdir())
    for name in ("state-000001.safetensors", "state-000002.safetensors", ".lock"):
        (run / name).touch()
    assert runs.train(tiny_config, run, resume=True) == run
    assert sorted(run.iterdir()) == finished


def fail_at(call: int, function):
    calls = []

    def failing(*arguments):
        calls.append(1)
        if len(calls) == call:
            raise CutOff
        return function(*arguments)

    return failing


def test_a_second_training_in_the_same_folder_is_refused(tiny_config, tmp_path, monkeypatch):
    def second(*_):
        with pytest.raises(InputError, match="run: another process is at work there"):
            runs.train(tiny_config, tmp_path / "run")
        raise CutOff

    with monkeypatch.context() as patch:
        patch.setattr(runs, "_train", second)
        with pytest.raises(CutOff):
            runs.train(tiny_config, tmp_path / "run")


def test_a_state_is_json_and_tensors(tmp_path):
    with pytest.raises(CutOff):
        trained(CONFIG, tmp_path / "run", 1)
    (path,) = states_in(tmp_path / "run")
    tensors, rest = resume.read(path)
    assert rest.keys() == {"identity", "history", "schedule"} and json.dumps(rest)
    assert {key.split(".")[0] for key in tensors} == {"network", "optimiser", "random"}
