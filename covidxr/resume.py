"""The state of a training after each epoch, so that a killed one goes on to the same weights.

`state-<epoch>.safetensors` in the run folder: tensors (network, optimiser, random states, the best
weights) and, as JSON in its metadata, the rest. The latest and the one before it are kept.
"""

import json
import random
import zlib
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import gather_object
from safetensors import SafetensorError, safe_open
from torch import nn

from covidxr import InputError
from covidxr.files import held, write_tensors

NETWORK, BEST, OPTIMISER, RANDOM = "network.", "best.", "optimiser.", "random."


class Keeper:
    """Keeps the state of one training in its run folder.

    Args:
        run: the folder.
        identity: what the training is made from, as JSON; another one's state is refused.
        rank: number of this process; 0 writes.
    """

    def __init__(self, run: Path, identity: dict, rank: int = 0) -> None:
        self.run, self.identity, self.rank = Path(run), json.loads(json.dumps(identity)), rank

    def save(self, network, optimizer, scheduler, generator, history: list, best: dict | None):
        """Write the state after an epoch; `best` are the weights of a better one before it."""
        states = gather_object([random_states(network, generator)])
        if self.rank > 0:
            return
        tensors = named(NETWORK, network.state_dict()) | named(BEST, best or {})
        tensors |= named(OPTIMISER, optimizer_tensors(optimizer))
        for number, own in enumerate(states):
            tensors |= named(f"{RANDOM}{number}.", own)
        rest = {
            "identity": self.identity,
            "history": history,
            "schedule": schedule_state(scheduler),
        }
        text = json.dumps(rest)
        path = self.run / f"state-{len(history):06d}.safetensors"
        write_tensors(path, tensors, {"state": text, "checksum": checksum(tensors, text)})
        for old in states_in(self.run)[2:]:
            old.unlink()

    def load(self, network, optimizer, scheduler, generator) -> tuple[list, dict | None]:
        """Put the latest whole state in place, if there is one; the rows and best weights so far.

        Raises:
            InputError: the state is another training's.
        """
        for path in states_in(self.run):
            try:
                tensors, rest = read(path)
            except ValueError as error:
                self.tell(f"{path}: damaged ({error}); going back to what was before it")
                continue
            self.check(path, rest["identity"])
            network.load_state_dict(under(NETWORK, tensors))
            restore_optimizer(optimizer, under(OPTIMISER, tensors))
            restore_schedule(scheduler, rest["schedule"])
            restore_random(under(f"{RANDOM}{self.rank}.", tensors), network, generator)
            self.tell(f"going on after epoch {len(rest['history'])}")
            return rest["history"], under(BEST, tensors) or under(NETWORK, tensors)
        return [], None

    def check(self, path: Path, identity: dict) -> None:
        own = self.identity
        differ = sorted(key for key in own | identity if own.get(key) != identity.get(key))
        if differ:
            raise InputError(
                f"{path}: of another training, {', '.join(differ)} differ; give the options and "
                "images it was started with, or choose another name"
            )

    def tell(self, line: str) -> None:
        if self.rank == 0:
            print(line, flush=True)


def states_in(run: Path) -> list[Path]:
    """State files of a run folder, the latest first."""
    return sorted(Path(run).glob("state-*.safetensors"), reverse=True)


def clear(run: Path) -> None:
    """Remove the states, once the run is complete."""
    for path in states_in(run):
        path.unlink()


def clear_killed(run: Path) -> None:
    """Remove what a training leaves that is killed once its run is complete."""
    if states_in(run) or (run / ".lock").exists():
        with held(run, wait=True):
            clear(run)


def read(path: Path) -> tuple[dict[str, torch.Tensor], dict]:
    """Tensors and the rest; ValueError where the file is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}
    except (SafetensorError, OSError) as error:
        raise ValueError(str(error)) from error
    text = metadata.get("state", "")
    if metadata.get("checksum") != checksum(tensors, text):
        raise ValueError("its checksum differs")
    return tensors, json.loads(text)


def checksum(tensors: dict[str, torch.Tensor], text: str) -> str:
    code = zlib.crc32(text.encode())
    for key in sorted(tensors):
        code = zlib.crc32(tensors[key].numpy().reshape(-1).view(np.uint8), code)
    return f"{code:08x}"


def named(prefix: str, tensors: dict) -> dict[str, torch.Tensor]:
    """Copies that a file can hold: on the processor, one after the other in memory."""
    return {prefix + key: value.detach().cpu().contiguous() for key, value in tensors.items()}


def under(prefix: str, tensors: dict) -> dict[str, torch.Tensor]:
    return {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}


def optimizer_tensors(optimizer) -> dict[str, torch.Tensor]:
    states = optimizer.state_dict()["state"]
    return {f"{n}.{key}": value for n, state in states.items() for key, value in state.items()}


def restore_optimizer(optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """In the memory format of the parameters, which a fused step takes for granted."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for name, value in tensors.items():
        number, key = name.split(".")
        parameter = parameters[int(number)]
        if value.shape == parameter.shape:
            value = torch.empty_like(parameter).copy_(value)
        elif optimizer.param_groups[0]["fused"]:
            value = value.to(parameter.device)  # the number of steps
        optimizer.state[parameter][key] = value


def schedule_state(scheduler) -> dict:
    return {
        "last_epoch": scheduler.last_epoch,
        "step_count": scheduler._step_count,
        "rates": scheduler.get_last_lr(),
    }


def restore_schedule(scheduler, state: dict) -> None:
    scheduler.last_epoch, scheduler._step_count = state["last_epoch"], state["step_count"]
    scheduler._last_lr = state["rates"]
    for group, rate in zip(scheduler.optimizer.param_groups, state["rates"], strict=True):
        group["lr"] = rate


def random_states(network: nn.Module, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Of PyTorch, its device and the sampler, of NumPy and of Python, as tensors of integers."""
    _, keys, position, *_ = np.random.get_state()
    _, numbers, _ = random.getstate()
    states = {
        "torch": torch.get_rng_state(),
        "sampler": generator.get_state(),
        "numpy": torch.tensor([*keys.tolist(), position]),
        "python": torch.tensor(numbers),
    }
    device = next(network.parameters()).device
    if device.type != "cpu":
        states["device"] = getattr(torch, device.type).get_rng_state()
    return states


def restore_random(states: dict, network: nn.Module, generator: torch.Generator) -> None:
    torch.set_rng_state(states["torch"])
    generator.set_state(states["sampler"])
    *keys, position = states["numpy"].tolist()
    np.random.set_state(("MT19937", np.array(keys, np.uint32), position))
    random.setstate((3, tuple(states["python"].tolist()), None))
    device = next(network.parameters()).device
    if device.type != "cpu":
        getattr(torch, device.type).set_rng_state(states["device"])
