"""Write the README's table of other systems from docs/comparison.csv and docs/results/.

The CSV holds what each system states, with its source, and what its repository has: read from code
and papers, not from claims. Figures are quoted; only intervals are computed, from stated counts.
"""

import json

import pandas as pd
from build_readme import RESULTS, ROOT, fill, with_interval

from covidxr.metrics import wilson_interval


def table() -> str:
    """covidxr beside other systems: what each states, with the source, and what it has."""
    others = pd.read_csv(ROOT / "docs" / "comparison.csv", dtype=str, keep_default_na=False)
    has = list(others.columns[others.columns.get_loc("source") + 1 :])
    rows = [["system", "stated figure", *has], ["---"] * (len(has) + 2)]
    rows.append(["**covidxr**", own_figure(), *own_parts(has)])
    for other in others.to_dict("records"):
        name = f"[{other['system']}](https://github.com/{other['repository']})"
        rows.append([name, stated(other), *(other[key] for key in has)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def stated(row: dict) -> str:
    """A system's figure with n, Wilson's interval where the counts are known, films and source."""
    figure = " ".join(filter(None, (row["figure"], row["value"])))
    if row["hits"]:
        low, high = wilson_interval(int(row["hits"]), int(row["n"]))
        figure += f" [{low:.1%}, {high:.1%}]"
    figure += f", n = {int(row['n']):,}" if row["n"] else ""
    return "; ".join(filter(None, (figure, row["films"]))) + f" ({row['source']})"


def own_figure() -> str:
    result = json.loads((RESULTS / "radiography.json").read_text())
    row = next(row for row in result["metrics"] if row["metric"] == "accuracy")
    return (
        f"accuracy, 3 classes {with_interval(row)}, n = {row['n']:,}; films of the collections "
        "that it was trained on, where the collection goes with the class (“Results”)"
    )


def own_parts(names: list[str]) -> list[str]:
    """What covidxr has of `names`; severity and triage come with notebook 06."""
    sixth = "yes" if list((ROOT / "notebooks" / "src").glob("06*.py")) else "no"
    special = {"severity": sixth, "triage": sixth, "external test": "between synthetic sites"}
    return [special.get(name, "yes") for name in names]


def main() -> None:
    readme = ROOT / "README.md"
    readme.write_text(fill(readme.read_text(), "comparison", table()))


if __name__ == "__main__":
    main()
