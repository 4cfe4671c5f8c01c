"""The processes of `accelerate launch`."""

import atexit
import os
import re
import subprocess
import sys

from covidxr import InputError

WORLD_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


def rank() -> int:
    """Number of this process; 0 is the one that writes and prints."""
    return int(os.environ.get("RANK", "0"))


def join() -> None:
    """Start the missing processes of `accelerate launch --cpu --num_processes N`.

    For processors accelerate sets up the meeting point but starts a single process (its issue
    2741); on GPUs it starts all of them and this does nothing.

    Raises:
        InputError: the number is not on accelerate's command line.
    """
    asked = os.environ.get("ACCELERATE_USE_CPU") == "True" and "MASTER_PORT" in os.environ
    if not asked or any(name in os.environ for name in WORLD_SIZES):
        return
    import psutil  # comes with accelerate

    parent = " ".join(psutil.Process().parent().cmdline())
    number = re.search(r"--num[_-]processes[ =](\d+)", parent)
    if not number:
        raise InputError(
            "accelerate launch --cpu: found no --num_processes on the command line, expected a "
            "number; give it there, or use torchrun --nproc-per-node <number> -m covidxr"
        )
    size = int(number[1])
    os.environ |= {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
    command = [sys.executable, "-m", "covidxr", *sys.argv[1:]]
    for n in range(1, size):
        child = subprocess.Popen(command, env=os.environ | {"RANK": str(n), "LOCAL_RANK": str(n)})
        atexit.register(child.wait)
        atexit.register(child.terminate)  # called first
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0"}


def require_one(command: str) -> None:
    """Raise InputError where `command` was started in several processes; it works in one."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(
            f"{command}: found {os.environ['WORLD_SIZE']} processes, expected one; start it "
            "without accelerate (train and predict take several)"
        )
