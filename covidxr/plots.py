"""Every figure of the course: each function takes `ax=None`, draws on it and returns it.

Classes keep one colour, marker and line style throughout (the colour-blind-safe palette of Okabe
and Ito, 2008), so that meaning never rests on colour alone.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from sklearn import metrics as skm

from covidxr import InputError, alt_text, datasets
from covidxr.calibration import reliability_bins

BLACK, GREY = "#000000", "#767676"
CLASS_COLOURS = {"Normal": "#0072B2", "Lung_Opacity": "#009E73", "COVID": "#D55E00"}
OTHER_COLOURS = ("#CC79A7", "#E69F00", "#56B4E9", BLACK)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1, 1, 1)))
LABELS = {
    "age_years": "age (years)",
    "extent": "extent (0–8)",
    "opacity": "opacity (0–6)",
    "study_day": "study day (days)",
    "macro_f1": "macro F1",
    "ppv": "PPV",
    "npv": "NPV",
    "auroc": "AUROC",
}


def use_style() -> None:
    """Set matplotlib's defaults for the notebooks, and let them store an alt text for figures.

    Legible fonts, fitted layout, light grid.
    """
    alt_text.register()
    plt.rcParams.update(
        {
            "figure.dpi": 100,
            "figure.figsize": (6.4, 4.4),
            "figure.constrained_layout.use": True,
            "font.size": 11,
            "axes.titlesize": 12,
            "axes.titlelocation": "left",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "legend.fontsize": 9,
            "legend.frameon": False,
        }
    )


def mark_synthetic(figure_or_ax, dataset: str) -> None:
    """Write "synthetic phantom" on a figure or an axes when `dataset` is "phantom"."""
    if dataset != "phantom":
        return
    style = {"ha": "right", "fontsize": 8, "fontstyle": "italic", "color": GREY}
    if isinstance(figure_or_ax, plt.Figure):
        figure_or_ax.supxlabel(alt_text.MARK, x=0.99, **style)
        return
    figure_or_ax.annotate(
        alt_text.MARK,
        xy=(1, 0.5),
        xytext=(12, 0),
        xycoords="axes fraction",
        textcoords="offset points",
        rotation=270,
        va="center",
        **style,
    )


def _styles(names: Sequence[str]) -> dict[str, dict]:
    """Colour, marker and line style of each name; known classes keep theirs in every figure."""
    others = [name for name in names if name not in CLASS_COLOURS]
    places = {name: i for i, name in enumerate([*CLASS_COLOURS, *others])}
    palette = (*CLASS_COLOURS.values(), *OTHER_COLOURS)
    return {
        name: {
            "color": palette[places[name] % len(palette)],
            "marker": MARKERS[places[name] % len(MARKERS)],
            "linestyle": LINES[places[name] % len(LINES)],
        }
        for name in names
    }


def _axes(ax, title: str | None, xlabel: str, ylabel: str):
    ax = plt.subplots()[1] if ax is None else ax
    ax.set(title=title or "", xlabel=xlabel, ylabel=ylabel)
    return ax


def _table_of_counts(ax, counts: np.ndarray, rows, columns):
    """Heat map of each row's shares, 0 to 1, with count and share in every cell."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    texts = np.array(
        [f"{k:,}\n{share:.0%}" for k, share in zip(counts.flat, shares.flat, strict=True)]
    )
    style = {"cmap": "Blues", "vmin": 0, "vmax": 1, "cbar": False}
    labels = {"annot": texts.reshape(counts.shape), "fmt": ""}
    names = {"xlabel": ax.get_xlabel(), "ylabel": ax.get_ylabel()}
    sns.heatmap(shares, ax=ax, xticklabels=columns, yticklabels=rows, **labels, **style)
    ax.set(**names)  # seaborn clears them
    ax.tick_params(length=0, labelrotation=0)
    return ax


