"""Requirements, README and documents are in step with what they are made from."""

import importlib
import importlib.util
import json
import re
from pathlib import Path

import jupytext
import nbformat
import pytest

import covidxr

REPO = Path(__file__).resolve().parent.parent
DOCUMENTS = [*sorted(REPO.glob("*.md")), *sorted((REPO / "docs").glob("*.md"))]


@pytest.fixture(scope="module")
def build_readme():
    spec = importlib.util.spec_from_file_location("build_readme", REPO / "docs" / "build_readme.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_conda_and_pip_name_the_same_packages_and_ranges():
    pip = (REPO / "requirements.txt").read_text().splitlines()
    pip = {line.split("#")[0].strip() for line in pip} - {""}
    conda = (REPO / "environment.yml").read_text()
    conda = set(re.findall(r"^  - ([\w-]+[<>=].*)$", conda, flags=re.MULTILINE))
    conda = {re.sub("^pytorch>", "torch>", line) for line in conda}
    assert len(pip) > 10
    assert conda - pip == {"python>=3.10"} and pip <= conda
    assert 'requires-python = ">=3.10"' in (REPO / "pyproject.toml").read_text()


def test_results_in_the_readme_are_those_of_the_runs(build_readme):
    table = build_readme.results_table()
    begin, end = (f"<!-- results:{edge} -->" for edge in ("begin", "end"))
    assert f"{begin}\n{table}\n{end}\n" in (REPO / "README.md").read_text()


def test_notebooks_in_the_readme_are_the_stored_ones(build_readme):
    table = build_readme.notebooks_table()
    begin, end = (f"<!-- notebooks:{edge} -->" for edge in ("begin", "end"))
    assert f"{begin}\n{table}\n{end}\n" in (REPO / "README.md").read_text()


def test_a_notebook_is_read_and_run_within_half_an_hour(build_readme):
    """At 200 words a minute and on two cores."""
    times = json.loads((REPO / "docs" / "results" / "times.json").read_text())
    for source in sorted((REPO / "notebooks" / "src").glob("0*.py")):
        reading = build_readme.minutes_to_read(jupytext.read(source))
        running = times[f"{source.stem}.ipynb"] / 60
        print(f"{source.stem}: {reading:.1f} min to read, {running:.1f} min to run")
        assert 2 < reading + running <= 30


def test_the_repository_has_one_address(build_readme):
    """It stands in pyproject.toml; badges, install cells and documents agree with it."""
    address = build_readme.repository()
    name = address.removeprefix("https://github.com/")
    places = [*(REPO / "notebooks" / "src").glob("0*.py"), *DOCUMENTS, REPO / "CITATION.cff"]
    for place in places:
        text = place.read_text()
        named = re.findall(r"github(?:\.com)?/([\w.-]+/covidxr)\b", text)
        assert set(named) <= {name}, place.name
        if place.suffix == ".py":
            assert f'package = "git+{address}"\n' in text
            opened = f"https://colab.research.google.com/github/{name}/blob/main/notebooks/"
            assert f"({opened}{place.stem}.ipynb)" in text
    assert f"pip install git+{address}`" in (REPO / "README.md").read_text()
    assert f"repository-code: {address}\n" in (REPO / "CITATION.cff").read_text()


def test_citation_and_package_have_one_version():
    text = (REPO / "CITATION.cff").read_text()
    assert f"version: {covidxr.__version__}\n" in text


def test_readme_has_the_two_commands():
    readme = (REPO / "README.md").read_text()
    for command in ("make run-all", "make test"):
        assert re.search(rf"^{command}\b", readme, flags=re.MULTILINE)


@pytest.fixture(scope="module")
def scripts():
    """A function that imports a script of docs/."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(REPO / "docs")
        yield importlib.import_module


@pytest.fixture(scope="module")
def build_cards(scripts):
    return scripts("build_cards")


def test_other_systems_in_the_readme_are_those_of_the_table(scripts):
    table = scripts("build_comparison").table()
    begin, end = (f"<!-- comparison:{edge} -->" for edge in ("begin", "end"))
    assert f"{begin}\n{table}\n{end}\n" in (REPO / "README.md").read_text()
    rows = [line.split(" | ") for line in table.splitlines()]
    assert len(rows) >= 8 and len({len(row) for row in rows}) == 1
    for row in rows[3:]:
        assert row[0].startswith("| [") and row[1].endswith(")"), "a link and a source"


def test_architecture_is_drawn_by_its_script(scripts):
    drawn = scripts("build_architecture").draw()
    assert drawn == (REPO / "docs" / "architecture.svg").read_text()


def test_tables_of_the_cards_are_those_of_the_script(build_cards):
    for file, blocks in build_cards.blocks().items():
        text = (REPO / "docs" / file).read_text()
        for name, content in blocks.items():
            assert f"<!-- {name}:begin -->\n{content}\n<!-- {name}:end -->\n" in text, name


def test_cards_show_calibration_operating_point_and_subgroups(build_cards, monkeypatch):
    row = {"value": 0.5, "low": 0.25, "high": 0.75, "n": 1234, "class": None, "reason": None}
    point = {
        "threshold": 0.125,
        "figures": [row | {"metric": "sensitivity"}],
        "predictive_values": [row | {"metric": "ppv", "prevalence": 0.05}],
    }
    text = build_cards.operating_point(point)
    assert "p ≥ 0.125" in text and "sensitivity 0.500 [0.250, 0.750], n = 1,234" in text
    assert "| 5% | PPV | 0.500 [0.250, 0.750] |" in text
    error = row | {"perfect_model_median": 0.01, "perfect_model_high": 0.02}
    before = {"temperature": 1.5, "calibration_error_before": row | {"value": 0.7}}
    text = build_cards.calibration({"calibration_error": error} | before)
    assert "(T = 1.50) 0.700 [0.250, 0.750]" in text and "at most 0.020" in text
    scarce = {"value": None, "low": None, "high": None, "reason": "no images of COVID"}
    levels = [
        row | {"subgroup": "view", "level": "PA", "metric": "accuracy"},
        row | {"subgroup": "view", "level": "AP", "metric": "auroc", "class": "COVID"} | scarce,
        row | {"subgroup": "sex", "level": "unknown", "metric": "accuracy"},
    ]
    monkeypatch.setattr(build_cards, "results", lambda: {"phantom": {"subgroups": levels}})
    text = build_cards.subgroups()
    assert "| view: PA | accuracy | 0.500 [0.250, 0.750] | 1,234 |  |" in text
    assert "| view: AP | auroc, COVID | NA | 1,234 | no images of COVID |" in text
    assert "unknown for every film: sex." in text and "sex: unknown" not in text


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_relative_links_lead_to_files(document):
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", document.read_text())
    assert links or document.name != "README.md"
    assert [link for link in links if not (document.parent / link).exists()] == []


@pytest.mark.parametrize("document, least", [("CHECKLIST.md", 50), ("TEACHING.md", 15)])
def test_sections_that_a_document_names_exist(document, least):
    text = (REPO / "docs" / document).read_text()
    named = re.findall(r"“([^”]+)”\]\((\S+?)(?:#[^)]*)?\)", text)
    assert len(named) >= least
    missing = []
    for section, link in sorted(set(named)):
        path = REPO / "docs" / link
        if not path.exists():
            prose = ""
        elif path.suffix == ".ipynb":
            cells = nbformat.read(path, as_version=4).cells
            prose = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
        else:
            prose = path.read_text()
        if not re.search(rf"^#+ {re.escape(section)}$", prose, flags=re.MULTILINE):
            missing.append((link, section))
    assert missing == []


def test_checklist_answers_every_item():
    text = (REPO / "docs" / "CHECKLIST.md").read_text()
    answers = re.findall(
        r"^\| (\d+[a-g]?) \| [^|]+ \| (done|part|not done): \S", text, re.MULTILINE
    )
    items = [item for item, _ in answers]
    assert items[:44] == [str(number) for number in range(1, 45)]
    assert len(items[44:]) == len(set(items[44:])) == 52
    assert {int(item.rstrip("abcdefg")) for item in items[44:]} == set(range(1, 28))


def test_severity_in_the_readme_and_the_weights_card_are_what_the_scripts_write(monkeypatch):
    monkeypatch.syspath_prepend(str(REPO / "docs"))
    severity, weights = (
        importlib.import_module(name) for name in ("build_severity", "build_weights")
    )
    readme, card = ((REPO / path).read_text() for path in ("README.md", "docs/WEIGHTS.md"))
    assert (
        "extent, MAE" in readme and severity.fill(readme, "severity", severity.tables()) == readme
    )
    assert weights.fill(card, "history", weights.history()) == card
    assert weights.fill(card, "comparison", weights.comparison()) == card
