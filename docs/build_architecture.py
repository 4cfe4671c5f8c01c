"""Draw docs/architecture.svg: how data flows, and which modules do it."""

from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "docs" / "architecture.svg"
WIDTH, HEIGHT = 120, 96  # of a box
STEPS = [  # what, its modules, and whether it is a table or a file that stays
    ("sources", ["phantom", "images", "datasets"], False),
    ("manifest", ["one row a film,", "split a column"], True),
    ("batches", ["splits", "loaders"], False),
    ("ResNet18", ["models", "training"], False),
    ("checkpoint", ["weights, classes,", "temperature"], True),
    ("predictions", ["one row a film,", "probabilities"], True),
]
CARE = [m for m in ("severity", "triage") if (ROOT / "covidxr" / f"{m}.py").exists()]
READERS = [
    ("How good?", ["metrics", "calibration"]),
    ("Where does it look?", ["explain"]),
    ("What misleads it?", ["shift", "shortcut"]),
    ("Who is first?", CARE or ["being written"]),
    ("Figures, tables", ["plots", "evaluation, cli"]),
]
STYLE = """text{font-family:system-ui,sans-serif;fill:#1a1a1a;text-anchor:middle}
.name{font-size:14px;font-weight:600}.part{font-size:12.5px}
rect{fill:#fff;stroke:#0072B2;stroke-width:2}.kept{fill:#e5f1f8}
path{fill:none;stroke:#555;stroke-width:2;marker-end:url(#tip)}"""


def box(x: float, y: float, name: str, parts: list[str], kept: bool, width: int = WIDTH) -> str:
    """A rectangle with its name and a line for each part; what stays on disk has round corners."""
    corner, css = (12, ' class="kept"') if kept else (0, "")
    lines = [f'<rect x="{x}" y="{y}" width="{width}" height="{HEIGHT}" rx="{corner}"{css}/>']
    middle = x + width / 2
    lines.append(f'<text class="name" x="{middle}" y="{y + 26}">{escape(name)}</text>')
    for i, part in enumerate(parts):
        place = f'x="{middle}" y="{y + 48 + 17 * i}"'
        lines.append(f'<text class="part" {place}>{escape(part)}</text>')
    return "".join(lines)


def draw() -> str:
    """The picture as SVG."""
    step = WIDTH + 36
    total = step * len(STEPS) - 36 + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total} 300" role="img">',
        "<title>How data flows through covidxr</title>",
        f"<style>{STYLE}</style>",
        '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0 10 5 0 10z" '
        'style="fill:#555;stroke:none;marker-end:none"/></marker></defs>',
        f'<rect width="{total}" height="300" rx="10" style="stroke:none"/>',
    ]
    for i, (name, modules, kept) in enumerate(STEPS):
        parts.append(box(20 + i * step, 22, name, modules, kept))
        if i:
            parts.append(f'<path d="M{20 + i * step - 34} 70h32"/>')
    spread = (total - 40 - 160) / (len(READERS) - 1)
    start = 20 + (len(STEPS) - 1) * step + WIDTH / 2
    parts.append(f'<path d="M{start} 118v28H100M{start - step} 118v28" style="marker-end:none"/>')
    for i, (name, modules) in enumerate(READERS):
        x = 20 + i * spread
        parts.append(box(x, 190, name, modules, False, width=160))
        parts.append(f'<path d="M{x + 80} 146v42"/>')
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    TARGET.write_text(draw())