def confusion_matrix(y_true, predicted, classes: Sequence[str], ax=None, title=None):
    """Counts, and shares of each true class, from class indices `y_true`, `predicted` (N,)."""
    counts = skm.confusion_matrix(y_true, predicted, labels=range(len(classes)))
    n = counts.sum(axis=1)
    ax = _axes(
        ax, f"{title or 'Confusion matrix'} (n = {n.sum():,})", "predicted class", "true class"
    )
    rows = [f"{name}\nn = {k:,}" for name, k in zip(classes, n, strict=True)]
    return _table_of_counts(ax, counts, rows, classes)


def class_by_source(manifest: pd.DataFrame, ax=None, title=None):
    """Images per class (rows) and source (columns), shaded by the share of the class."""
    counts = datasets.summary(manifest).T
    ax = _axes(ax, f"{title or 'Class by source'} (n = {len(manifest):,})", "source", "class")
    return _table_of_counts(ax, counts.to_numpy(), counts.index, counts.columns)


def _figure(frame: pd.DataFrame, metric: str, name: str) -> str:
    """ "0.951 [0.930–0.968]" of one row of classification_metrics."""
    row = frame[(frame["metric"] == metric) & (frame["class"] == name)].iloc[0]
    if pd.isna(row["value"]):
        return f"NA: {row['reason']}"
    if pd.isna(row["low"]):
        return f"{row['value']:.3f} [interval NA]"
    return f"{row['value']:.3f} [{row['low']:.3f}–{row['high']:.3f}]"


def roc_curves(
    y_true, probabilities, classes: Sequence[str], metrics: pd.DataFrame, ax=None, title=None
):
    """ROC of each class against the rest; `metrics` (classification_metrics) gives the legend."""
    y, p = np.asarray(y_true), np.asarray(probabilities)
    heading = f"{title or 'ROC, one class against the rest'} (n = {len(y):,})"
    ax = _axes(ax, heading, "1 − specificity", "sensitivity")
    ax.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, label="chance")
    for c, (name, style) in enumerate(_styles(classes).items()):
        label = f"{name}, n = {np.sum(y == c):,}: AUROC {_figure(metrics, 'auroc', name)}"
        x, h = ([], []) if len(np.unique(y == c)) < 2 else skm.roc_curve(y == c, p[:, c])[:2]
        ax.plot(x, h, **style, markevery=0.1, markersize=5, label=label)
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    ax.legend(loc="lower right")
    return ax


def precision_recall_curves(
    y_true, probabilities, classes: Sequence[str], metrics: pd.DataFrame, ax=None, title=None
):
    """Precision against recall of each class; its prevalence (chance) is a thin line."""
    y, p = np.asarray(y_true), np.asarray(probabilities)
    heading = f"{title or 'Precision and recall'} (n = {len(y):,})"
    ax = _axes(ax, heading, "recall (sensitivity)", "precision (PPV)")
    for c, (name, style) in enumerate(_styles(classes).items()):
        label = f"{name}, n = {np.sum(y == c):,}: AP {_figure(metrics, 'average_precision', name)}"
        r, h = [], []
        if len(np.unique(y == c)) == 2:
            h, r, _ = skm.precision_recall_curve(y == c, p[:, c])
            ax.axhline(np.mean(y == c), color=style["color"], linestyle=":", linewidth=0.8)
        ax.plot(r, h, **style, markevery=0.1, markersize=5, label=label)
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    ax.legend(loc="lower left", title="dotted: chance (prevalence)", title_fontsize=9)
    return ax


