"""Fuzz one reader with atheris: `readers.py images|metadata|tables CORPUS [libFuzzer options]`.

Whatever the bytes, a reader gives its result or raises the error it promises; any other exception,
a hang or too much memory ends the run, and the bytes that did it are kept.
"""

import sys
import tempfile
import warnings
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["covidxr", "PIL", "pydicom"]):
    from covidxr import InputError, history, metadata, resume, tables
    from covidxr.images import RejectedImage, read_image

FILE = Path(tempfile.mkdtemp()) / "input"


def images(data: bytes) -> None:
    FILE.write_bytes(data)
    try:
        grey = read_image(FILE)
    except RejectedImage:
        return
    assert grey.ndim == 2 and grey.dtype.name == "uint8"


def checkpoints(data: bytes) -> None:
    """The first byte chooses: the text of the metadata, or a whole state file."""
    FILE.write_bytes(data[1:])
    try:
        if data[:1] < b"\x80":
            found = metadata.parse(FILE, data[1:].decode("utf-8", "replace"), scored=True)
            assert len(found["classes"]) >= 2 and found["temperature"] > 0
        else:
            resume.read(FILE)
    except ValueError:  # InputError is one
        return


def both_tables(data: bytes) -> None:
    """The first byte chooses: a collection's table, or a table of patients."""
    FILE.write_bytes(data[1:])
    try:
        tables.read_csv(FILE) if data[:1] < b"\x80" else history.read(FILE)
    except InputError:
        return


TARGETS = {"images": images, "metadata": checkpoints, "tables": both_tables}


def main() -> None:
    target = TARGETS[sys.argv.pop(1)]
    warnings.simplefilter("ignore")
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
