"""Run pytest with the lowest versions that requirements.txt admits: `lowest.py [options]`.

They go into .venv-lowest/. With `--own-torch` torch, torchvision and all that requirements.txt does
not name are taken from .venv/ as they are, where the lowest torch cannot be had. The versions
tested are printed first.
"""

import os
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".venv-lowest"
SHARED = ("torch", "torchvision")
TOOLS = ["pytest>=8,<10", "hypothesis", "jupytext", "nbformat", "nbclient", "papermill", "nbval"]
TOOLS += ["ipykernel", "ipywidgets", "build"]


def lowest() -> dict[str, str]:
    """{package: lowest version} of requirements.txt."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    found = (re.match(r"([\w-]+)>=([\d.]+)", line) for line in lines)
    return {match[1]: match[2] for match in found if match}


def install(python: str, own_torch: bool) -> None:
    pip = [python, "-m", "pip", "install", "--quiet", "--only-binary", ":all:"]
    if not own_torch:
        pins = [f"{name}=={number}" for name, number in lowest().items()]
        subprocess.run([*pip, *pins, *TOOLS], check=True)
        return
    shared, here = (
        Path(sysconfig.get_path("purelib", vars={"base": str(base)}))
        for base in (ROOT / ".venv", FOLDER)
    )
    (here / "shared.pth").unlink(missing_ok=True)  # pip must not see what is there
    pins = [f"{name}=={number}" for name, number in lowest().items() if name not in SHARED]
    subprocess.run([*pip, "--no-deps", *pins], check=True)
    (here / "shared.pth").write_text(f"{shared}\n")  # comes last on the path
    subprocess.run([*pip, *pins], check=True)  # what they need and neither place has


def main() -> None:
    options = sys.argv[1:]
    own_torch = "--own-torch" in options
    options = [option for option in options if option != "--own-torch"]
    python = str(FOLDER / "bin" / "python")
    if not Path(python).exists():
        venv.create(FOLDER, with_pip=True)
    install(python, own_torch)
    show = "from importlib.metadata import version as v; import sys; "
    show += "print(*(f'{n}=={v(n)}' for n in sys.argv[1:]))"
    subprocess.run([python, "-c", show, *lowest()], check=True)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    tests = subprocess.run([python, "-m", "pytest", *options], cwd=ROOT, env=environment)
    sys.exit(tests.returncode)


if __name__ == "__main__":
    main()
