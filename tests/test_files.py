"""Whole files, held folders, text that is safe to show."""

import errno
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from covidxr import InputError, files


def test_write_text_replaces_whole_files_or_says_why(tmp_path):
    files.write_text(tmp_path / "a.txt", "old")
    files.write_text(tmp_path / "a.txt", "é")
    assert (tmp_path / "a.txt").read_bytes() == "é".encode()
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "absent" / "a.txt", tmp_path / "folder"):
        with pytest.raises(InputError, match="cannot be written") as error:
            files.write_text(path, "new")
        assert str(path) in str(error.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.txt", "folder"]


def test_a_block_that_fails_leaves_the_old_file(tmp_path):
    (tmp_path / "a.png").write_text("old")
    with pytest.raises(KeyError), files.whole(tmp_path / "a.png") as temporary:
        assert temporary.suffix == ".png" and temporary.name.startswith(".")
        temporary.write_text("half")
        raise KeyError
    with pytest.raises(InputError, match=r"a\.png: cannot be written \(No space left on device\)"):
        with files.whole(tmp_path / "a.png") as temporary:
            temporary.write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_text() == "old"


HOLD = """
import sys, time
from covidxr.files import held
with held(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the folder."""
    command = [sys.executable, "-c", HOLD, tmp_path]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


@pytest.mark.skipif(files.fcntl is None, reason="needs POSIX locks")
def test_a_held_folder_is_refused_until_its_holder_is_killed(holder, tmp_path):
    with pytest.raises(InputError, match="another process is at work there"):
        with files.held(tmp_path):
            pytest.fail("held twice")
    (tmp_path / ".a.1.part.csv").write_text("half")
    holder.kill()
    holder.wait()
    with files.held(tmp_path):
        assert [p.name for p in tmp_path.iterdir()] == [".lock"]
    assert list(tmp_path.iterdir()) == []


def test_waiting_for_a_held_folder(holder, tmp_path):
    waiter = subprocess.Popen(
        [sys.executable, "-c", HOLD.replace("])", "], wait=True)"), tmp_path],
        stdout=subprocess.PIPE,
        text=True,
    )
    with pytest.raises(subprocess.TimeoutExpired):
        waiter.wait(0.5)
    holder.kill()
    assert waiter.stdout.readline() == "held\n"
    waiter.kill()
    waiter.communicate()


def test_one_line():
    assert files.one_line("é 'a', 😀") == "é 'a', 😀"
    assert files.one_line("a\nb\x1b[2Jc\u2028\udcff") == "a\\nb\\x1b[2Jc\\u2028\\udcff"


CELLS = ["=1+1", "+1", "-1", "@a", "=a,b", "-", "'=1", "''=1", "'a", "'", "", "a=1", "1", ""]


def test_no_cell_begins_like_a_formula_and_all_come_back(tmp_path):
    table = pd.DataFrame({"text": pd.array(CELLS, "string"), "n": np.arange(len(CELLS)) - 5.0})
    for given in (table, *(table.astype({"text": kind}) for kind in (object, "category"))):
        files.write_csv(tmp_path / "t.csv", given)
        plain = pd.read_csv(tmp_path / "t.csv", dtype={"text": "string"}, keep_default_na=False)
        assert not plain["text"].str.match(r"[=+\-@\t\r]").any()
        assert plain["text"][[6, 8, 9, 11, 12]].tolist() == ["''=1", "'a", "'", "a=1", "1"]
        pd.testing.assert_frame_equal(files.restored(plain), table.fillna({"text": ""}))


def test_a_row_is_a_line_of_utf_8(tmp_path):
    table = pd.DataFrame(
        {"text": pd.Series(["a\nb", "a\rb", "\x1b[2J", "\udcff", "é,😀"], dtype=object)}
    )
    files.write_csv(tmp_path / "t.csv", table)
    lines = (tmp_path / "t.csv").read_bytes().decode().split("\n")
    assert lines == ["text", "a\\nb", "a\\rb", "\\x1b[2J", "\\udcff", '"é,😀"', ""]
