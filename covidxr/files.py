"""Files that are whole or absent, folders held by one process, text that is safe to show."""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from covidxr import InputError

if TYPE_CHECKING:  # the command line imports this module, and must not wait for pandas
    import pandas as pd

try:
    import fcntl
except ImportError:  # Windows: a second process in the same folder goes unnoticed there
    fcntl = None

FORMULA = re.compile(r"'*[=+\-@\t\r]")  # what a spreadsheet computes, and that neutralised


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its name once the block has written all of it.

    A process killed at any moment leaves the old file, or none, under the final name.

    Raises:
        InputError: the file cannot be written there.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        if temporary.exists():
            temporary.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a text file as a whole; InputError where it cannot be written."""
    with whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_tensors(path: Path, tensors: dict, metadata: dict[str, str]) -> None:
    """Write a safetensors file as a whole; InputError where it cannot be written."""
    from safetensors import SafetensorError  # here, since PyTorch takes long to load
    from safetensors.torch import save_file

    with whole(path) as temporary:
        try:
            save_file(tensors, temporary, metadata)
        except SafetensorError as error:
            raise OSError(str(error)) from error


def make_folder(path: Path) -> None:
    """Make a folder and those above it; InputError where that is not allowed."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be made ({error.strerror}); choose another name, or work in a folder "
            "that you may write to"
        ) from error


@contextmanager
def held(folder: Path, wait: bool = False, left: str = ".*.part*") -> Iterator[None]:
    """Hold a folder for this process alone, and clear away what a killed one left half-written.

    The system lets go of it when the process ends, however it ends.

    Args:
        wait: for another process that holds it, in place of an error.
        left: pattern of the names that a killed process leaves.

    Raises:
        InputError: another process holds the folder.
    """
    folder = Path(folder)
    make_folder(folder)
    lock = _lock(folder / ".lock", wait)
    try:
        for path in folder.glob(left):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        yield
    finally:
        (folder / ".lock").unlink(missing_ok=True)  # before others can have it
        lock.close()


def _lock(path: Path, wait: bool):
    while True:
        try:
            file = path.open("w")
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            file.close()
            raise InputError(
                f"{path.parent}: another process is at work there; wait for it, or choose another "
                "name"
            ) from error
        except OSError as error:
            raise InputError(
                f"{path.parent}: cannot be written to ({error.strerror}); choose another folder"
            ) from error
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()  # its holder has just removed it: lock the new one


def one_line(text) -> str:
    r"""Text whose line breaks, control characters and stray bytes are spelt out, `\n` and such."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def write_csv(path: Path, table: "pd.DataFrame") -> None:
    """Write a table as a whole: a row is a line of UTF-8, and no text begins like a formula.

    Text that begins with =, +, -, @ or a tabulator gets an apostrophe before it, which `restored`
    takes away; control characters and bytes that are no UTF-8 are spelt out.
    """
    write_text(path, _each_text(table, _harmless).to_csv(index=False))


def restored(table: "pd.DataFrame") -> "pd.DataFrame":
    """A table that was read from what `write_csv` wrote, without its apostrophes."""
    plain = _each_text(
        table, lambda cell: cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell
    )
    return plain.astype(table.dtypes)


def _harmless(cell: str) -> str:
    return ("'" if FORMULA.match(cell) else "") + one_line(cell)


def _each_text(table: "pd.DataFrame", change: Callable[[str], str]) -> "pd.DataFrame":
    import pandas as pd

    def changed(column):
        cells = [change(cell) if isinstance(cell, str) else cell for cell in column]
        return pd.Series(cells, column.index, object)

    texts = [name for name in table if not pd.api.types.is_numeric_dtype(table[name])]
    return table.assign(**{name: changed(table[name]) for name in texts})
