# SPDX-License-Identifier: BSD-3-Clause
"""The graph of a flow: order, circles, levels, and its picture as text and as SVG."""

from __future__ import annotations

import graphlib
from collections.abc import Mapping, Sequence
from html import escape

Edges = Mapping[str, Sequence[str]]

_COLOURS = {
    "ok": "#2e7d32", "done": "#2e7d32", "failed": "#c62828", "timeout": "#c62828", "lost": "#c62828",
    "cancelled": "#757575", "running": "#1565c0",
}  # fmt: skip
_WIDTH, _HEIGHT, _GAP_X, _GAP_Y = 150, 36, 30, 44


def circle(edges: Edges) -> list[str]:
    """Return the names of a circle, the first also at the end; [] if there is none."""
    try:
        graphlib.TopologicalSorter(edges).prepare()
    except graphlib.CycleError as error:
        return [str(name) for name in error.args[1]][::-1]
    return []


def order(edges: Edges) -> list[str]:
    """Return the names so that each comes after those that it needs; otherwise as in the file."""
    places = {name: at for at, name in enumerate(edges)}
    sorter = graphlib.TopologicalSorter(edges)
    sorter.prepare()
    found: list[str] = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready(), key=lambda name: places.get(name, 0))
        found += ready
        sorter.done(*ready)
    return found


def levels(edges: Edges) -> list[list[str]]:
    """Return the names by the length of the longest way to them."""
    depth: dict[str, int] = {}
    for name in order(edges):
        depth[name] = 1 + max((depth[other] for other in edges[name]), default=-1)
    found: list[list[str]] = [[] for _ in range(1 + max(depth.values(), default=-1))]
    for name, level in depth.items():
        found[level].append(name)
    return found


def text(edges: Edges, states: Mapping[str, str]) -> list[str]:
    """Return one line for each job: its name, what it needs, its state if it has one."""
    width = max(map(len, edges), default=0)
    lines = []
    for level, names in enumerate(levels(edges), 1):
        for name in names:
            needs = f"  ← {', '.join(edges[name])}" if edges[name] else ""
            state = f"  [{states[name]}]" if name in states else ""
            lines.append(f"{level:>3}  {name:<{width}}{state}{needs}")
    return lines


def svg(edges: Edges, states: Mapping[str, str]) -> str:
    """Return the graph as an SVG picture: levels from top to bottom."""
    rows = levels(edges)
    widest = max(map(len, rows), default=1)
    total = widest * (_WIDTH + _GAP_X) + _GAP_X
    place = {}
    for row, names in enumerate(rows):
        begin = (total - len(names) * (_WIDTH + _GAP_X) + _GAP_X) / 2
        for column, name in enumerate(names):
            place[name] = (begin + column * (_WIDTH + _GAP_X), _GAP_Y / 2 + row * (_HEIGHT + _GAP_Y))
    high = len(rows) * (_HEIGHT + _GAP_Y)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total} {high}" width="{total}" height="{high}" '
        'font-family="sans-serif" font-size="13">'
    ]
    for name, needs in edges.items():
        x, y = place[name]
        for other in needs:
            a, b = place[other]
            middle = (b + _HEIGHT + y) / 2
            lines.append(
                f'<path d="M{a + _WIDTH / 2:g} {b + _HEIGHT:g} C{a + _WIDTH / 2:g} {middle:g} {x + _WIDTH / 2:g} '
                f'{middle:g} {x + _WIDTH / 2:g} {y:g}" fill="none" stroke="#777"/>'
            )
    for name, (x, y) in place.items():
        state = states.get(name, "")
        colour = _COLOURS.get(state, "#455a64")
        shown = name if len(name) <= 20 else name[:19] + "…"
        lines.append(
            f'<g><title>{escape(f"{name} {state}".strip())}</title><rect x="{x:g}" y="{y:g}" width="{_WIDTH}" '
            f'height="{_HEIGHT}" rx="6" fill="white" stroke="{colour}" stroke-width="2"/>'
            f'<text x="{x + _WIDTH / 2:g}" y="{y + _HEIGHT / 2 + 5:g}" text-anchor="middle">{escape(shown)}</text></g>'
        )
    return "\n".join([*lines, "</svg>", ""])
