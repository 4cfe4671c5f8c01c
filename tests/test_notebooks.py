"""The stored notebooks: form, parameters, outputs, and the tools that run and check them."""

import ast
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat
import pytest

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("0*.ipynb"))
CHECKED = "nbval-check-output"
PARAMETERS = {"dataset", "data_dir", "weights", "image_size", "epochs", "batch_size", "seed"}
PARAMETERS |= {"strength"}  # of notebook 07's planted shortcut


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request) -> Path:
    return request.param


@pytest.fixture
def notebook(path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tagged(notebook, tag: str):
    return [cell for cell in code_cells(notebook) if tag in cell.metadata.get("tags", [])]


def lesson(notebook):
    """The cells that teach: all but the exercises."""
    titles = [re.findall(r"^## (.+)$", c.source, re.MULTILINE) for c in notebook.cells]
    first = next(i for i, found in enumerate(titles) if "Exercises" in found) + 1
    last = next(i for i, found in enumerate(titles) if "References" in found)
    return notebook.cells[:first] + notebook.cells[last:]


def load_tool(name: str):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_there_are_notebooks():
    names = [path.stem for path in NOTEBOOKS]
    assert names[:4] == ["01_eda", "02_dataloaders", "03_finetune_resnet18", "04_evaluation"]


def test_stored_notebook_is_built_from_its_source(path, notebook):
    source = jupytext.read(FOLDER / "src" / f"{path.stem}.py")
    assert [(c.cell_type, c.source) for c in notebook.cells] == [
        (c.cell_type, c.source) for c in source.cells
    ]


def test_opens_and_closes_alike(notebook):
    first = notebook.cells[0].source
    for part in ("You will", "colab-badge.svg", "not a medical device", "processor"):
        assert part in " ".join(first.split())
    assert 'find_spec("covidxr") is None' in notebook.cells[1].source
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    headings = re.findall(r"^## (.+)$", text, flags=re.MULTILINE)
    assert headings[-4:] == ["Summary", "Check yourself", "Exercises", "References"]
    assert "What this does not show" in headings or notebook.cells[0].source.startswith("# 2")


def test_questions_have_folded_answers(notebook):
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    asked = text[text.index("## Check yourself") : text.index("## Exercises")]
    questions, answers = asked.split("<details><summary>Answers</summary>")
    assert answers.rstrip().endswith("</details>")
    numbers = [re.findall(r"^(\d)\. ", part, re.MULTILINE) for part in (questions, answers)]
    assert numbers[0] == numbers[1] and 3 <= len(numbers[0]) <= 5
    assert "*not* show" in questions


def test_one_parameters_cell_with_literals(notebook):
    (cell,) = tagged(notebook, "parameters")
    assignments = ast.parse(cell.source).body
    names = {statement.targets[0].id for statement in assignments}
    assert {"dataset", "data_dir"} <= names <= PARAMETERS
    values = [ast.literal_eval(statement.value) for statement in assignments]
    assert values[0] == "phantom"


def test_cells_are_short_and_explained(notebook):
    for cell in code_cells(notebook):
        lines = [line for line in cell.source.splitlines() if line.strip()]
        assert len(lines) <= 20, cell.source
    teaching = lesson(notebook)
    assert sum(cell.cell_type == "code" for cell in teaching) <= 26
    words = sum(len(c.source.split()) for c in teaching if c.cell_type == "markdown")
    assert 500 <= words <= 1700  # eight and a half minutes to read


def test_executed_without_error(notebook):
    for number, cell in enumerate(code_cells(notebook), start=1):
        assert cell.execution_count == number
        assert not [out for out in cell.outputs if out.output_type == "error"]
        assert not [out for out in cell.outputs if out.get("name") == "stderr"], cell.source


def test_checked_cells_have_an_output_to_check(notebook):
    checked = tagged(notebook, CHECKED)
    assert len(checked) >= 3
    for cell in checked:
        assert cell.execution_count and cell.outputs, cell.source


def test_every_figure_is_marked_as_synthetic(notebook):
    for cell in code_cells(notebook):
        if any("image/png" in out.get("data", {}) for out in cell.outputs):
            assert "mark_synthetic" in cell.source, cell.source


def test_every_figure_has_an_alt_text(notebook):
    for cell in code_cells(notebook):
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                alt = output.metadata.get("image/png", {}).get("alt", "")
                assert len(alt.split()) >= 5, cell.source


def test_outputs_hold_no_path_of_the_machine(notebook):
    text = "".join(str(cell.outputs) for cell in code_cells(notebook))
    assert not re.search(r"/(home|root|Users|work|tmp)/", text)


def nbval(folder: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "pytest", "-q", "--nbval-lax", "--nbval-current-env", "."]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_a_changed_output_fails_the_check(tmp_path):
    """A cut of notebook 02 that needs no images: its imports and one checked cell."""
    notebook = nbformat.read(FOLDER / "02_dataloaders.ipynb", as_version=4)
    (cell,) = [c for c in tagged(notebook, CHECKED) if "no-such-film" in c.source]
    imports = [c for c in code_cells(notebook) if c.source.startswith("import time")]
    notebook.cells = [*imports, cell]
    nbformat.write(notebook, tmp_path / "cut.ipynb")
    same = nbval(tmp_path)
    assert same.returncode == 0, same.stdout
    cell.outputs[0].text = "something else\n"
    nbformat.write(notebook, tmp_path / "cut.ipynb")
    changed = nbval(tmp_path)
    assert changed.returncode == 1
    assert "1 failed" in changed.stdout


@pytest.fixture
def small_notebook(tmp_path):
    cells = [
        nbformat.v4.new_code_cell(
            'dataset = "phantom"\nepochs = 1', metadata={"tags": ["parameters"]}
        ),
        nbformat.v4.new_code_cell("print(dataset, epochs)"),
        nbformat.v4.new_code_cell('assert epochs < 5, "too many"'),
    ]
    target = tmp_path / "01_small.ipynb"
    kernel = {"kernelspec": load_tool("build").KERNEL}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), target)
    return target


