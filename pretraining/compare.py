"""What the shipped weights are worth, beside a random start: docs/results/pretraining.json.

`compare.py phantom` needs nothing; `compare.py NAME DATA_DIR` needs the real films. NAME is one of
`rates` (learning rates, tried on validation), `radiography` (each start with its best of these),
`radiography-first` (with the rates of the first comparison, of which the shipped weights' suits
phantoms alone), `heads` (untrained class heads; needs no films) and `cohen`. Both starts see the
same films, the same split and the same number of epochs; the epoch is chosen on validation, the
test split only scored.
"""

import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from sklearn.metrics import f1_score

from covidxr import metrics, runs, severity
from covidxr.loaders import XrayDataset, make_loader
from covidxr.models import build_model
from covidxr.training import TrainConfig, choose_compute, fit, predict, set_seed

RESULT = Path(__file__).resolve().parent.parent / "docs" / "results" / "pretraining.json"
STARTS = ("none", "phantom")
FIRST = "radiography-first"
PHANTOM = TrainConfig(image_size=64, epochs=8)
PHANTOM_SEEDS = range(5)
REAL = TrainConfig("radiography", image_size=64, imbalance="none", patience=100)
REAL_EPOCHS = {100: 30, 500: 15, 2000: 6}  # by number of training films
REAL_SEEDS, REAL_VAL = range(3), 300
FIRST_RATES = {"none": 3e-3, "phantom": 1e-4}
REAL_RATES, RATE_FILMS = (1e-4, 3e-4, 1e-3, 3e-3), 500
COHEN_SIZE = 224
HEADS = 1000


def trained(data: runs.Data, config: TrainConfig, train, val) -> tuple:
    """A model of these films, and its validation score after every epoch."""
    set_seed(config.seed)
    scores = data.scores
    model = build_model(len(data.classes), config.weights, severity=scores is not None)
    parts = [XrayDataset(data.pixels, data.targets, rows, scores) for rows in (train, val)]
    return model, fit(model, *parts, config)["val_macro_f1"].tolist()


def outcome(data: runs.Data, config: TrainConfig, train, val) -> dict:
    """Validation scores of every epoch, and predictions of the test split."""
    model, history = trained(data, config, train, val)
    logits = predict(model, make_loader(data.part("test"), 64), choose_compute())
    return {"val": history, "predicted": logits.argmax(axis=1)}


def compare(data: runs.Data, config: TrainConfig, train, val, seeds, rates: dict) -> dict:
    """Both starts with every seed: macro-F1 on test, the paired difference and its interval.

    The interval is the bootstrap's over groups of the test split, of the mean over the seeds.

    Args:
        rates: the learning rate of a start; the default where it has none.
    """
    found = {start: [] for start in STARTS}
    for seed in seeds:
        for start in STARTS:
            run = replace(config, weights=start, seed=seed, lr=rates.get(start))
            found[start].append(outcome(data, run, train(seed), val))
    rows = (data.manifest["split"] == "test").to_numpy()
    truth, groups = data.targets[rows], data.manifest["group_id"].to_numpy()[rows]
    scores = {
        start: [f1_score(truth, run["predicted"], average="macro") for run in runs_]
        for start, runs_ in found.items()
    }
    low, high = difference_interval(truth, found, groups)
    gain = np.subtract(scores["phantom"], scores["none"])
    return {
        "n_test": int(rows.sum()),
        "epochs": config.epochs,
        "seeds": len(seeds),
        "macro_f1": scores,
        "val": {start: [run["val"] for run in runs_] for start, runs_ in found.items()},
        "difference": {"value": float(gain.mean()), "low": low, "high": high},
        "difference_by_seed": gain.tolist(),
    }


def difference_interval(truth, found, groups, n_resamples=2000) -> tuple[float, float]:
    """95% interval of the mean difference in macro-F1 when whole groups are drawn again."""
    codes = np.unique(groups, return_inverse=True)[1]
    draws = []
    for counts in metrics.resampled_counts(codes, n_resamples, seed=0):
        for weights in counts.T:
            score = {
                start: np.mean(
                    [
                        f1_score(truth, run["predicted"], average="macro", sample_weight=weights)
                        for run in runs_
                    ]
                )
                for start, runs_ in found.items()
            }
            draws.append(score["phantom"] - score["none"])
    low, high = metrics.percentile_interval(np.array(draws))
    return float(low), float(high)


def epochs_to_reach(result: dict) -> list[int | None]:
    """Per seed, the first epoch at which the phantom start has what scratch ends with."""
    reached = []
    for scratch, shipped in zip(result["val"]["none"], result["val"]["phantom"], strict=True):
        hits = np.flatnonzero(np.array(shipped) >= scratch[-1])
        reached.append(int(hits[0]) + 1 if len(hits) else None)
    return reached


