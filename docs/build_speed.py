"""Write the speed table and plot of the README and the tables of docs/scaling.md.

All figures come from benchmarks/results.json, which `make bench` writes, and from the published
GPU throughput named below.
"""

import json
from pathlib import Path

import matplotlib.pyplot as plt
from build_readme import ROOT, fill

from covidxr import plots

RESULTS = ROOT / "benchmarks" / "results.json"
AGREEMENT = ROOT / "benchmarks" / "agreement.json"
NAMES = {
    "limit, batch 32": "the hardware's limit: one batch already in memory, batch 32",
    "covidxr, batch 32": "covidxr, batch 32",
    "torchvision, batch 32": "torchvision ImageFolder, 2 workers, float32, batch 32",
    "fastai, batch 32": "fastai vision_learner, its defaults, batch 32",
    "covidxr, batch 10": "covidxr, batch 10",
    "original, batch 10": "the loop this course replaces, batch 10",
    "predict_limit": "the hardware's limit: one batch already in memory",
    "predict": "covidxr predict, files to table",
    "predict_plain": "PIL, float32, one image at a time",
}
SHORT = {"predict_limit": "limit", "predict": "covidxr", "predict_plain": "plain loop"}
# timm's published training throughput of resnet18 at 224 px, AMP, channels last, batch 512, one
# RTX 3090: results/benchmark-train-amp-nhwc-pt112-cu113-rtx3090.csv, commit 5e7d47c.
GPU_IMAGES_PER_SECOND = 3481.78
EPOCHS = 30


def read_results() -> dict:
    """What `make bench` measured, by the precision of covidxr; the fastest precision first."""
    results = json.loads(RESULTS.read_text())
    return dict(sorted(results.items(), key=lambda item: item[0] == "float32"))


def speed_table(results: dict) -> str:
    """Milliseconds an image of every contender, and covidxr's speed beside it."""
    heads = "".join(f" ms an image, {name} | covidxr is |" for name in results)
    lines = [f"| what |{heads}", "|---" * (1 + 2 * len(results)) + "|"]
    for task in ("training", "predicting"):
        for label in next(iter(results.values()))[task]:
            cells = [_cells(result[task], label) for result in results.values()]
            lines.append(f"| {task}: {NAMES[label]} | {' | '.join(cells)} |")
    notes = [_conditions(name, result) for name, result in results.items()]
    return "\n".join(lines) + (
        "\n\nMedians of epochs (or sweeps) in turn, after a first one. " + " ".join(notes) + " "
        "Made by `make bench`.\n\n![Time per image, covidxr beside its peers](docs/benchmark.png)"
    )


def _cells(table: dict, label: str) -> str:
    own = "covidxr, " + label.split(", ")[1] if ", " in label else "predict"
    time = table[label]["ms_per_image"]
    ratio = "" if label == own else f"{time / table[own]['ms_per_image']:.2f} times as fast"
    return f"{time:.2f} | {ratio}"


def _conditions(name: str, result: dict) -> str:
    versions = ", ".join(f"{package} {number}" for package, number in result["versions"].items())
    images = result["training"]["covidxr, batch 32"]["images"]
    return (
        f"covidxr in {name}: {result['repeats']} repetitions at {result['size']} px on "
        f"{result['cores']} cores ({result['processor']}), {images:,} images to train and "
        f"{result['predicting']['predict']['images']:,} to predict ({images:,} one at a time); "
        f"{versions}."
    )


def growth_table(result: dict) -> str:
    """Cost per image and peak memory as the set grows."""
    size, precision = result["growth_size"], result["precision"]
    lines = [
        f"| task, {precision} | images | ms an image ({size} px) | against 1,000 |",
        "|---|---|---|---|",
    ]
    for label, row in result["growth"].items():
        task = label.split(",")[0]
        base = result["growth"][f"{task}, 1,000 images"]["ms_per_image"]
        change = row["ms_per_image"] / base - 1
        name = {"covidxr": "training epoch", "predict": "predict"}[task]
        lines.append(f"| {name} | {row['images']:,} | {row['ms_per_image']:.3f} | {change:+.1%} |")
    if result["memory"]:
        few, many = result["memory"].values()
        lines += [
            "",
            f"Peak memory of cache building and a training epoch at 128 px: {few:,.0f} MB with "
            f"1,000 images, {many:,.0f} MB with 16,000.",
        ]
    once, frozen = (row["ms_per_image"] for row in result["freezing"].values())
    lines += [
        "",
        f"With a frozen backbone 20 epochs cost {frozen / once:.2f} times one pass of inference "
        f"over the same {result['freezing']['frozen']['images']} images.",
    ]
    step = result["first_step"]
    if step:
        lines += [
            "",
            f"A second start on {step['images']:,} cached images reaches its first training step "
            f"{step['first_step']:.1f} s after the libraries are loaded, which takes "
            f"{step['libraries']:.1f} s.",
        ]
    return "\n".join(lines)