def reliability_diagram(y_true, probabilities, n_bins: int = 15, label=None, ax=None, title=None):
    """Accuracy against top-label confidence with Wilson bars; a larger dot holds more images.

    Call it again with `ax` and another `label` to lay "before" and "after" over each other.
    """
    bins = reliability_bins(y_true, probabilities, n_bins)
    again = ax is not None and ax.get_legend() is not None
    if not again:
        heading = f"{title or 'Reliability'} (n = {bins['n'].sum():,})"
        ax = _axes(ax, heading, "confidence (top-label probability)", "accuracy")
        ax.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, label="perfect calibration")
    drawn = len(ax.get_legend_handles_labels()[0]) - 1
    colour, marker = list(CLASS_COLOURS.values())[drawn % 3], MARKERS[drawn % len(MARKERS)]
    error = np.abs(bins[["low", "high"]].sub(bins["accuracy"], axis=0)).to_numpy().T
    style = {"color": colour, "alpha": 0.85}
    ax.errorbar(bins["confidence"], bins["accuracy"], error, fmt="none", linewidth=1, **style)
    size = 12 + 150 * bins["n"] / bins["n"].max()
    label = f"{label or 'model'}: dot area by n, {bins['n'].min():,} to {bins['n'].max():,} a bin"
    ax.scatter(bins["confidence"], bins["accuracy"], size, marker=marker, label=label, **style)
    ax.set(xlim=(0, 1.02), ylim=(0, 1.05))
    ax.legend(loc="lower right")
    return ax


def learning_curves(
    history: pd.DataFrame | Mapping[str, pd.DataFrame],
    columns: Sequence[str] = ("train_loss", "val_loss"),
    ylabel: str = "cross-entropy (nats)",
    ax=None,
    title=None,
):
    """`columns` of one history, or of several by name, per epoch (column `epoch`).

    A run has its own colour and marker, a column its own line: the last one solid.
    """
    runs = history if isinstance(history, Mapping) else {"": history}
    ax = _axes(ax, title or "Learning curves", "epoch", ylabel)
    palette = (*CLASS_COLOURS.values(), *OTHER_COLOURS)
    for i, (name, frame) in enumerate(runs.items()):
        for j, column in enumerate(columns):
            ax.plot(
                frame["epoch"],
                frame[column],
                color=palette[i % len(palette)],
                marker=MARKERS[i % len(MARKERS)],
                linestyle=LINES[len(columns) - 1 - j],
                markersize=4,
                label=f"{name} {column.replace('_', ' ')}, n = {len(frame)} epochs".strip(),
            )
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend()
    return ax


def histogram_by_class(manifest: pd.DataFrame, column: str, bins: int = 20, ax=None, title=None):
    """Share of each class's images per bin of a numeric column; the legend counts the unknown."""
    label = LABELS.get(column, column.replace("_", " "))
    ax = _axes(ax, None, label, "share of the class's images")
    values = pd.to_numeric(manifest[column]).astype("Float64")
    ax.set_title(f"{title or label.capitalize()} (n = {values.notna().sum():,} known)")
    if values.isna().all():
        ax.text(0.5, 0.5, f"unknown for all {len(values):,} images", ha="center", va="center")
        return ax
    edges = np.histogram_bin_edges(values.dropna().to_numpy(float), bins)
    for name, style in _styles(datasets.classes_of(manifest)).items():
        mine = values[manifest["label"] == name]
        known = mine.dropna().to_numpy(float)
        shares = np.histogram(known, edges)[0] / max(len(known), 1)
        unknown = f", {mine.isna().sum():,} unknown" if mine.isna().any() else ""
        line = {"color": style["color"], "linestyle": style["linestyle"], "linewidth": 1.8}
        ax.stairs(shares, edges, label=f"{name}, n = {len(known):,}{unknown}", **line)
    ax.set_ylim(0, 1.3 * ax.dataLim.ymax)  # room for the legend
    ax.legend(loc="upper left")
    return ax


