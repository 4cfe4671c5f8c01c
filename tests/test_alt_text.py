"""What a figure's description says, and that IPython stores it beside the picture."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell

from covidxr import alt_text, plots


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_lines_are_named_with_axes_and_series():
    history = pd.DataFrame({"epoch": [1, 2], "train_loss": [2.0, 1.0], "val_loss": [2.0, 1.5]})
    ax = plots.learning_curves(history, title="It falls")
    plots.mark_synthetic(ax, "phantom")
    text = alt_text.describe(ax.figure)
    assert text.startswith("It falls. cross-entropy (nats) against epoch. Series: train loss")
    assert "val loss, n = 2 epochs" in text and text.endswith("Synthetic phantom.")


def test_cells_of_a_table_are_read_out():
    ax = plots.confusion_matrix([0, 1, 1], [0, 1, 0], ("Normal", "COVID"))
    text = alt_text.describe(ax.figure)
    assert "true class against predicted class" in text
    assert "Rows Normal n = 1, COVID n = 2; columns Normal, COVID" in text
    assert "cells 1 100%, 0 0%, 1 50%, 1 50%." in text and "Synthetic" not in text


def test_pictures_are_counted_by_title_and_colour_bars_left_out():
    axes = plots.image_grid(np.zeros((3, 4, 4)), ["a", "a", "b"])
    figure = axes.flat[0].figure
    figure.suptitle("Three films")
    figure.colorbar(axes.flat[0].images[0], ax=axes)
    plots.mark_synthetic(figure, "phantom")
    assert alt_text.describe(figure) == "Three films. Pictures: 2 × a, b. Synthetic phantom."


def test_rows_of_intervals_are_named():
    figures = {"metric": "accuracy", "value": 0.9, "low": 0.8, "high": 1.0, "n": 5, "chance": 0.5}
    table = pd.DataFrame([figures | {"model": name, "where": "home"} for name in ("A", "B")])
    ax = plots.intervals(table, by="model", series="where")
    assert "Rows: A; B" in alt_text.describe(ax.figure)


def test_ipython_stores_the_description_and_nothing_else_changes(monkeypatch):
    shell = InteractiveShell()
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    alt_text.register()
    shell.display_formatter.formatters["image/png"].for_type(plt.Figure, lambda figure: b"png")
    figure, ax = plt.subplots()
    ax.set_title("One panel")
    data, metadata = shell.display_formatter.format(figure)
    assert data["image/png"] == b"png"
    assert metadata["image/png"] == {"alt": "One panel."}


def test_outside_ipython_nothing_happens(monkeypatch):
    monkeypatch.setattr("IPython.get_ipython", lambda: None)
    alt_text.register()
