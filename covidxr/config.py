"""Every choice of a training run in one flat object; its fields are the options of `train`."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields

from covidxr import InputError

CHOICES = {
    "imbalance": ("weighted_loss", "balanced_sampler", "none"),
    "precision": ("auto", "float32"),
}


def _option(default, help: str, low=None, high=None):
    return field(default=default, metadata={"help": help, "low": low, "high": high})


@dataclass(frozen=True)
class TrainConfig:
    """A training run. Raises InputError on a value out of range."""

    dataset: str = _option("phantom", "phantom, radiography, cohen or folder")
    data_dir: str | None = _option(None, "folder of the dataset (default: below the data root)")
    weights: str = _option("phantom", "phantom, imagenet, none, or the path of a checkpoint")
    image_size: int = _option(64, "pixels a side", 32, 1024)
    epochs: int = _option(8, "passes over the training split", 1, 10_000)
    batch_size: int = _option(32, "images a step, over all processes", 2, 4096)
    lr: float | None = _option(None, "learning rate (default: by weights)", 0, 10)
    weight_decay: float = _option(0.05, "AdamW's decay of the weights", 0, 10)
    warmup: float = _option(0.1, "share of the steps in which the rate rises", 0, 0.9)
    label_smoothing: float = _option(0.1, "share of each label spread over all classes", 0, 0.9)
    imbalance: str = _option("weighted_loss", "weighted_loss, balanced_sampler or none")
    augment: bool = _option(True, "rotate, shift, scale and change contrast while training")
    freeze: bool = _option(False, "train the head only, on features computed once")
    precision: str = _option("auto", "auto (the processor's fastest safe one) or float32")
    patience: int = _option(10, "epochs without gain on validation before stopping", 1, 10_000)
    folds: int = _option(5, "of the split; 5 gives 60/20/20", 3, 100)
    test_fold: int = _option(0, "which fold is the test split", 0)
    seed: int = _option(0, "of the split, the weights and the batches", 0, 2**32 - 1)

    def __post_init__(self) -> None:
        for option in fields(self):
            value, (expected, holds) = getattr(self, option.name), self._rule(option)
            if value is None and option.default is None:
                continue
            if not holds(value):
                raise InputError(f"{option.name}: found {value}, expected {expected}")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise InputError(
                    f"{name}: found {getattr(self, name)!r}, expected one of {choices}"
                )

    def _rule(self, option) -> tuple[str, Callable]:
        """What is expected of an option, in words and as a test."""
        low, high = option.metadata["low"], option.metadata["high"]
        if low is None:
            kind, name = (bool, "true or false") if option.type is bool else (str, "text")
            return name, lambda value: isinstance(value, kind)
        high = self.folds - 1 if option.name == "test_fold" else high
        number = int if option.type is int else int | float
        return (
            f"{low} to {high}",
            lambda value: (
                isinstance(value, number) and not isinstance(value, bool) and low <= value <= high
            ),
        )

    @classmethod
    def from_dict(cls, values: dict) -> "TrainConfig":
        """The configuration in a run's config.json; InputError on an unknown key."""
        unknown = sorted(set(values) - {option.name for option in fields(cls)})
        if unknown:
            raise InputError(f"config.json: unknown keys {unknown}; written by another version?")
        return cls(**values)

    @property
    def learning_rate(self) -> float:
        """`lr`, else 1e-2 for a head alone, 3e-3 from scratch, 1e-4 for a trained backbone.

        The shipped weights, which saw phantoms alone, learn other films as fast as from scratch:
        1e-4 was of no use there, 3e-3 was the best of four on validation (docs/WEIGHTS.md).
        """
        if self.lr is not None:
            return self.lr
        if self.freeze:
            return 1e-2
        new_to_films = self.weights == "phantom" and self.dataset != "phantom"
        return 3e-3 if self.weights == "none" or new_to_films else 1e-4