def image_grid(images, titles, columns: int = 4, axes=None):
    """Grey images (H, W) with a title each; returns the array of axes.

    The images share one grey scale, so that their brightness can be compared.
    """
    if axes is None:
        columns = min(columns, len(images))
        rows = -(-len(images) // columns)
        axes = plt.subplots(rows, columns, figsize=(2.4 * columns, 2.6 * rows), squeeze=False)[1]
    axes = np.asarray(axes)
    if len(titles) != len(images) or axes.size < len(images):
        raise InputError(f"{len(images)} images, {len(titles)} titles, {axes.size} axes")
    low, high = min(np.min(i) for i in images), max(np.max(i) for i in images)
    for ax in axes.flat:
        ax.axis("off")
    for ax, image, title in zip(axes.flat, images, titles, strict=False):
        ax.imshow(image, cmap="gray", vmin=low, vmax=high)
        ax.set_title(title, fontsize=10, loc="center")
    return axes


def average_images(averages: Mapping[str, np.ndarray], counts: Mapping[str, int], axes=None):
    """Average image (H, W) of each class in a row, with the images it averages; returns axes."""
    titles = [f"{name}, n = {counts[name]:,}" for name in averages]
    return image_grid(list(averages.values()), titles, columns=len(averages), axes=axes)


def net_benefit(curve: pd.DataFrame, n: int, ax=None, title=None):
    """Decision curve from calibration.net_benefit on `n` images, with treat-all and treat-none."""
    heading = f"{title or 'Net benefit'} (n = {n:,})"
    ax = _axes(ax, heading, "threshold probability", "net benefit (true positives per image)")
    ax.plot(curve["threshold"], curve["model"], color=CLASS_COLOURS["COVID"], label="model")
    ax.plot(curve["threshold"], curve["treat_all"], color=GREY, linestyle="--", label="treat all")
    ax.plot(curve["threshold"], curve["treat_none"], color=BLACK, linestyle=":", label="treat none")
    top = max(curve["model"].max(), curve["treat_all"].max())
    ax.set_ylim(-0.25 * top, 1.1 * top)
    ax.legend()
    return ax


def abstention(curve: pd.DataFrame, ax=None, title=None):
    """Accuracy with its Wilson band against coverage, from calibration.abstention_curve."""
    heading = f"{title or 'Abstention'} (n = {curve['n'].max():,} at full coverage)"
    ax = _axes(ax, heading, "coverage (share of images answered)", "accuracy on those")
    colour = CLASS_COLOURS["Normal"]
    ax.fill_between(
        curve["coverage"],
        curve["low"],
        curve["high"],
        color=colour,
        alpha=0.2,
        label="95% interval",
    )
    ax.plot(curve["coverage"], curve["accuracy"], color=colour, label="accuracy")
    ax.set_ylim(min(0.5, curve["accuracy"].min()), 1.01)
    ax.legend(loc="lower left")
    return ax


def forest(metrics: pd.DataFrame, ax=None, title=None):
    """Dot and 95% interval of every row of classification_metrics; NA rows are written out."""
    rows = metrics.reset_index(drop=True)
    if ax is None:
        ax = plt.subplots(figsize=(6.4, 0.6 + 0.3 * len(rows)))[1]
    heading = f"{title or 'Figures of merit'} (n = {rows['n'].max():,})"
    ax = _axes(ax, heading, "value, with 95% interval", "")
    styles = _styles([name for name in rows["class"].dropna().unique()])
    for i, row in rows.iterrows():
        style = {"color": BLACK, "marker": "*"} if pd.isna(row["class"]) else styles[row["class"]]
        if pd.isna(row["value"]):
            ax.text(0.01, i, f"NA: {row['reason']}", va="center", fontsize=8, color=GREY)
            continue
        ax.plot(row["value"], i, color=style["color"], marker=style["marker"], linestyle="")
        if pd.notna(row["low"]):
            ax.plot([row["low"], row["high"]], [i, i], color=style["color"])
    metric = rows["metric"].map(lambda name: LABELS.get(name, name.replace("_", " ")))
    names = metric + rows["class"].radd(" ").fillna("")
    ax.set_yticks(range(len(rows)), names + ", n = " + rows["n"].map("{:,}".format))
    ax.set(xlim=(0, 1.02), ylim=(len(rows) - 0.5, -0.5))
    ax.grid(axis="x", alpha=0.3)
    return ax


def intervals(table: pd.DataFrame, by: str, series: str, ax=None, title=None):
    """Dot and 95% interval of every row of a table of covidxr.shift (one metric), a line per `by`.

    The values of the column `series` have a colour and marker each; a short grey stroke marks
    `chance` where it is known. A row that is NA is written out.
    """
    kinds = table.groupby(by, sort=False)[series].unique()
    if ax is None:
        ax = plt.subplots(figsize=(6.8, 1.4 + 0.3 * kinds.map(len).sum()))[1]
    metric = LABELS.get(table["metric"].iloc[0], table["metric"].iloc[0].replace("_", " "))
    ax = _axes(ax, title, f"{metric}, with 95% interval", "")
    styles, drawn = _styles(list(dict.fromkeys(table[series]))), set()
    for _, row in table.iterrows():
        own = list(kinds[row[by]])
        y = kinds.index.get_loc(row[by]) + 0.7 * ((own.index(row[series]) + 0.5) / len(own) - 0.5)
        style = {key: styles[row[series]][key] for key in ("color", "marker")}
        if pd.isna(row["value"]):
            ax.text(0.01, y, f"NA: {row['reason']}", va="center", fontsize=8, color=GREY)
            continue
        label = None if row[series] in drawn else row[series]
        drawn.add(row[series])
        ax.plot(row["value"], y, linestyle="", label=label, **style)
        if pd.notna(row["low"]):
            ax.plot([row["low"], row["high"]], [y, y], color=style["color"])
        if pd.notna(row["chance"]):
            ax.plot([row["chance"]] * 2, [y - 0.15, y + 0.15], color=GREY, linewidth=1.5)
        ax.text(1.03, y, f"n = {row['n']:,}", va="center", fontsize=8, color=GREY)
    ax.set_yticks(range(len(kinds)), kinds.index)
    left = pd.Series([0, table["low"].min()]).min() - 0.03
    ax.set(xlim=(left, 1.02), ylim=(len(kinds) - 0.5, -0.5))
    ax.grid(axis="x", alpha=0.3)
    if len(drawn) > 1:
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, 0), "borderaxespad": 4}
        ax.legend(ncols=len(drawn), **below)
    return ax


