"""The pointing game on phantoms that no choice has seen: docs/results/pointing.json.

Trains notebook 05's model (or finds it), chooses the layers on validation as the notebook does, and
scores them on 600 phantoms of another seed.
"""

import json
import tempfile
from pathlib import Path

import numpy as np
from build_readme import RESULTS

from covidxr import datasets, evaluation, explain, phantom, runs
from covidxr.loaders import decode
from covidxr.models import load_checkpoint
from covidxr.training import TrainConfig

SIZE, EPOCHS, SEED, FILMS = 128, 8, 778, 600
WAYS = [("layer2",), ("layer3",), ("layer2", "layer3")]


def hits(model, manifest, root, pixels, normal, ways):
    """Per way, whether the highest pixel of each correctly detected film lies on its lesion."""
    classes = datasets.classes_of(manifest)
    targets = manifest["label"].map(classes.index).to_numpy(int)
    found = evaluation.predictor(model)(pixels).argmax(axis=1) == targets
    sick = np.flatnonzero(found & (manifest["label"] != "Normal").to_numpy())
    lesions, lungs = (
        explain.read_masks(root, manifest[f"{name}_mask_path"].iloc[sick], SIZE)
        for name in ("lesion", "lung")
    )
    against, films, wanted = classes.index("Normal"), pixels[sick], targets[sick]
    maps = [explain.fine_map(model, films, wanted, way, 0.09, against, normal) for way in ways]
    groups = manifest["patient_id"].iloc[sick].to_numpy()
    return [explain.pointing_game(m, lesions) for m in maps], lesions, lungs, groups


def main() -> None:
    config = TrainConfig(image_size=SIZE, epochs=EPOCHS)
    data = runs.prepare(config)
    model = load_checkpoint(runs.find_or_train(config, data) / "model.safetensors")[0]
    manifest = data.manifest
    train = (manifest["split"] == "train") & (manifest["label"] == "Normal")
    normal, val = data.pixels[np.flatnonzero(train)[:64]], (manifest["split"] == "val").to_numpy()
    scores = hits(model, manifest[val], data.root, data.pixels[val], normal, WAYS)[0]
    way = WAYS[int(np.argmax([score.mean() for score in scores]))]
    with tempfile.TemporaryDirectory() as folder:
        root = phantom.generate(Path(folder) / "phantom", n_images=FILMS, seed=SEED)
        fresh, root = datasets.load("phantom", root)
        pixels, _ = decode([root / path for path in fresh["image_path"]], SIZE, folder)
        (hit,), lesions, lungs, groups = hits(model, fresh, root, pixels, normal, [way])
    result = {
        "pointing_game": explain.mean_with_interval(hit, groups),
        "chance_film": float(lesions.mean()),
        "chance_lungs": float(explain.pointing_game(lungs, lesions).mean()),
        "layers": " + ".join(way),
        "seed": SEED,
        "films": FILMS,
        "size": SIZE,
    }
    (RESULTS / "pointing.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
