"""Exercises: every solution passes its check, every untouched prompt fails it with a hint."""

import ast
import re
from pathlib import Path

import jupytext
import matplotlib
import pytest

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
SOURCES = sorted((NOTEBOOKS / "src").glob("0*.py"))


@pytest.fixture(scope="module")
def student():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(NOTEBOOKS)
        import student
    return student


@pytest.fixture(params=SOURCES, ids=lambda path: path.stem)
def notebook(request):
    return jupytext.read(request.param)


def exercise_cells(notebook):
    """The cells from the heading Exercises on."""
    starts = [i for i, cell in enumerate(notebook.cells) if "\n## Exercises\n" in cell.source]
    return notebook.cells[starts[0] :]


def test_two_or_three_a_notebook_and_enough_in_all(student):
    counts = [len(student.exercises(jupytext.read(source))) for source in SOURCES]
    assert set(counts) <= {2, 3} and sum(counts) >= 14


def test_solutions_pass_and_prompts_fail(student, notebook, elsewhere, one_thread):
    """Exercises stand on their own: they need a notebook's imports and parameters, no more."""
    matplotlib.use("agg")
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    names = {}
    exec(code[1].source, names)
    exec(code[2].source, names)
    pairs = {id(solution): check for solution, check in student.exercises(notebook)}
    for cell in exercise_cells(notebook):
        if id(cell) in pairs:
            check = pairs[id(cell)].source
            with pytest.raises(AssertionError, match=r"\w+ \w+"):
                exec(check, exec_in(student.prompt(cell.source, check), names))
        if cell.cell_type == "code":
            exec(cell.source, names)


def exec_in(source: str, names: dict) -> dict:
    """Run `source` on a copy of `names` and return that."""
    names = dict(names)
    exec(source, names)
    return names


def test_checks_hint_and_do_not_tell(student, notebook):
    for _, check in student.exercises(notebook):
        asserts = [s for s in ast.walk(ast.parse(check.source)) if isinstance(s, ast.Assert)]
        assert asserts
        for statement in asserts:
            assert statement.msg is not None, ast.unparse(statement)
            assert not re.search(r"\d", statement.msg.value), ast.unparse(statement)


def test_prompt_keeps_the_names_that_the_check_reads(student):
    solution = 'a, b = 1, 2\nx = 3\n\ndef f(y, z=1):\n    """Doc."""\n    k = y\n    return k\n'
    kept = student.prompt(solution, "assert a == f(b)")
    assert kept == f'{student.WRITE}\na = ...\nb = ...\n\ndef f(y, z=1):\n    """Doc."""\n    ...'


def test_student_edition_holds_no_solution(student, notebook, tmp_path, monkeypatch):
    monkeypatch.setattr(student, "TARGET", tmp_path)
    solutions = [solution.source for solution, _ in student.exercises(notebook)]
    student.main()
    made = sorted(tmp_path.glob("*.ipynb"))
    assert [path.stem for path in made] == [path.stem for path in SOURCES]
    text = [cell.source for path in made for cell in jupytext.read(path).cells]
    assert not set(solutions) & set(text)
    assert sum(source.startswith(student.WRITE) for source in text) >= 14
    assert not any("colab-badge" in source for source in text)