def saliency(films, maps, lesions=None, titles=None, axes=None):
    """Films (N, S, S) in the upper row, their maps over them below; returns the axes (2, N).

    The map's positive evidence is shown (cividis, each map on its own scale) with a cross on its
    highest pixel. Lesion masks, where there are any, are filled above and outlined below.
    """
    n = len(films)
    if axes is None:
        axes = plt.subplots(2, n, figsize=(2.4 * n, 5.2), squeeze=False)[1]
    for column in range(n):
        above, below = axes[:, column]
        for ax in (above, below):
            ax.imshow(films[column], cmap="gray", vmin=0, vmax=255)
            ax.axis("off")
        evidence = np.maximum(maps[column], 0)
        below.imshow(evidence, cmap="cividis", alpha=0.55)
        y, x = np.unravel_index(np.argmax(maps[column]), evidence.shape)
        below.plot(x, y, marker="x", color="white", markeredgewidth=2)
        if lesions is not None and lesions[column].any():
            colour = CLASS_COLOURS["COVID"]
            above.contourf(lesions[column], levels=[0.5, 1], colors=[colour], alpha=0.4)
            below.contour(lesions[column], levels=[0.5], colors=[colour], linewidths=1.2)
        if titles is not None:
            above.set_title(list(titles)[column], fontsize=10, loc="center")
    return axes


def perturbation(curves: Mapping[str, Mapping[str, np.ndarray]], kind: str, ax=None, title=None):
    """Mean probability of the class against the share of pixels changed, one line per order.

    `curves` holds what explain.perturb returns, by name; `kind` is "deletion" or "insertion".
    """
    n = len(next(iter(curves.values()))[kind])
    what = {"deletion": "blurred", "insertion": "brought back"}[kind]
    heading = f"{title or kind.capitalize()} (n = {n:,})"
    ax = _axes(ax, heading, f"share of pixels {what}", "mean probability of the class")
    for i, (name, pair) in enumerate(curves.items()):
        style = {"color": list(CLASS_COLOURS.values())[-1 - i], "linestyle": LINES[i]}
        values = pair[kind].mean(axis=0)
        shares = np.linspace(0, 1, len(values))
        ax.plot(shares, values, marker=MARKERS[i], markersize=4, label=name, **style)
    ax.set_ylim(0, 1)
    ax.legend()
    return ax