def scale_table(result: dict) -> str:
    """What the cost per image comes to at a million and a hundred million images."""
    size, here = result["size"], result["training"]["covidxr, batch 32"]["ms_per_image"]
    predict = result["predicting"]["predict"]["ms_per_image"]
    gpu = 1e3 / GPU_IMAGES_PER_SECOND
    lines = [f"| {size} px | 1 million images | 100 million images |", "|---|---|---|"]
    for name, per_image, unit in (
        ("image cache on disk, TB", size * size / 1e12, 1),
        ("building the cache or predicting, here, hours", predict / 3.6e6, 1),
        ("one training epoch, here, hours", here / 3.6e6, 1),
        (f"{EPOCHS} epochs on one RTX 3090, hours", EPOCHS * gpu / 3.6e6, 1),
        (f"{EPOCHS} epochs on 64 of them, hours", EPOCHS * gpu / 3.6e6 / 64, 1),
        ("reading that keeps one RTX 3090 busy, MB/s", None, None),
    ):
        if unit:
            cells = [
                f"{per_image * n:,.2g}" if per_image * n < 100 else f"{per_image * n:,.0f}"
                for n in (1e6, 1e8)
            ]
        else:
            cells = [f"{GPU_IMAGES_PER_SECOND * size * size / 1e6:,.0f}"] * 2
        lines.append(f"| {name} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


def agreement_table() -> str:
    """Difference in test accuracy between variants of one training, with its interval."""
    rows = json.loads(AGREEMENT.read_text())
    lines = [
        "| against one process in float32 | figure | difference [95% interval] | n |",
        "|---|---|---|---|",
    ]
    for row in rows:
        known = row["low"] is not None
        interval = f"[{row['low']:+.3f}, {row['high']:+.3f}]" if known else f"({row['reason']})"
        metric = row["metric"].replace("_", " ").replace("f1", "F1")
        lines.append(
            f"| {row['variant']} | {metric} | {row['difference']:+.3f} {interval} | {row['n']:,} |"
        )
    if {row["variant"] for row in rows} == {"two processes"}:
        lines += ["", "A faster precision than float32 was not at hand when this was measured."]
    return "\n".join(lines)


def plot(results: dict, path: Path) -> None:
    """Horizontal bars, the limit first; a row of panels for each precision."""
    plots.use_style()
    fig, grid = plt.subplots(
        len(results), 2, figsize=(11, 2.8 * len(results)), layout="constrained", squeeze=False
    )
    for axes, (precision, result) in zip(grid, results.items(), strict=True):
        for ax, task in zip(axes, ("training", "predicting"), strict=True):
            times = {SHORT.get(label, label): row for label, row in result[task].items()}
            times = {label: row["ms_per_image"] for label, row in times.items()}
            limit, own = list(times.values())[:2]
            ours = [label.startswith("covidxr") for label in times]
            ax.barh(
                list(times), times.values(), color=["#0072B2" if o else "#999999" for o in ours]
            )
            ax.invert_yaxis()
            ax.set_xlabel(f"milliseconds an image at {result['size']} px (median; n in the text)")
            ax.set_title(f"{task.capitalize()} in {precision} at {limit / own:.2f} of the limit")
    fig.savefig(path, dpi=100)


def main() -> None:
    results = read_results()
    fastest = next(iter(results.values()))
    growth = "\n\n".join(growth_table(result) for result in results.values())
    readme, scaling = ROOT / "README.md", ROOT / "docs" / "scaling.md"
    readme.write_text(fill(readme.read_text(), "speed", speed_table(results)))
    text = fill(scaling.read_text(), "growth", growth)
    text = fill(text, "agreement", agreement_table())
    scaling.write_text(fill(text, "scale", scale_table(fastest)))
    plot(results, ROOT / "docs" / "benchmark.png")


if __name__ == "__main__":
    main()
