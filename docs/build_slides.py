"""Decks of the stored notebooks for reveal.js, in build/slides/; they need no network.

A cell tagged `slide` becomes a slide under the heading above it: its picture or what it printed;
tagged `slide-code` it shows its code, too. The text that follows goes to the speaker's notes (key
S). Title, limits, summary and questions become slides of their own.
"""

import re
import shutil
from pathlib import Path

import nbformat
import sphinx_revealjs
from nbconvert import SlidesExporter

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "build" / "slides"
REVEAL = Path(sphinx_revealjs.__file__).parent / "_static" / "revealjs"
LAST = ("What this does not show", "Summary", "Check yourself")


def markdown(text: str, kind: str, **attachments):
    """A cell of a deck; `kind` is `slide` or `notes`."""
    cell = nbformat.v4.new_markdown_cell(text, metadata={"slideshow": {"slide_type": kind}})
    if attachments:
        cell["attachments"] = {f"{name}.png": {"image/png": p} for name, p in attachments.items()}
    return cell


def slide(cell, heading: str, code: bool):
    """The slide of a tagged cell."""
    text, pictures = [f"## {heading}", f"```python\n{cell.source}\n```" if code else ""], {}
    for output in cell.outputs:
        picture = output.get("data", {}).get("image/png")
        if picture:
            name = f"figure{len(pictures)}"
            alt = output.metadata.get("image/png", {}).get("alt", heading)
            text.append(f"![{re.sub(r'[][]', '', alt)}](attachment:{name}.png)")
            pictures[name] = picture
    printed = "".join(output.get("text", "") for output in cell.outputs).strip()
    if printed and not pictures:
        text.append(f"```\n{printed}\n```")
    return markdown("\n\n".join(text), "slide", **pictures)


def sections(text: str) -> list[tuple[str, str]]:
    """(heading, text) of Markdown; what stands before the first heading has an empty one."""
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    return [("", parts[0]), *zip(parts[1::2], parts[2::2], strict=True)]


def deck(notebook) -> list:
    """Cells of a notebook's deck."""
    title = re.sub(r"^\[!\[.*\n", "", notebook.cells[0].source, flags=re.MULTILINE)
    cells, heading, tagged = [markdown(title, "slide")], "", False
    for cell in notebook.cells[1:]:
        if cell.cell_type == "code":
            tags = {"slide", "slide-code"} & set(cell.metadata.get("tags", []))
            tagged = bool(tags)
            if tagged:
                cells.append(slide(cell, heading, code="slide-code" in tags))
            continue
        for name, text in sections(cell.source):
            heading = name or heading
            if not name and tagged and text.strip():
                cells.append(markdown(text, "notes"))
            if name in LAST:
                question, _, answers = text.partition("<details>")
                cells.append(markdown(f"## {name}\n\n{question}", "slide"))
                if answers:
                    cells.append(markdown(re.sub(r"</?(details|summary)>", "", answers), "notes"))
    return cells


def main() -> None:
    shutil.rmtree(TARGET, ignore_errors=True)
    for part in ("dist", "plugin/notes"):
        shutil.copytree(REVEAL / part, TARGET / "reveal.js" / part)
    shutil.copy(REVEAL / "LICENSE", TARGET / "reveal.js")
    exporter = SlidesExporter(
        template_name="offline",
        extra_template_basedirs=[str(ROOT / "docs" / "slides")],
        reveal_url_prefix="reveal.js",
        reveal_theme="white",  # its fonts come with it
    )
    for path in sorted((ROOT / "notebooks").glob("0*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        notebook.cells = deck(notebook)
        html, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": path.stem}})
        (TARGET / f"{path.stem}.html").write_text(html)
        print(TARGET / f"{path.stem}.html")


if __name__ == "__main__":
    main()
