"""nbval over copies of the stored notebooks, in an empty folder, against the built wheel.

Nothing of the checkout is in reach: the package is imported from the wheel's own folder. With
`--alone` every notebook gets an empty folder of its own, so a later one makes what it needs.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
SANITISE = HERE.parent / "tests" / "sanitize.cfg"


def install_wheel(target: Path) -> None:
    """Build the wheel and unpack it, without its dependencies, into `target`."""
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(target), str(HERE.parent)]
    subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
    (wheel,) = target.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    subprocess.run([*pip, str(target), str(wheel)], check=True)


def check(notebooks: list[Path], site: Path) -> int:
    """Exit code of nbval over `notebooks`, copied into one empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        for notebook in notebooks:
            shutil.copy(notebook, folder)
        environment = {k: v for k, v in os.environ.items() if k != "COVIDXR_DATA"}
        environment["PYTHONPATH"] = str(site)
        where = [sys.executable, "-c", "import covidxr; print(covidxr.__file__)"]
        found = subprocess.run(where, cwd=folder, env=environment, capture_output=True, text=True)
        if not found.stdout.startswith(str(site)):
            sys.exit(f"covidxr is imported from {found.stdout}, not from the wheel in {site}")
        nbval = [sys.executable, "-m", "pytest", "--nbval-lax", "--nbval-current-env"]
        nbval += ["--nbval-cell-timeout=600", f"--nbval-sanitize-with={SANITISE}", "-q", "."]
        return subprocess.run(nbval, cwd=folder, env=environment).returncode


def main() -> None:
    notebooks = sorted(HERE.glob("0*.ipynb"))
    batches = [[notebook] for notebook in notebooks] if "--alone" in sys.argv else [notebooks]
    with tempfile.TemporaryDirectory() as site:
        install_wheel(Path(site))
        # A list, so that every batch is checked; a batch ended by a signal has a negative code.
        sys.exit(any([check(batch, Path(site)) != 0 for batch in batches]))


if __name__ == "__main__":
    main()
