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
NAMES = {
    "limit, batch 32": "limit: one batch already in memory, batch 32",
    "covidxr, batch 32": "covidxr, batch 32",
    "torchvision, batch 32": "torchvision ImageFolder, 2 workers, float32, batch 32",
    "fastai, batch 32": "fastai vision_learner, its defaults, batch 32",
    "covidxr, batch 10": "covidxr, batch 10",
    "original, batch 10": "the loop this course replaces, batch 10",
    "predict_limit": "limit: one batch already in memory",
    "predict": "covidxr predict, files to table",
    "predict_plain": "PIL, float32, one image at a time",
}
# timm's published training throughput of resnet18 at 224 px, AMP, channels last, batch 512, one
# RTX 3090: results/benchmark-train-amp-nhwc-pt112-cu113-rtx3090.csv, commit 5e7d47c.
GPU_IMAGES_PER_SECOND = 3481.78
EPOCHS = 30


def read_results() -> dict:
    return json.loads(RESULTS.read_text())


def speed_table(results: dict) -> str:
    """Milliseconds an image of every contender, and the ratios that the design asks for."""
    lines = ["| what | ms an image | images | covidxr is |", "|---|---|---|---|"]
    for task, own in (("training", "covidxr"), ("predicting", "predict")):
        table = results[task]
        for label, row in table.items():
            batch = f", {label.split(', ')[1]}" if ", " in label else ""
            ratio = row["ms_per_image"] / table[own + batch]["ms_per_image"]
            note = "" if label == own + batch else f"{ratio:.2f} times as fast"
            time = f"{row['ms_per_image']:.2f} | {row['images']:,}"
            lines.append(f"| {task}: {NAMES[label]} | {time} | {note} |")
    cores, size = results["cores"], results["size"]
    versions = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    return "\n".join(lines) + (
        f"\n\nMedians of {results['repeats']} epochs (or sweeps) in turn, after a first one, at "
        f"{size} px on {cores} cores ({results['processor']}), covidxr in {results['precision']}; "
        f"{versions}. Made by `make bench`.\n\n![Time per image, covidxr beside its peers]"
        "(docs/benchmark.png)"
    )


def growth_table(results: dict) -> str:
    """Cost per image and peak memory as the set grows."""
    size = results["growth_size"]
    lines = [f"| task | images | ms an image ({size} px) | against 1,000 |", "|---|---|---|---|"]
    for label, row in results["growth"].items():
        task = label.split(",")[0]
        base = results["growth"][f"{task}, 1,000 images"]["ms_per_image"]
        change = row["ms_per_image"] / base - 1
        name = {"covidxr": "training epoch", "predict": "predict"}[task]
        lines.append(f"| {name} | {row['images']:,} | {row['ms_per_image']:.3f} | {change:+.1%} |")
    few, many = results["memory"].values()
    lines += [
        "",
        f"Peak memory of cache building and a training epoch at 128 px: {few:,.0f} MB with 1,000 "
        f"images, {many:,.0f} MB with 16,000.",
    ]
    once, frozen = (row["ms_per_image"] for row in results["freezing"].values())
    lines += [
        "",
        f"With a frozen backbone 20 epochs cost {frozen / once:.2f} times one pass of inference "
        f"over the same {results['freezing']['frozen']['images']} images.",
    ]
    step = results["first_step"]
    if step:
        lines += [
            "",
            f"A second start on {step['images']:,} cached images reaches its first training step "
            f"{step['first_step']:.1f} s after the libraries are loaded, which takes "
            f"{step['libraries']:.1f} s.",
        ]
    return "\n".join(lines)


def scale_table(results: dict) -> str:
    """What the cost per image comes to at a million and a hundred million images."""
    size, here = results["size"], results["training"]["covidxr, batch 32"]["ms_per_image"]
    predict = results["predicting"]["predict"]["ms_per_image"]
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
    path = ROOT / "benchmarks" / "agreement.json"
    if not path.exists():
        return "Not measured yet; `make bench` does it."
    rows = json.loads(path.read_text())
    lines = [
        f"| against one process in {rows[0]['default']} | figure | difference [95% interval] | n |",
        "|---|---|---|---|",
    ]
    for row in rows:
        interval = f"{row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"
        metric = row["metric"].replace("_", " ").replace("f1", "F1")
        lines.append(f"| {row['variant']} | {metric} | {interval} | {row['n']:,} |")
    return "\n".join(lines)


def plot(results: dict, path: Path) -> None:
    """Horizontal bars, the limit first."""
    plots.use_style()
    fig, axes = plt.subplots(1, 2, figsize=(11, 2.8), layout="constrained")
    for ax, task in zip(axes, ("training", "predicting"), strict=True):
        table = results[task]
        names = [
            label.replace("predict_plain", "plain loop").replace("predict_", "") for label in table
        ]
        ours = ["covidxr" in label or label == "predict" for label in table]
        times = [row["ms_per_image"] for row in table.values()]
        ax.barh(names, times, color=["#0072B2" if own else "#999999" for own in ours])
        ax.invert_yaxis()
        ax.set_xlabel("milliseconds an image (median; n in the table)")
        ax.set_title(f"{task.capitalize()} at {results['size']} px")
    fig.savefig(path, dpi=100)


def main() -> None:
    results = read_results()
    readme, scaling = ROOT / "README.md", ROOT / "docs" / "scaling.md"
    readme.write_text(fill(readme.read_text(), "speed", speed_table(results)))
    text = fill(scaling.read_text(), "growth", growth_table(results))
    text = fill(text, "agreement", agreement_table())
    scaling.write_text(fill(text, "scale", scale_table(results)))
    plot(results, ROOT / "docs" / "benchmark.png")


if __name__ == "__main__":
    main()
