"""The curves of a stage of RL as one small SVG, without a plotting library.

    python tests/bench/curves.py runs/NAME/r1-zero/metrics.jsonl docs/reference/r1-zero.svg

Three panels over the updates: the rewards of the rollouts with the held-out accuracy as dots, the mean tokens of a
response, and KL.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

WIDTH, HEIGHT = 300, 150  # of a panel
LEFT, TOP, GAP = 40, 24, 24
COLOURS = ("#1f6feb", "#d1691e", "#2da44e", "#8250df")
STYLE = "svg{background:#fff;font:11px sans-serif}.axis{stroke:#888}.line{fill:none;stroke-width:1.5}"

Points = list[tuple[float, float]]


def series(lines: list[dict[str, Any]], name: str) -> Points:
    return [(line["step"], line[name]) for line in lines if line.get(name) is not None]


def panel(title: str, curves: dict[str, Points], dots: dict[str, Points], x: int, last: float) -> str:
    """One panel whose upper left corner is at (x, TOP)."""
    values = [value for points in (*curves.values(), *dots.values()) for _, value in points]
    highest = max(values, default=1.0) or 1.0

    def place(point: tuple[float, float]) -> str:
        return f"{x + point[0] / last * WIDTH:.1f},{TOP + HEIGHT * (1 - point[1] / highest):.1f}"

    bottom = TOP + HEIGHT
    parts = [
        f'<text x="{x}" y="{TOP - 10}" font-weight="bold">{title}</text>',
        f'<path class="axis" fill="none" d="M{x},{TOP}V{bottom}H{x + WIDTH}"/>',
        f'<text x="{x - 4}" y="{TOP + 8}" text-anchor="end">{highest:.3g}</text>',
        f'<text x="{x - 4}" y="{bottom}" text-anchor="end">0</text>',
        f'<text x="{x + WIDTH}" y="{bottom + 14}" text-anchor="end">update {last:.0f}</text>',
    ]
    legend = []
    for colour, (name, points) in zip(COLOURS, {**curves, **dots}.items(), strict=False):
        legend.append(f'<tspan fill="{colour}">{name}</tspan>')
        if name in dots:
            for point in points:
                cx, cy = place(point).split(",")
                parts.append(f'<circle cx="{cx}" cy="{cy}" r="3.5" fill="{colour}"/>')
        else:
            parts.append(
                f'<polyline class="line" stroke="{colour}" points="{" ".join(map(place, points))}"/>'
            )
    parts.append(f'<text x="{x}" y="{bottom + 14}">{" · ".join(legend)}</text>')
    return "".join(parts)


def draw(lines: list[dict[str, Any]]) -> str:
    last = max(line.get("step", 0) for line in lines)
    rewards = {
        name.split("/")[1]: series(lines, name)
        for name in ("rewards/accuracy/mean", "rewards/format/mean")
        if series(lines, name)
    }
    panels = (
        ("rewards of the rollouts", rewards, {"held-out accuracy": series(lines, "heldout/accuracy")}),
        ("tokens of a response", {"rollouts": series(lines, "completions/mean_length")}, {}),
        ("KL to the reference", {"mean of an update": series(lines, "kl")}, {}),
    )
    step = LEFT + WIDTH + GAP
    drawn = [panel(*shown, LEFT + number * step, last) for number, shown in enumerate(panels)]
    size = f'width="{3 * step}" height="{TOP + HEIGHT + GAP}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{STYLE}</style>{"".join(drawn)}</svg>\n'


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    source, target = map(Path, sys.argv[1:])
    lines = [json.loads(line) for line in source.read_text(encoding="utf8").splitlines()]
    target.write_text(draw(lines), encoding="utf8")


if __name__ == "__main__":
    main()