def sanity(scores: pd.DataFrame, reference: Mapping | None = None, ax=None, title=None):
    """Similarity of maps per stage randomised (columns value, low, high, n; stages as index).

    `reference` holds a value and its name under "value" and "name": how alike unrelated maps are.
    """
    heading = f"{title or 'Maps of randomised models'} (n = {int(scores['n'].max()):,})"
    ax = _axes(ax, heading, "random weights from the head down to", "SSIM with the model's map")
    x = range(len(scores))
    error = np.abs(scores[["low", "high"]].sub(scores["value"], axis=0)).to_numpy(float).T
    ax.errorbar(x, scores["value"], error, color=CLASS_COLOURS["Normal"], marker="o", capsize=3)
    ax.axhline(1, color=GREY, linewidth=0.8)
    if reference is not None:
        ax.axhline(reference["value"], color=BLACK, linestyle="--", label=reference["name"])
        ax.legend()
    ax.set_xticks(list(x), scores.index)
    ax.set_ylim(min(0, scores["low"].min()) - 0.02, 1.05)
    return ax


def estimates(truth, found, labels, ax=None, title=None):
    """Estimated against true extent of each film (N,), a marker a class, with jitter."""
    frame = pd.DataFrame({"x": truth, "y": found}).astype(float).assign(label=np.asarray(labels))
    frame = frame.dropna(subset=["x", "y"])
    heading = f"{title or 'Estimated and true extent'} (n = {len(frame):,})"
    ax = _axes(ax, heading, f"true {LABELS['extent']}", f"estimated {LABELS['extent']}")
    ax.plot([0, 8], [0, 8], color=GREY, linewidth=1, linestyle="--", label="equal")
    shift = np.random.default_rng(0).uniform(-0.18, 0.18, len(frame))
    for name, style in _styles(list(dict.fromkeys(frame["label"]))).items():
        mine = (frame["label"] == name).to_numpy()
        look = {"marker": style["marker"], "color": style["color"], "alpha": 0.7}
        ax.scatter(frame["x"][mine] + shift[mine], frame["y"][mine], 16, label=name, **look)
    ax.set(xlim=(-0.4, 8.4), ylim=(-0.4, 8.4))
    ax.legend()
    return ax


def bland_altman(truth, found, ax=None, title=None):
    """Difference against mean of two scores (N,), after Bland & Altman (1986)."""
    pair = pd.DataFrame({"truth": truth, "found": found}).astype(float).dropna()
    difference, mean = pair["found"] - pair["truth"], pair.mean(axis=1)
    bias, width = difference.mean(), 1.96 * difference.std(ddof=0)
    heading = title or f"Bias {bias:+.2f}, limits {bias - width:+.2f} to {bias + width:+.2f}"
    ax = _axes(
        ax,
        f"{heading} (n = {len(pair):,})",
        "mean of estimated and true extent (0–8)",
        "estimated minus true extent",
    )
    ax.scatter(mean, difference, 14, color=CLASS_COLOURS["Normal"], alpha=0.5)
    ax.axhline(bias, color=BLACK, label="bias")
    for edge, label in ((bias - width, "95% limits"), (bias + width, None)):
        ax.axhline(edge, color=BLACK, linestyle="--", label=label)
    ax.legend()
    return ax


