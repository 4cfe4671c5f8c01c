"""A folder of hostile files: every command finishes, gives each its row and reason, stays small."""

import json
import os
import subprocess
import sys
from pathlib import Path

import hostile
import pandas as pd
import pytest

from covidxr import cli, runs
from covidxr.files import one_line

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs POSIX links and pipes")

COMMANDS = """
import json, resource, sys
from covidxr import cli
for command in json.loads(sys.stdin.read()):
    sys.argv = ["covidxr", *command]
    try:
        cli.main()
    except SystemExit as stop:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(json.dumps([stop.code or 0, peak * (1 if sys.platform == "darwin" else 1024)]))
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A folder of two classes, films and hostile files, and what is expected of the latter."""
    root = tmp_path_factory.mktemp("data")
    expected = hostile.build(root / "hostile")
    (root / "films").mkdir()
    for number, kind in enumerate((*hostile.KINDS, "PNG")):
        (root / "films" / f"{number}.png").write_bytes(hostile.film_bytes(kind))
    return root, expected


@pytest.fixture(scope="module")
def outcome(corpus, tiny_run, tmp_path_factory):
    """Standard output and error of the commands, run by one process in the folder returned."""
    root, _ = corpus
    work = tmp_path_factory.mktemp("work")
    around = root / "films" / ".." / "films" / "0.png"
    commands = [
        ["predict", tiny_run, root / "films", "--out", "films.csv"],
        ["predict", tiny_run, root / "hostile", around, "--out", "hostile.csv"],
        ["triage", tiny_run, root / "hostile", "--out", "worklist.html"],
        ["data", "overlap", root / "films", root / "hostile", "--out", "overlap.csv"],
        ["data", "summary", "--dataset", "folder", "--data-dir", root],
    ]
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS],
        input=json.dumps([[str(word) for word in command] for command in commands]),
        cwd=work,
        env=os.environ | {"PYTHONPATH": str(Path(cli.__file__).parents[1]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    return work, done.stdout, done.stderr


def test_the_corpus_is_large(corpus):
    _, expected = corpus
    assert sum(reason != "" for reason in expected.values()) >= 60 and len(expected) >= 140


def test_every_command_finishes_in_bounded_memory(outcome):
    work, out, err = outcome
    codes, peaks = zip(
        *(json.loads(line) for line in out.splitlines() if line.startswith("[")), strict=True
    )
    assert codes == (0, 0, 0, 0, 0), err
    assert "Traceback" not in out + err
    assert peaks[-1] - peaks[0] < 1e9
    written = ["films.csv", "hostile.csv", "overlap.csv", "worklist.csv", "worklist.html"]
    assert sorted(p.name for p in work.iterdir()) == written


def test_predict_gives_each_file_its_row_and_reason(outcome, corpus):
    root, expected = corpus
    table = runs.read_csv(outcome[0] / "hostile.csv")
    paths = [one_line(path) for path in sorted(expected)]
    assert len(set(paths)) == len(paths)
    assert table["image_path"].tolist() == [*paths, f"{root}/films/../films/0.png"]
    rows = table.iloc[:-1].set_index("image_path")
    for path, reason in expected.items():
        row = rows.loc[one_line(path)]
        if reason:
            assert row["status"] == "rejected" and row["reason"].startswith(reason), path
            assert pd.isna(row["predicted"]) and pd.isna(row["p_COVID"])
        else:
            assert row["status"] == "ok" and pd.isna(row["reason"]), path
            assert row[["p_Normal", "p_Lung_Opacity", "p_COVID"]].sum() == pytest.approx(1)


def test_triage_gives_each_file_its_row_and_reason(outcome, corpus):
    table = runs.read_csv(outcome[0] / "worklist.csv").set_index("image_path")
    page = (outcome[0] / "worklist.html").read_bytes().decode()
    assert sorted(table.index) == sorted(one_line(path) for path in corpus[1])
    for path, reason in corpus[1].items():
        row = table.loc[one_line(path)]
        assert row["status"] == ("rejected" if reason else "ok")
        assert pd.isna(row["place"]) == bool(reason)
        assert not reason or row["reason"].startswith(reason)
    assert "<img src=x" not in page and "&lt;img src=x" in page


def test_no_cell_is_a_formula_and_no_line_is_broken(outcome):
    work, out, err = outcome
    for name in ("hostile.csv", "overlap.csv", "worklist.csv"):
        text = (work / name).read_bytes().decode()  # valid UTF-8
        cells = pd.read_csv(work / name, dtype=str, keep_default_na=False).to_numpy().ravel()
        assert text and not [c for c in cells if c[:1] in "=+-@\t\r" and c and not number(c)]
    assert not [c for c in out + err if not c.isprintable() and c != "\n"]


def number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def test_overlap_finds_the_films_under_every_name(outcome, corpus):
    root, expected = corpus
    table = runs.read_csv(outcome[0] / "overlap.csv")
    names = [one_line(path.relative_to(root / "hostile")) for path in expected]
    assert set(table["path_in_b"]) <= set(names)
    copies = {one_line(os.fsdecode(name)) for name in hostile.NAMES}
    assert copies <= set(table["path_in_b"])
    assert "could not be read as images" in outcome[1]


def test_summary_counts_what_ends_like_an_image(outcome, corpus):
    root, expected = corpus
    lines = outcome[1].splitlines()
    (line,) = [line for line in lines if line.startswith("folder in ")]
    assert int(line.split(": ")[1].split()[0]) > 100
