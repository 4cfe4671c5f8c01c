"""Pointing, severity and progression on phantoms that no choice has seen: docs/results/fresh.json.

Finds or trains the model of notebooks 05 and 06, chooses the map's layers on validation as notebook
05 does, takes the error of measurement from validation as notebook 06 does, and scores all of it on
phantoms of another seed.
"""

import json
import tempfile
from pathlib import Path

import numpy as np
from build_readme import RESULTS

from covidxr import (
    datasets,
    explain,
    phantom,
    progression,
    runs,
    severity,
    triage,
    waiting,
    worklist,
)
from covidxr.loaders import decode
from covidxr.models import load_checkpoint
from covidxr.training import TrainConfig

SEED, FILMS = 778, 1200
CONFIG = TrainConfig(weights="phantom", image_size=128, epochs=5)
WAYS = [("layer2",), ("layer3",), ("layer2", "layer3")]


def hits(model, manifest, root, pixels, found, normal, ways):
    """Per way, whether the highest pixel of each correctly detected film lies on its lesion."""
    classes = datasets.classes_of(manifest)
    sick = (manifest["label"] != "Normal").to_numpy()
    rows = np.flatnonzero(sick & (found["predicted"].to_numpy() == manifest["label"].to_numpy()))
    lesions, lungs = (
        explain.read_masks(root, manifest[f"{name}_mask_path"].iloc[rows], CONFIG.image_size)
        for name in ("lesion", "lung")
    )
    against, films = classes.index("Normal"), pixels[rows]
    wanted = manifest["label"].iloc[rows].map(classes.index).to_numpy(int)
    maps = [explain.fine_map(model, films, wanted, way, 0.09, against, normal) for way in ways]
    groups = manifest["patient_id"].iloc[rows].to_numpy()
    return [explain.pointing_game(m, lesions) for m in maps], lesions, lungs, groups


def pointing(run, model, data, fresh, root, pixels, found) -> dict:
    part = data.manifest["split"]
    normal = (part == "train") & (data.manifest["label"] == "Normal")
    normal = data.pixels[np.flatnonzero(normal)[:64]]
    val, known = (part == "val").to_numpy(), runs.read_csv(run / "predictions_val.csv")
    scores = hits(model, data.manifest[val], data.root, data.pixels[val], known, normal, WAYS)[0]
    way = WAYS[int(np.argmax([score.mean() for score in scores]))]
    (hit,), lesions, lungs, groups = hits(model, fresh, root, pixels, found, normal, [way])
    return {
        "pointing_game": explain.mean_with_interval(hit, groups),
        "chance_film": float(lesions.mean()),
        "chance_lungs": float(explain.pointing_game(lungs, lesions).mean()),
        "layers": " + ".join(way),
    }


def courses(run, fresh, found) -> dict:
    """Called against true changes, the limit from validation, else from the model's own sd."""
    sem = worklist.validation_sem(run)["value"]
    series = found.assign(patient_id=fresh["patient_id"], study_day=fresh["study_day"])
    called = progression.courses(series, sem)
    true = progression.courses(series.assign(extent=fresh["extent"]), sem or 1.0)
    triples = [(c.change, c.limit, true[patient].change) for patient, c in called.items()]
    counts, shares = progression.score(*zip(*triples, strict=True))
    return {
        "sem": sem,
        "patients": len(called),
        "counts": counts.to_dict("index"),
        "shares": shares.to_dict("records"),
    }


def main() -> None:
    data = runs.prepare(CONFIG)
    run = runs.find_or_train(CONFIG, data)
    model = load_checkpoint(run / "model.safetensors")[0]
    train = data.manifest[data.manifest["split"] == "train"]
    means = {name: float(train[name].mean()) for name in severity.HIGHEST}
    with tempfile.TemporaryDirectory() as folder:
        root = phantom.generate(Path(folder) / "phantom", n_images=FILMS, seed=SEED)
        fresh, root = datasets.load("phantom", root)
        paths = [root / path for path in fresh["image_path"]]
        found = runs.predict_files(run, paths)
        pixels, _ = decode(paths, CONFIG.image_size, folder)
        result = pointing(run, model, data, fresh, root, pixels, found)
    scores = severity.evaluate(found, fresh, fresh["patient_id"], means)
    off = (found["extent"] - fresh["extent"]).abs().astype(float)
    ward = triage.order(found.assign(truth=fresh["extent"]))
    waits = waiting.summary(waiting.simulate(ward["truth"], ward["urgency"]))
    result |= {
        "severity": scores.to_dict("records"),
        "inside_95": float((off <= 1.96 * found["extent_sd"].astype(float)).mean()),
        "to_person": float(ward["to_person"].notna().mean()),
        "progression": courses(run, fresh, found),
        "waits": waits.to_dict("records"),
        "seed": SEED,
        "films": FILMS,
        "size": CONFIG.image_size,
    }
    (RESULTS / "fresh.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
