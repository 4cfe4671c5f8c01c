"""Build the book: assemble pages in build/book/source/, then run Sphinx into build/book/html/.

Pages stand where their files stand in the repository, so links between them stay as written; the
README is the first page. A link to a file that is no page leads to the repository. Nothing is
executed, and no picture is taken from elsewhere.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TARGET = ROOT / "build" / "book"
PARTS = {
    "Course": ["notebooks/*.ipynb", "docs/GLOSSARY.md", "docs/TEACHING.md"],
    "Models and data": ["docs/MODEL_CARD.md", "docs/DATASHEET.md", "docs/CHECKLIST.md"],
    "Project": ["docs/scaling.md", "docs/*SECURITY*.md", "*SECURITY*.md", "C*.md"],
}


def repository() -> str:
    """The project's address, which stands in pyproject.toml alone."""
    text = (ROOT / "pyproject.toml").read_text()
    return re.search(r'^Repository = "(.+)"$', text, re.MULTILINE)[1]


def pages() -> dict[str, list[str]]:
    """Pages by part of the book, as paths from the repository's root; other documents come last."""
    parts = {part: _glob(patterns) for part, patterns in PARTS.items()}
    listed = {page for found in parts.values() for page in found}
    parts["Project"] += [page for page in _glob(["docs/*.md"]) if page not in listed]
    return parts


def _glob(patterns: list[str]) -> list[str]:
    found = [path for pattern in patterns for path in sorted(ROOT.glob(pattern))]
    return [path.relative_to(ROOT).as_posix() for path in found]


def rewrite(text: str, page: str, known: set[str]) -> str:
    """Markdown of `page` with its links led to pages of the book, else to the repository."""

    def link(match: re.Match) -> str:
        target, hash_, anchor = match[1].partition("#")
        path = os.path.normpath(os.path.join(os.path.dirname(page), target))
        if re.match(r"[a-z]+:", target) or not target:
            return match[0]
        if path == "README.md":
            return f"]({os.path.relpath('index.md', os.path.dirname(page))}{hash_}{anchor})"
        if path in known or path.endswith((".png", ".svg")):
            return match[0]
        return f"]({repository()}/blob/main/{path}{hash_}{anchor})"

    text = re.sub(r"\[!\[([^\]]*)\]\(https?://[^)]*\)\]", r"[\1]", text)  # badges become words
    return re.sub(r"\]\(([^)\s]+)\)", link, text)


def notebook(page: str, known: set[str], target: Path) -> None:
    """Copy a notebook: links, alt texts where myst-nb looks for them, solutions folded."""
    content = nbformat.read(ROOT / page, as_version=4)
    for cell in content.cells:
        if cell.cell_type == "markdown":
            cell.source = rewrite(cell.source, page, known)
            continue
        tags = cell.metadata.setdefault("tags", [])
        if "solution" in tags:
            tags.append("hide-cell")
        for output in cell.outputs:
            alt = output.get("metadata", {}).get("image/png", {}).get("alt")
            if alt:
                cell.metadata["mystnb"] = {"image": {"alt": alt}}
    nbformat.write(content, target)


def api(source: Path) -> list[str]:
    """A page for every module of the package."""
    (source / "api").mkdir()
    modules = sorted(path.stem for path in (ROOT / "covidxr").glob("[!_]*.py"))
    for module in modules:
        title = f"# covidxr.{module}\n\n"
        rst = f"```{{eval-rst}}\n.. automodule:: covidxr.{module}\n   :members:\n```\n"
        (source / "api" / f"{module}.md").write_text(title + rst)
    return [f"api/{module}.md" for module in modules]


def toctree(part: str, entries: list[str]) -> str:
    lines = [f"```{{toctree}}\n:hidden:\n:caption: {part}\n", *entries, "```"]
    return "\n".join(lines)


def assemble(source: Path) -> None:
    """Write every page, and what belongs to them, below `source`."""
    parts = pages()
    known = {page for found in parts.values() for page in found}
    for page in sorted(known):
        (source / page).parent.mkdir(parents=True, exist_ok=True)
        if page.endswith(".ipynb"):
            notebook(page, known, source / page)
        else:
            text = rewrite((ROOT / page).read_text(), page, known)
            (source / page).write_text(text)
    for picture in (ROOT / "docs").glob("*.[ps][nv]g"):
        shutil.copy(picture, source / "docs")
    shutil.copytree(HERE / "_static", source / "_static")
    shutil.copy(HERE / "conf.py", source)
    parts["Reference"] = api(source)
    trees = [toctree(part, found) for part, found in parts.items()]
    readme = rewrite((ROOT / "README.md").read_text(), "README.md", known)
    (source / "index.md").write_text("\n\n".join([readme, *trees]))


def main() -> None:
    source, html = TARGET / "source", TARGET / "html"
    shutil.rmtree(TARGET, ignore_errors=True)
    source.mkdir(parents=True)
    assemble(source)
    sphinx = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([*sphinx, str(source), str(html)], check=True, env=environment)
    print(html / "index.html")


if __name__ == "__main__":
    main()
