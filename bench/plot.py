#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Draw bench/results/sid-ranks.json as docs/start.svg: what a container adds to the start of a step, by ranks.

    bench/plot.py [--check]    --check: fail when the file differs from what would be drawn
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results/sid-ranks.json"
TARGET = HERE.parent / "docs/start.svg"
WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 60, 110, 44, 46  # margins around the axes
COLOURS = {"bollard": "#1f6feb", "apptainer": "#d1690e"}
NAMES = {"bollard": "bollard", "apptainer": "Apptainer"}
RANKS = (1, 2, 4, 8)
TITLE = "Milliseconds that the container adds to srun, until the last rank runs"


def drawn(results: dict[str, dict[str, float]]) -> str:
    """Return the plot: a line for each program with the quartiles of its pairs. Time is on a linear axis."""
    highest = max(value["high"] for value in results.values())
    step = next(step for step in (10, 20, 50, 100, 200, 500, 1000) if highest / step <= 6)
    top = step * -(-highest // step)

    def x(ranks: int) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * RANKS.index(ranks) / (len(RANKS) - 1)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * max(value, 0) / top

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"',
        '     font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="20" fill="#24292f">{TITLE}</text>',
    ]
    for number in range(int(top / step) + 1):
        value = number * step
        lines += [
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="#d0d7de"/>',
            f'<text x="{LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end" fill="#57606a">{value}</text>',
        ]
    for number in RANKS:
        lines.append(f'<text x="{x(number):.1f}" y="{HEIGHT - 24}" text-anchor="middle" fill="#57606a">{number}</text>')
    middle = LEFT + (WIDTH - LEFT - RIGHT) / 2
    lines.append(f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle" fill="#57606a">ranks on one node</text>')
    for program, colour in COLOURS.items():
        found = {ranks: results[f"{program} {ranks}"] for ranks in RANKS}
        points = " ".join(f"{x(ranks):.1f},{y(value['added']):.1f}" for ranks, value in found.items())
        lines.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2.5"/>')
        for ranks, figures in found.items():
            at = f"{x(ranks):.1f}"
            lines += [
                f'<line x1="{at}" x2="{at}" y1="{y(figures["low"]):.1f}" y2="{y(figures["high"]):.1f}"',
                f'      stroke="{colour}"/>',
                f'<circle cx="{at}" cy="{y(figures["added"]):.1f}" r="4" fill="{colour}"/>',
            ]
        last = found[RANKS[-1]]["added"]
        label = f"{NAMES[program]} {last:.0f}"
        lines.append(f'<text x="{WIDTH - RIGHT + 12}" y="{y(last) + 4:.1f}" fill="{colour}">{label}</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"


def main() -> None:
    """Draw, or check what is drawn."""
    text = drawn(json.loads(RESULTS.read_text()))
    if "--check" in sys.argv[1:]:
        sys.exit(0 if TARGET.exists() and TARGET.read_text() == text else f"{TARGET} is old; run bench/plot.py")
    TARGET.write_text(text)


if __name__ == "__main__":
    main()
