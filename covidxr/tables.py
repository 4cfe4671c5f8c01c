"""Tables as others publish them: read as text, refused where damaged or short of a column."""

import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable
from io import StringIO
from pathlib import Path, PurePosixPath

import pandas as pd

from covidxr import InputError

MAX_SHEET = 200 * 10**6  # bytes of a workbook when unpacked
DAMAGE = (  # what pandas, openpyxl and zipfile raise for damaged tables; XML's is a SyntaxError
    *(OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError),
    *(EOFError, SyntaxError, struct.error, zipfile.BadZipFile, zlib.error),
)


def read_csv(path: Path) -> pd.DataFrame:
    """CSV as trimmed strings, blanks as NA; lines that begin with ``##`` are comments.

    Versions of the collection are in UTF-8 or, where that fails, in Latin-1.
    """
    data = parsed(path, path.read_bytes)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    while text.startswith("##"):
        text = text.partition("\n")[2]
    table = parsed(path, lambda: pd.read_csv(StringIO(text), dtype="string"))
    return table.apply(lambda column: column.str.strip().replace("", pd.NA))


def read_sheet(path: Path) -> pd.DataFrame:
    """The first sheet of a workbook as strings."""
    with parsed(path, lambda: zipfile.ZipFile(path)) as packed:
        unpacked = sum(entry.file_size for entry in packed.infolist())
    if unpacked > MAX_SHEET:
        raise InputError(
            f"{path}: {unpacked / 1e6:,.0f} MB when unpacked, expected at most "
            f"{MAX_SHEET / 1e6:,.0f} MB; get the data set anew"
        )
    return parsed(path, lambda: pd.read_excel(path, dtype="string"))


def parsed(path: Path, read: Callable):
    """What `read` gives; InputError where the file is damaged."""
    try:
        return read()
    except DAMAGE as error:
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0][:200]
        raise InputError(f"{path}: cannot be read ({reason}); get the data set anew") from error


def need_columns(table: pd.DataFrame, columns: Iterable[str], path: Path) -> None:
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise InputError(
            f"{path}: no column {', '.join(missing)}; found {', '.join(map(str, table.columns))}: "
            "get the data set anew"
        )


def is_inside(path: str) -> bool:
    """Whether a path that a table names stays below the folder of its data set."""
    parts = PurePosixPath(path)
    return not parts.is_absolute() and ".." not in parts.parts and "\\" not in path