def test_run_all_passes_parameters(small_notebook, tmp_path, monkeypatch, make_folder):
    monkeypatch.chdir(tmp_path)
    data = make_folder(tmp_path / "images", {"A": 5, "B": 5})
    options = ["dataset=folder", f"data_dir={data}", "epochs=3", "weights="]
    load_tool("run").main(options, [small_notebook])
    done = nbformat.read("runs/notebooks/folder/01_small.ipynb", as_version=4)
    assert "folder 3" in str(code_cells(done)[2].outputs)


@pytest.mark.parametrize(
    "option", ["dataset=padchest", "dataset=folder", "epochs=three", "weights=resnet50"]
)
def test_run_all_refuses_bad_options_in_one_line(tmp_path, monkeypatch, capsys, option):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        load_tool("run").main([option], [])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.startswith("error: ") and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_run_all_stops_at_a_failing_cell(small_notebook, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    later = tmp_path / "02_later.ipynb"
    shutil.copy(small_notebook, later)
    with pytest.raises(SystemExit) as stop:
        load_tool("run").main(["epochs=9"], [small_notebook, later])
    assert "01_small.ipynb, cell" in stop.value.code and "too many" in stop.value.code
    kept = nbformat.read("runs/notebooks/phantom/01_small.ipynb", as_version=4)
    assert "phantom 9" in str(kept.cells)
    assert not Path("runs/notebooks/phantom/02_later.ipynb").exists()


@pytest.mark.parametrize("place", ["Colab", "Kaggle", "Jupyter"])
@pytest.mark.parametrize("there", [True, False])
def test_first_cell_installs_what_is_missing_and_nothing_else(notebook, monkeypatch, place, there):
    calls = []
    monkeypatch.setattr("importlib.util.find_spec", lambda name: there and object() or None)
    monkeypatch.setattr(subprocess, "run", lambda command, check: calls.append(command))
    if place == "Colab":
        monkeypatch.setitem(sys.modules, "google.colab", object())
    if place == "Kaggle":
        monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    exec(notebook.cells[1].source, {})
    pip = [sys.executable, "-m", "pip", "install", "-q", "git+https://github.com/covidxr/covidxr"]
    assert calls == ([] if there else [pip])


def test_first_figure_on_a_machine_like_colab():
    """Reported, not timed: `pytest -s` shows the seconds."""
    command = [sys.executable, FOLDER / "first_minute.py"]
    done = subprocess.run(command, capture_output=True, text=True)
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    assert re.search(r"first figure after \d+ s", done.stdout)
    assert "written in the working folder: data, runs" in done.stdout


def test_run_all_goes_on_at_the_notebook_that_failed(small_notebook, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    second = tmp_path / "02_second.ipynb"
    content = small_notebook.read_text()
    second.write_text(content.replace("epochs < 5", "False"))
    run = load_tool("run")
    with pytest.raises(SystemExit, match="02_second.*\n.*make run-all RESUME=1"):
        run.main(["epochs=3"], [small_notebook, second])
    second.write_text(content)
    capsys.readouterr()
    run.main(["epochs=3", "--resume"], [small_notebook, second])
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["01_small.ipynb: executed before", "02_second.ipynb"]
    times = json.loads(Path("runs/notebooks/phantom/times.json").read_text())
    assert list(times) == ["01_small.ipynb", "02_second.ipynb"]
    executed = []
    monkeypatch.setattr(run, "run", lambda notebook, *_: executed.append(notebook.stem))
    run.main(["epochs=3", "--resume"], [small_notebook, second])
    assert executed == []
    run.main(["epochs=4", "--resume"], [small_notebook])
    small_notebook.write_text(content.replace("too many", "many"))
    run.main(["epochs=3", "--resume"], [small_notebook, second])
    run.main(["epochs=3"], [second])
    assert executed == ["01_small", "01_small", "02_second"]
