# SPDX-License-Identifier: BSD-3-Clause
"""`bollard site check --nodes`: the check on many nodes at once, through srun, as one table."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterable
from typing import Any

from bollard.runtime.errors import BollardError
from bollard.spank_plugin.installation import Where

NO_ANSWER = "no answer"
_MINUTES = 5
# States of sinfo(1) in which a node starts steps.
_STATES = "idle,mixed,allocated"
Report = dict[str, Any]  # what `bollard site check --json` prints


def ask(where: Where, nodes: str) -> list[Report]:
    """Run the check on `nodes`, and return the reports, sorted by node.

    where: the paths of the installation.
    nodes: a list of nodes as srun takes it, or "all".

    Raises:
        BollardError: Slurm knows no such nodes, or srun started nothing.
    """
    asked = names(nodes)
    command = [
        *("srun", "--quiet", f"--nodelist={','.join(asked)}", f"--nodes={len(asked)}", "--ntasks-per-node=1"),
        *("--kill-on-bad-exit=0", "--mpi=none", "--oversubscribe", f"--time={_MINUTES}"),
        *(where.command, "site", "check", "--json", f"--prefix={where.prefix}"),
    ]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise BollardError("srun is not installed", "run this on a login node") from None
    found = reports(done.stdout.splitlines(), asked)
    if all(report["status"] == NO_ANSWER for report in found):
        said = done.stderr.strip().splitlines() or [f"srun ended with status {done.returncode}"]
        raise BollardError(f"no node answered: {said[0]}", "see `sinfo -N`, and `srun -w NODE true`")
    return found


def names(nodes: str) -> list[str]:
    """The names of the nodes; "all" are those that Slurm starts steps on.

    Raises:
        BollardError: there are none, or Slurm's commands fail.
    """
    words = ["sinfo", "-hN", "-o", "%n", *(["-t", _STATES] if nodes == "all" else ["-n", nodes])]
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise BollardError("sinfo is not installed", "run this on a login node") from None
    found = sorted(set(done.stdout.split()), key=_order)
    if not found:
        said = done.stderr.strip().partition("\n")[0] or "Slurm names none in service"
        raise BollardError(f"--nodes {nodes}: {said}", "see `sinfo -N`")
    return found


def _order(name: str) -> list[tuple[int, str]]:
    """A key that sorts n2 before n10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def reports(lines: Iterable[str], names: list[str]) -> list[Report]:
    """The reports among `lines` of srun's output, one for each name; a node without one has the status NO_ANSWER."""
    found: dict[str, Report] = {}
    for line in lines:
        try:
            report = json.loads(line)
        except ValueError:
            continue  # a line of a TaskProlog, or of a node's shell
        if isinstance(report, dict) and "checks" in report:
            found[str(report["node"]).split(".")[0]] = report
    missing: Report = {"status": NO_ANSWER, "bollard": "", "checks": []}
    return [found.get(name.split(".")[0], {**missing, "node": name}) for name in names]


def table(found: list[Report]) -> list[str]:
    """The lines of a table: a row for each check, a column for each set of nodes with equal states; then the causes.

    A check that is ok everywhere has no row.
    """
    columns: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for report in found:
        columns.setdefault(tuple(sorted(_states(report).items())), []).append(str(report["node"]).split(".")[0])
    heads = [_short(names) for names in columns.values()]
    states = [dict(key) for key in columns]
    known = dict.fromkeys(name for state in states for name in state)
    rows = [name for name in known if {state[name] for state in states if name in state} != {"ok"}]
    left = max(map(len, ("check", *rows)))
    widths = [max(len(head), *(len(state.get(name, "-")) for name in rows), 2) for head, state in zip(heads, states)]
    lines = [_row("check", left, heads, widths)] if rows else []
    lines += [_row(name, left, [state.get(name, "-") for state in states], widths) for name in rows]
    good = sum(report["status"] in ("ok", "warning") for report in found)
    versions = sorted({str(report["bollard"]) for report in found if report["bollard"]})
    lines.append(f"{good} of {len(found)} nodes: no failure; bollard {', '.join(versions) or 'nowhere'}")
    return lines + _causes(found)


def _states(report: Report) -> dict[str, str]:
    """The worst state of each check of a node."""
    worst: dict[str, str] = {"answer": NO_ANSWER} if report["status"] == NO_ANSWER else {"answer": "ok"}
    order = ("ok", "warning", "failure")
    for row in report["checks"]:
        before = worst.get(row["check"], "ok")
        worst[row["check"]] = max(before, row["state"], key=order.index)
    return worst


def _short(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _row(name: str, left: int, cells: list[str], widths: list[int]) -> str:
    return "  ".join([name.ljust(left), *(cell.ljust(width) for cell, width in zip(cells, widths))]).rstrip()


def _causes(found: list[Report]) -> list[str]:
    """One line for each text that is not ok, with the nodes that have it."""
    nodes: dict[tuple[str, str, str, str], list[str]] = {}
    for report in found:
        for row in report["checks"]:
            if row["state"] != "ok":
                key = (row["state"], row["check"], row["text"], row["fix"])
                nodes.setdefault(key, []).append(str(report["node"]).split(".")[0])
    silent = [str(report["node"]) for report in found if report["status"] == NO_ANSWER]
    lines = [f"{_short(nodes[key])}: {key[0]}: {key[1]}: {key[2]}; {key[3]}" for key in sorted(nodes)]
    return lines + ([f"{_short(silent)}: {NO_ANSWER}; srun -w {silent[0]} bollard site check"] if silent else [])


def status(found: list[Report]) -> int:
    """The exit status: 1 when something does not work on a node, or a node gave no answer."""
    return int(any(report["status"] not in ("ok", "warning") for report in found))
