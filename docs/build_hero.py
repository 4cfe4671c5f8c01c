"""Draw docs/hero.png from phantoms and a model: a film, where the model looks, and a worklist.

`build_hero.py CHECKPOINT` takes the `model.safetensors` of a run of 128 pixels or more; notebook 05
makes one. The films are of a seed that no run uses, two of each class.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

from covidxr import explain, phantom, plots, runs, triage
from covidxr.models import load_checkpoint

TARGET = Path(__file__).resolve().parent / "hero.png"
SEED = 2020
LAYERS, BLUR = ("layer2", "layer3"), 0.09  # as in notebook 05


def draw_films(size: int) -> tuple[list[phantom.Film], np.ndarray]:
    """Two phantoms of each class, and the pixels (N, S, S) of sixteen other normal ones."""
    patients = pd.Series(phantom.plan(120, seed=SEED))
    labels = patients.map(lambda patient: patient.label)
    films = [phantom.render(p, image_size=size) for p in patients.groupby(labels).head(2)]
    normal = patients[labels == "Normal"][2:18]
    return films, np.stack([phantom.render(p, image_size=size).image for p in normal])


def worklist(films: list[phantom.Film], model, metadata: dict) -> pd.DataFrame:
    """The films as they would be read, most urgent first; `row` is the film's number."""
    pixels = torch.from_numpy(np.stack([film.image for film in films]))[:, None]
    with torch.inference_mode():
        outputs = model.outputs(pixels).numpy()
    rows = pd.DataFrame({"image_path": range(len(films)), "patient_id": pd.NA, "label": pd.NA})
    table = triage.order(runs.predictions_table(rows, outputs, metadata))
    return pd.DataFrame(
        {
            "row": table["image_path"],
            "place": table["place"].astype(str),
            "film": [f"phantom {number + 1}" for number in table["image_path"]],
            "called": table["predicted"],
            "urgency": table["urgency"].map("{:.2f}".format),
            "extent of 8": [
                f"{film.extent:.1f} ± {1.96 * film.extent_sd:.1f}" for film in table.itertuples()
            ],
            "true extent": [f"{films[n].truth['extent']:.0f}" for n in table["image_path"]],
            "truth": [films[n].truth["label"] for n in table["image_path"]],
        }
    )


def draw_list(ax, table: pd.DataFrame, row: int) -> None:
    """The worklist as a table; `row` is the film shown beside it."""
    shown = table.drop(columns="row")
    drawn = ax.table(
        shown.to_numpy(), colLabels=list(shown.columns), loc="center", edges="horizontal"
    )
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(9.5)
    drawn.scale(1, 1.7)
    drawn.auto_set_column_width(range(shown.shape[1]))
    for column in range(shown.shape[1]):
        drawn[0, column].set_text_props(weight="bold")
        drawn[list(table["row"]).index(row) + 1, column].set_text_props(weight="bold")
    ax.set_title("Worklist, most urgent first; bold: this film", fontsize=11, y=0.88)
    ax.axis("off")


def main(checkpoint: str) -> None:
    plots.use_style()
    model, metadata = load_checkpoint(checkpoint)
    classes = metadata["classes"]
    films, normal = draw_films(metadata["image_size"])
    pixels = np.stack([film.image for film in films])
    table = worklist(films, model, metadata)
    row = int(table.loc[table["called"] == "COVID", "row"].iloc[0])
    shown, target = pixels[[row]], np.array([classes.index("COVID")])
    against = classes.index("Normal")
    seen = explain.fine_map(model, shown, target, LAYERS, BLUR, against, normal)[0]
    figure = plt.figure(figsize=(13, 3.9))
    left, middle, right = figure.subplots(1, 3, width_ratios=[1, 1, 2.2])
    for ax in (left, middle):
        ax.imshow(pixels[row], cmap="gray", vmin=0, vmax=255)
        ax.axis("off")
    left.set_title(f"Phantom {row + 1}", fontsize=11)
    middle.imshow(np.maximum(seen, 0), cmap="cividis", alpha=0.55)
    middle.contour(films[row].lesion, levels=[0.5], colors=plots.CLASS_COLOURS["COVID"])
    middle.set_title("Where the model looks; lesion outlined", fontsize=11)
    draw_list(right, table, row)
    plots.mark_synthetic(figure, "phantom")
    figure.savefig(TARGET, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main(sys.argv[1])