def timeline(films: pd.DataFrame, course, ax=None, title=None):
    """A patient's extent over days: films, line with 95% band, and the limit around its start.

    Args:
        films: study_day, extent, extent_sd and, where it is known, the `true` extent.
        course: what progression.course gives for them.
    """
    heading = title or f"{course.call}: {course.change:+.1f}, limit {course.limit:.1f}"
    ax = _axes(ax, f"{heading} (n = {len(films)} films)", "study day", LABELS["extent"])
    days = np.linspace(course.first_day, course.last_day, 50)
    level, width = course.at(days)
    start = level[0]
    ax.fill_between(
        days, start - course.limit, start + course.limit, color=GREY, alpha=0.15, label="no change"
    )
    colour = CLASS_COLOURS["Normal"]
    ax.fill_between(days, level - width, level + width, color=colour, alpha=0.2, label="95% band")
    ax.plot(days, level, color=colour, label="line through the films")
    error = 1.96 * films["extent_sd"].to_numpy(float)
    style = {"fmt": "o", "color": BLACK, "elinewidth": 0.8, "label": "films, with 95% range"}
    ax.errorbar(films["study_day"], films["extent"], error, **style)
    if "true" in films:
        style = {"color": CLASS_COLOURS["COVID"], "marker": "x", "linestyle": ":", "label": "truth"}
        ax.plot(films["study_day"], films["true"], **style)
    ax.set_ylim(-0.3, 8.3)
    ax.legend()
    return ax


def waits(summary: pd.DataFrame, ax=None, title=None):
    """Minutes waited by the sickest tenth in each order, from waiting.summary.

    The broad pale stroke holds 95% of single runs; the thin one is the interval of their mean.
    """
    heading = f"{title or 'The sickest tenth'} (n = {summary['n'].iloc[0]:,} runs)"
    ax = _axes(ax, heading, "minutes until reading starts, sickest tenth (log)", "")
    colours = (GREY, CLASS_COLOURS["Normal"], CLASS_COLOURS["Lung_Opacity"], CLASS_COLOURS["COVID"])
    for i, row in enumerate(summary.itertuples()):
        ax.plot([row.run_low, row.run_high], [i, i], color=colours[i], alpha=0.3, linewidth=6)
        error = [[row.minutes - row.low], [row.high - row.minutes]]
        ax.errorbar(row.minutes, i, xerr=error, fmt=MARKERS[i], color=colours[i], capsize=4)
        text = f"{row.minutes:.1f} [{row.low:.1f}, {row.high:.1f}] min, × {row.ratio:.2f}"
        ax.annotate(text, (row.minutes, i), (0, 9), textcoords="offset points", ha="center")
    ax.set_xscale("log")
    ax.margins(x=0.3)  # room for the text
    ax.set_yticks(range(len(summary)), summary["order"])
    ax.set_ylim(len(summary) - 0.5, -0.7)
    ax.grid(axis="x", alpha=0.3)
    return ax


def triage(worklist: pd.DataFrame, truth, ax=None, title=None):
    """True extent against the place in the worklist; a film in doubt has an open marker.

    Args:
        worklist: from triage.order.
        truth: true extents (N,), row for row; films that were not read, or whose truth is unknown,
            are left out.
    """
    frame = worklist.assign(true=pd.to_numeric(pd.Series(np.asarray(truth), worklist.index)))
    frame = frame[frame["place"].notna() & frame["true"].notna()]
    heading = f"{title or 'Worklist'} (n = {len(frame):,})"
    ax = _axes(ax, heading, "place in the worklist (1 is read first)", f"true {LABELS['extent']}")
    names = dict.fromkeys([*CLASS_COLOURS, *frame["predicted"]])
    names = [name for name in names if (frame["predicted"] == name).any()]
    for name, style in _styles(names).items():
        mine = frame[frame["predicted"] == name]
        for films, face in (
            (mine[mine["to_person"].isna()], style["color"]),
            (mine[mine["to_person"].notna()], "none"),
        ):
            label = f"called {name}, n = {len(mine):,}" if face != "none" else None
            look = {"marker": style["marker"], "edgecolors": style["color"], "facecolors": face}
            ax.scatter(films["place"].astype(int), films["true"], 18, label=label, **look)
    asked = int(frame["to_person"].notna().sum())
    ax.scatter([], [], 18, facecolors="none", edgecolors=BLACK, label=f"in doubt, n = {asked:,}")
    ax.set_ylim(-0.3, 8.3)
    ax.legend()
    return ax
