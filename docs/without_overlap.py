"""A copy of `radiography`, as links, without the films that `cohen` holds too.

`without_overlap.py COHEN RADIOGRAPHY OUT` makes OUT for `--dataset folder`. A backbone trained on
it has seen no film (nor near-duplicate) on which severity is then tested.
"""

import os
import sys
from pathlib import Path

from covidxr import datasets, splits


def main(cohen: str, radiography: str, out: str) -> None:
    manifest, root = datasets.load("radiography", radiography)
    table, _ = splits.overlap(Path(cohen) / "images", root, threshold=0.97)
    shared = {(root / path).resolve() for path in table["path_in_b"]}
    for row in manifest.itertuples():
        film = (root / row.image_path).resolve()
        if film not in shared:
            link = Path(out) / row.label / film.name
            link.parent.mkdir(parents=True, exist_ok=True)
            os.symlink(film, link)
    print(f"{out}: {len(manifest) - len(shared)} of {len(manifest)} films; {len(shared)} left out")


if __name__ == "__main__":
    main(*sys.argv[1:])