def on_phantoms() -> None:
    data = runs.prepare(PHANTOM)
    train, val = (np.flatnonzero(data.manifest["split"] == s) for s in ("train", "val"))
    result = compare(data, PHANTOM, lambda _: train, val, PHANTOM_SEEDS, {})
    keep("phantom", result | {"epochs_to_reach_scratch": epochs_to_reach(result)})


class Radiography:
    """The real films, the validation films that count, and the training films of a seed."""

    def __init__(self, data_dir: str) -> None:
        self.data = runs.prepare(replace(REAL, data_dir=data_dir))
        split = self.data.manifest["split"]
        val = np.random.default_rng(0).permutation(np.flatnonzero(split == "val"))
        self.val, self.pool = val[:REAL_VAL], np.flatnonzero(split == "train")

    def drawn(self, count: int, seed: int) -> np.ndarray:
        return np.random.default_rng([count, seed]).permutation(self.pool)[:count]


def try_rates(data_dir: str) -> None:
    """The best macro-F1 on validation films of each start with each learning rate."""
    films = Radiography(data_dir)
    train, scores = films.drawn(RATE_FILMS, 0), {start: {} for start in STARTS}
    for start in STARTS:
        for rate in REAL_RATES:
            config = replace(REAL, epochs=REAL_EPOCHS[RATE_FILMS], weights=start, lr=rate)
            scores[start][rate] = max(trained(films.data, config, train, films.val)[1])
    keep("rates", scores)


def learning_curve(name: str, data_dir: str, *counts: str) -> None:
    """By number of training films; these counts alone, if some are given."""
    films, rates = Radiography(data_dir), FIRST_RATES if name == FIRST else best_rates()
    for count in map(int, counts or REAL_EPOCHS):
        config = replace(REAL, epochs=REAL_EPOCHS[count])
        draw = partial(films.drawn, count)
        result = compare(films.data, config, draw, films.val, REAL_SEEDS, rates)
        keep(name, read_results().get(name, {}) | {str(count): result})
        print(count, "films:", json.dumps(result["difference"]), flush=True)


def best_rates() -> dict[str, float]:
    """Of each start, from what `try_rates` kept."""
    scores = read_results()["rates"]
    return {start: float(max(found, key=found.get)) for start, found in scores.items()}


def on_cohen(data_dir: str) -> None:
    """Ridge regression on frozen features of the films that the collection's readers scored."""
    config = TrainConfig("cohen", data_dir, image_size=COHEN_SIZE)
    data = runs.prepare(config)
    rows = np.flatnonzero(data.manifest["extent"].notna())
    groups = data.manifest["group_id"].to_numpy()[rows]
    films = XrayDataset(data.pixels, data.targets, rows)
    result = {}
    for start in STARTS:
        set_seed(0)
        model = build_model(len(data.classes), start)
        features = predict(model, make_loader(films, 64), choose_compute(), model.features)
        for name in severity.HIGHEST:
            truth = data.manifest[name].to_numpy(float)[rows]
            found = severity.ridge_crossval(features, truth, groups)
            result[f"{start} {name}"] = severity.agreement(truth, found, groups).to_dict("records")
    keep("cohen", result)


def untrained_heads() -> None:
    """Validation phantoms that each seed's class head calls right on the weights, untrained.

    Seed 0 draws the very head that pre-training began with.
    """
    data = runs.prepare(PHANTOM)
    loader = make_loader(data.part("val"), 64)
    model = build_model(3, "phantom")
    features = predict(model, loader, choose_compute("float32"), model.features)
    truth = data.targets[(data.manifest["split"] == "val").to_numpy()]
    right = []
    for seed in range(HEADS):
        set_seed(seed)
        head = build_model(3).fc  # drawn before weights are loaded, so the same with them
        logits = features @ head.weight.detach().numpy().T + head.bias.detach().numpy()
        right.append(int((logits.argmax(axis=1) == truth).sum()))
    keep("heads", {"n": len(truth), "right": right})


def read_results() -> dict:
    return json.loads(RESULT.read_text()) if RESULT.exists() else {}


def keep(name: str, result: dict) -> None:
    RESULT.write_text(json.dumps(read_results() | {name: result}, indent=1) + "\n")


PARTS = {
    "phantom": on_phantoms,
    "cohen": on_cohen,
    "heads": untrained_heads,
    "rates": try_rates,
    "radiography": partial(learning_curve, "radiography"),
    FIRST: partial(learning_curve, FIRST),
}


def main() -> None:
    name, *arguments = sys.argv[1:]
    PARTS[name](*arguments)


if __name__ == "__main__":
    main()
