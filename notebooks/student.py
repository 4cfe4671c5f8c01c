"""The student edition: notebooks/src/*.py -> build/student/*.ipynb, solutions cut to prompts.

A solution is written once, in the source. What is left of it is the names that its check reads:
`name = ...`, or a function's signature and docstring. The check below an untouched prompt fails.
"""

import ast
from pathlib import Path

import jupytext
import nbformat

HERE = Path(__file__).resolve().parent
TARGET = HERE.parent / "build" / "student"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
WRITE = "# Write your code here."


def has(cell, tag: str) -> bool:
    return tag in cell.metadata.get("tags", [])


def prompt(solution: str, check: str) -> str:
    """What a student gets instead of `solution`."""
    read = {node.id for node in ast.walk(ast.parse(check)) if isinstance(node, ast.Name)}
    left = []
    for statement in ast.parse(solution).body:
        if isinstance(statement, ast.FunctionDef) and statement.name in read:
            statement.body = [statement.body[0], ast.Expr(ast.Constant(...))]  # its docstring
            left.append(f"\n{ast.unparse(statement)}\n")
        elif isinstance(statement, ast.Assign):
            names = [
                n.id for t in statement.targets for n in ast.walk(t) if isinstance(n, ast.Name)
            ]
            left += [f"{name} = ..." for name in names if name in read]
    return "\n".join([WRITE, *dict.fromkeys(left)]).strip()


def exercises(notebook) -> list[tuple]:
    """The (solution, check) cells of a notebook, in order."""
    cells = notebook.cells
    pairs = [(cell, cells[i + 1]) for i, cell in enumerate(cells) if has(cell, "solution")]
    loose = [check.source for _, check in pairs if not has(check, "check")]
    if loose:
        raise ValueError(f"a solution is followed by a cell without the tag check: {loose[0]}")
    return pairs


def cut(notebook) -> None:
    """Turn a notebook into its student edition."""
    for solution, check in exercises(notebook):
        solution.source = prompt(solution.source, check.source)
        solution.metadata["tags"] = ["prompt"]
    opening = notebook.cells[0]  # its badge leads to the edition with solutions
    lines = [line for line in opening.source.splitlines() if not line.startswith("[![Open in")]
    opening.source = "\n".join(lines).replace("\n\n\n", "\n\n")


def main() -> None:
    TARGET.mkdir(parents=True, exist_ok=True)
    for source in sorted((HERE / "src").glob("0*.py")):
        notebook = jupytext.read(source)
        cut(notebook)
        notebook.metadata["kernelspec"] = KERNEL
        nbformat.write(notebook, TARGET / f"{source.stem}.ipynb")
        print(TARGET / f"{source.stem}.ipynb")


if __name__ == "__main__":
    main()
