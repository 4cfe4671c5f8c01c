"""Requirements and README are in step with what they are made from."""

import importlib.util
import re
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent


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


def test_readme_has_the_two_commands():
    readme = (REPO / "README.md").read_text()
    for command in ("make run-all", "make test"):
        assert re.search(rf"^{command}\b", readme, flags=re.MULTILINE)
