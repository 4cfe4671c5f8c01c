"""Draw docs/hero.png from phantoms and a run: a film, where the model looks, and the worklist.

`build_hero.py RUN` takes a run of 128 pixels or more (notebook 05 makes one). The films are of a
seed that no run uses.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from covidxr import evaluation, explain, phantom, plots
from covidxr.models import load_checkpoint

TARGET = Path(__file__).resolve().parent / "hero.png"
SEED, FILMS = 2020, 6
LAYERS, BLUR = ("layer2", "layer3"), 0.09  # as in notebook 05


def draw_films(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (N, S, S) and lesion masks of phantoms, two of each class."""
    patients = pd.Series(phantom.plan(60, seed=SEED))
    labels = patients.map(lambda patient: patient.label)
    chosen = patients.groupby(labels).head(2)[:FILMS]
    films = [phantom.render(patient, image_size=size) for patient in chosen]
    return np.stack([film.image for film in films]), np.stack([film.lesion for film in films])


def worklist(probabilities: np.ndarray, classes) -> pd.DataFrame:
    """The films as they would be read: the least likely to be normal first."""
    table = pd.DataFrame(probabilities, columns=classes)
    table["film"] = [f"phantom {number + 1}" for number in range(len(table))]
    table["reading"] = table[list(classes)].idxmax(axis=1)
    return table.sort_values("Normal")


def draw_list(ax, table: pd.DataFrame, classes, row: int) -> None:
    """The worklist as a table; `row` is the film shown beside it."""
    shown = [
        [r["film"], r["reading"], *(f"{r[c]:.2f}" for c in classes)] for _, r in table.iterrows()
    ]
    head = ["film", "predicted", *(f"p {name}" for name in classes)]
    drawn = ax.table(shown, colLabels=head, loc="center", cellLoc="left", edges="horizontal")
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(9.5)
    drawn.scale(1, 1.7)
    drawn.auto_set_column_width(range(len(head)))
    for column in range(len(head)):
        drawn[0, column].set_text_props(weight="bold")
        drawn[list(table.index).index(row) + 1, column].set_facecolor("#e5f1f8")
        drawn[list(table.index).index(row) + 1, column].visible_edges = "closed"
    ax.set_title("Worklist: least likely normal first", fontsize=11)
    ax.axis("off")


def main(run: str) -> None:
    plots.use_style()
    model, metadata = load_checkpoint(Path(run) / "model.safetensors")
    classes = metadata["classes"]
    pixels, lesions = draw_films(metadata["image_size"])
    probabilities = evaluation.predictor(model, metadata["temperature"])(pixels)
    table = worklist(probabilities, classes)
    row = int(np.argmax(probabilities[:, classes.index("COVID")]))
    target = probabilities[[row]].argmax(axis=1)
    map_ = explain.fine_map(
        model, pixels[[row]], target, LAYERS, BLUR, classes.index("Normal"), None
    )[0]
    figure = plt.figure(figsize=(12, 3.9))
    film, seen, listed = figure.subplots(1, 3, width_ratios=[1, 1, 2])
    film.imshow(pixels[row], cmap="gray", vmin=0, vmax=255)
    film.set_title(f"{table['film'][row].capitalize()}", fontsize=11)
    seen.imshow(pixels[row], cmap="gray", vmin=0, vmax=255)
    seen.imshow(np.maximum(map_, 0), cmap="cividis", alpha=0.55)
    seen.contour(lesions[row], levels=[0.5], colors=plots.CLASS_COLOURS["COVID"])
    seen.set_title("Where the model looks; lesion outlined", fontsize=11)
    for ax in (film, seen):
        ax.set(xticks=[], yticks=[])
    draw_list(listed, table, classes, row)
    plots.mark_synthetic(figure, "phantom")
    figure.savefig(TARGET, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main(sys.argv[1])
