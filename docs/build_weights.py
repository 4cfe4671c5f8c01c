"""Write docs/WEIGHTS.md, the card of the shipped weights, from docs/results/pretraining*.json."""

import json

import numpy as np
from build_readme import RESULTS, ROOT, fill

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


def comparison() -> str:
    """Macro-F1 on test from both starts, mean over seeds, and the paired difference."""
    found = json.loads((RESULTS / "pretraining.json").read_text())
    rows = [("synthetic phantom, default set, 64 px", found["phantom"])]
    rows += [
        (f"real: radiography, {count} training films, 64 px", result)
        for count, result in found.get("radiography", {}).items()
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


def main() -> None:
    card = ROOT / "docs" / "WEIGHTS.md"
    text = fill(card.read_text(), "history", history())
    card.write_text(fill(text, "comparison", comparison()))


if __name__ == "__main__":
    main()
