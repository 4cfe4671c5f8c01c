"""Write docs/WEIGHTS.md, the card of the shipped weights, from docs/results/pretraining*.json."""

import json

import matplotlib.pyplot as plt
import numpy as np
from build_readme import RESULTS, ROOT, fill

from covidxr import plots

RATES = {"radiography": "chosen rates", "radiography-first": "rates 0.003 and 0.0001"}
CURVE = ROOT / "docs" / "learning_curve.png"
STARTS = {"none": "from scratch", "phantom": "from `phantom`"}


def history() -> str:
    """What the heads had learnt after the last epoch, on films held out from pre-training."""
    last = json.loads((RESULTS / "pretraining_history.json").read_text())[-1]
    rows = [(name, value) for name, value in last.items() if " at " in name]
    lines = ["| held-out phantoms | value |", "|---|---|"]
    lines += [f"| {name} | {value:.3f} |" for name, value in rows]
    return "\n".join(lines)


def gain(result: dict) -> str:
    """The paired difference with its interval."""
    return "{value:+.3f} [{low:+.3f}, {high:+.3f}]".format(**result["difference"])


def by_count(item: tuple[str, dict]) -> int:
    return int(item[0])


def plot_curve(found: dict) -> None:
    """Macro-F1 on test by number of real training films: every seed, and the mean."""
    plots.use_style()
    fig, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
    names, results = zip(*sorted(found["radiography"].items(), key=by_count), strict=True)
    counts = np.array(names, int)
    styles = {"none": ("#999999", "s--", 0.97), "phantom": ("#0072B2", "o-", 1.03)}
    for start, (colour, style, shift) in styles.items():
        x = counts * shift
        scores = np.array([result["macro_f1"][start] for result in results])
        ax.plot(x, scores.mean(axis=1), style, color=colour, label=STARTS[start].replace("`", ""))
        ax.plot(np.repeat(x, scores.shape[1]), scores.ravel(), ".", color=colour, alpha=0.6)
    ax.set_xscale("log", base=10)
    ax.set_xticks(counts, [f"{count:,}" for count in counts], minor=False)
    ax.minorticks_off()
    ax.set_xlabel("real training films (Normal, Lung_Opacity, COVID)")
    ax.set_ylabel("macro-F1 on test")
    gains = ", ".join(f"{result['difference']['value']:+.2f}" for result in results)
    films = f"n = {results[0]['n_test']:,} test films, {results[0]['seeds']} seeds (dots), 64 px"
    ax.set_title(f"Starting from phantom changes macro-F1 by {gains}\n({films})", fontsize=11)
    ax.legend()
    fig.savefig(CURVE, dpi=100)
    plt.close(fig)


def chosen_rates(found: dict) -> str:
    """The learning rate of each start, chosen on the validation split."""
    scores = found["rates"]
    told = [
        f"{float(max(rates, key=rates.get)):g} {STARTS[start]}" for start, rates in scores.items()
    ]
    tried = ", ".join(f"{float(rate):g}" for rate in scores["none"])
    return (
        f"On the real films each start has the learning rate, of {tried}, that served it best on "
        f"validation films (500 training films, seed 0): {' and '.join(told)}."
    )


def comparison() -> str:
    """Macro-F1 on test from both starts, mean over seeds, and the paired difference."""
    found = json.loads((RESULTS / "pretraining.json").read_text())
    rows = [("synthetic phantom, default set, 64 px", found["phantom"])]
    rows += [
        (f"real: radiography, {int(count):,} training films, 64 px, {rates}", result)
        for part, rates in RATES.items()
        for count, result in sorted(found[part].items(), key=by_count)
    ]
    lines = [
        "| films | epochs | from scratch | from `phantom` | difference [95% interval] | n |",
        "|---|---|---|---|---|---|",
    ]
    for title, result in rows:
        means = [f"{np.mean(result['macro_f1'][start]):.3f}" for start in STARTS]
        lines.append(
            f"| {title} | {result['epochs']} | {means[0]} | {means[1]} | {gain(result)} "
            f"| {result['n_test']:,} × {result['seeds']} seeds |"
        )
    reached = found["phantom"]["epochs_to_reach_scratch"]
    told = ", ".join("never" if epoch is None else str(epoch) for epoch in reached)
    lines += [
        "",
        "Epochs from `phantom` until the validation macro-F1 that a run from scratch has after "
        f"its last of {found['phantom']['epochs']} epochs, seed by seed: {told}.",
        "",
        chosen_rates(found),
        "",
        "![Macro-F1 on the test split by number of real training films, from both starts]"
        "(learning_curve.png)",
    ]
    return "\n".join(lines + frozen(found.get("cohen", {})))


def frozen(found: dict) -> list[str]:
    """Ridge regression on frozen features of the real films that readers scored."""
    if not found:
        return []
    lines = [
        "",
        "| real: cohen, ridge on frozen features, 224 px | r | MAE | n |",
        "|---|---|---|---|",
    ]
    for key, rows in found.items():
        start, score = key.split()
        row = {r["metric"]: r for r in rows}
        cells = [
            "{value:.2f} [{low:.2f}, {high:.2f}]".format(**row[m]) for m in ("pearson_r", "mae")
        ]
        lines.append(f"| {score}, {STARTS[start]} | {cells[0]} | {cells[1]} | {row['mae']['n']} |")
    return lines


def heads() -> str:
    """What seed 0's untrained head knows, and the comparisons without that seed."""
    found = json.loads((RESULTS / "pretraining.json").read_text())
    n, (first, *others) = found["heads"]["n"], found["heads"]["right"]
    lines = [
        f"Untrained, it calls {first} of {n} validation phantoms right; of the next "
        f"{len(others)} seeds none calls more than {max(others)} right.",
        "",
        "| films | difference, all seeds | without seed 0 |",
        "|---|---|---|",
    ]
    rows = [("synthetic phantom, default set", found["phantom"])]
    rows += [
        (f"real: radiography, {int(count):,} training films, {rates}", result)
        for part, rates in RATES.items()
        for count, result in sorted(found[part].items(), key=by_count)
    ]
    for title, result in rows:
        gains = result["difference_by_seed"]
        lines.append(f"| {title} | {np.mean(gains):+.3f} | {np.mean(gains[1:]):+.3f} |")
    return "\n".join(lines)


def main() -> None:
    card = ROOT / "docs" / "WEIGHTS.md"
    plot_curve(json.loads((RESULTS / "pretraining.json").read_text()))
    text = fill(card.read_text(), "history", history())
    text = fill(text, "comparison", comparison())
    card.write_text(fill(text, "heads", heads()))


if __name__ == "__main__":
    main()
