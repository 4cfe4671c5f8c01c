"""Count the real films in two folders, for the datasheet: docs/results/datasets.json.

`count_films.py radiography=FOLDER cohen=FOLDER`: near-duplicates and films that stand in both sets
are those whose 32 x 32 thumbnails correlate above 0.98, as in covidxr.splits.
"""

import json
import sys
import warnings

import numpy as np
import pandas as pd
from build_readme import RESULTS

from covidxr import CLASSES, datasets, splits

THRESHOLD = 0.98
KNOWN = ("source", "view", "sex", "age_years", "study_day", "extent", "icu")


def per_class(manifest: pd.DataFrame) -> dict[str, int]:
    return {label: int((manifest["label"] == label).sum()) for label in CLASSES}


def count(manifest: pd.DataFrame, thumbs: np.ndarray) -> dict:
    """Films and near-duplicates per class, patients, what is known of the films, licences."""
    films = manifest.groupby("patient_id").size()
    groups = pd.Series(splits.near_duplicate_groups(thumbs, threshold=THRESHOLD))
    licence = manifest["licence"].fillna("none given").value_counts()
    return {
        "films": per_class(manifest),
        "with_near_duplicate": per_class(manifest[groups.duplicated(keep=False)]),
        "patients": int(films.size),
        "patients_followed": int((films > 1).sum()),
        "known": {name: int(manifest[name].notna().sum()) for name in KNOWN},
        "licences": {str(name): int(n) for name, n in licence.items()},
    }


def main() -> None:
    manifests, thumbs, stock = {}, {}, {}
    for name, folder in (argument.split("=", 1) for argument in sys.argv[1:]):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            manifest, root = datasets.load(name, folder)
        manifests[name] = manifest
        thumbs[name] = np.nan_to_num(splits.thumbnails([root / p for p in manifest["image_path"]]))
        stock[name] = count(manifest, thumbs[name]) | {"said": [str(w.message) for w in said]}
    shared = (thumbs["cohen"] @ thumbs["radiography"].T).max(axis=1) > THRESHOLD
    stock["cohen"]["already_in_radiography"] = per_class(manifests["cohen"][shared])
    (RESULTS / "datasets.json").write_text(json.dumps(stock, indent=1) + "\n")


if __name__ == "__main__":
    main()
