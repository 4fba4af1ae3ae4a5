#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Which MPI of which image wires up with which --mpi= of which Slurm: the table of docs/mpi.md.

    python3 docs/mpi_matrix.py run [--runs 3] IMAGE... > bench/results/SUITE-wireup.json
    python3 docs/mpi_matrix.py table                     from all of these

`run` wants srun, and two idle nodes. Every IMAGE has tests/programs/mpi_ring.c compiled as /opt/mpi/ompi_ring and
/opt/mpi/mpich_ring (`slurm-test-cluster/images` makes such trees). A cell is "ok", or how a run failed and the
program's own most telling words.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent.parent / "bench/results"
SUITES = ("bullseye", "bookworm", "trixie", "sid")
SECONDS = 12  # a run that works takes less than two
PLACES = (("1 node", 2, "-N1 -n2"), ("2 nodes", 2, "-N2 -n2"), ("2 nodes, 4 ranks", 4, "-N2 -n4"))
# The most telling first.
TELLING = (
    "bollard: .*",
    r"invalid MPI type '\w+'",
    "unsupported PMI version.*",
    "Unable to find reachable pairing",
    r"OPAL ERROR: \w+",
    "Fatal error.*",
)


def run(words: list[str], ranks: int) -> tuple[str, str]:
    """(library, how it went) of one run."""
    done = subprocess.run(
        ["timeout", "-k5", str(SECONDS), "srun", "-t2", *words],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    found = re.findall(r"^rank \d+ of (\d+) on \S+ library (.*)$", done.stdout, re.MULTILINE)
    library = re.sub(r" *Version: *| v", " ", found[0][1]) if found else ""
    if done.returncode == 0 and found:
        whole = [size for size, _ in found] == [str(ranks)] * ranks
        return library, "ok" if whole else f"{len(found)} jobs of 1 rank"
    if done.returncode in (124, 137, -9):
        return library, "hangs at the end" if "sum ok" in done.stdout else "hangs"
    words = [match[0] for pattern in TELLING if (match := re.search(pattern, done.stdout, re.IGNORECASE))]
    return library, f"exit {done.returncode}" + (f": {words[0][:80]}" if words else "")


def measure(images: list[str], runs: int) -> dict[str, Any]:
    """What this server does with each of the images."""
    rows = []
    for image in images:
        for program, name in (("ompi", "Open MPI"), ("mpich", "MPICH")):
            for kind in ("pmix", "pmi2"):
                words = [f"--mpi={kind}", f"--container={image}", f"/opt/mpi/{program}_ring"]
                library, cells = name, []
                for _, ranks, place in PLACES:
                    seen = [run([*place.split(), *words], ranks) for _ in range(runs)]
                    library = next((library for library, _ in seen if library), library)
                    ways = sorted({way for _, way in seen}, key=[way for _, way in seen].count, reverse=True)
                    counts = [f"{way} ({[w for _, w in seen].count(way)} of {len(seen)})" for way in ways]
                    cells.append(ways[0] if len(ways) == 1 else ", ".join(counts))
                rows.append({"image": image.rpartition("/")[2], "library": library, "mpi": kind, "cells": cells})
    version = subprocess.run(["srun", "--version"], stdout=subprocess.PIPE, text=True, check=True).stdout.split()[-1]
    return {"slurm": version, "places": [place for place, _, _ in PLACES], "rows": rows}


def table(results: Path = RESULTS) -> list[str]:
    """The lines of the table: an image, its library and the wire-up down, servers across."""
    servers = [json.loads((results / f"{suite}-wireup.json").read_text()) for suite in SUITES]
    lines = ["| image | library | `--mpi=` | " + " | ".join(f"Slurm {server['slurm']}" for server in servers) + " |"]
    lines.append("|---" * (3 + len(servers)) + "|")
    for rows in zip(*(server["rows"] for server in servers)):
        head = rows[0]
        assert all((row["image"], row["mpi"]) == (head["image"], head["mpi"]) for row in rows)
        library = max((row["library"] for row in rows), key=len)  # one that never started has no version
        cells = [_cell(row["cells"]) for row in rows]
        lines.append(f"| {head['image']} | {library} | {head['mpi']} | " + " | ".join(cells) + " |")
    return lines


def _cell(ways: list[str]) -> str:
    """One word where it is the same at all places, else place by place."""
    ways = [re.sub(r"^\d+ jobs of 1 rank", "jobs of 1 rank", way) for way in ways]
    if len(set(ways)) == 1:
        return ways[0]
    return "; ".join(f"{place}: {way}" for (place, _, _), way in zip(PLACES, ways))


def main() -> None:
    parser = argparse.ArgumentParser(description="the MPI table of docs/mpi.md")
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--runs", type=int, default=3, help="of each cell; default: %(default)s")
    parser.add_argument("images", nargs="*", metavar="IMAGE")
    given = parser.parse_args()
    if given.what == "run":
        json.dump(measure(given.images, given.runs), sys.stdout, indent=1)
    else:
        print("\n".join(table()))


if __name__ == "__main__":
    main()
