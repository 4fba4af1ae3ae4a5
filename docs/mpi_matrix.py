#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Which MPI of which image wires up with which --mpi= of this Slurm: prints the table of docs/mpi.md.

    python3 docs/mpi_matrix.py [--runs 3] IMAGE...

Run it where srun works, with two idle nodes. Every IMAGE has tests/programs/mpi_ring.c compiled as
/opt/mpi/ompi_ring and /opt/mpi/mpich_ring (`slurm-test-cluster/images` makes such trees).
A cell is "ok", or how a run failed and the program's own most telling words.
"""

from __future__ import annotations

import argparse
import re
import subprocess

SECONDS = 12  # a run that works takes less than two
PLACES = (("1 node, 2 ranks", 2, "-N1 -n2"), ("2 nodes, 2 ranks", 2, "-N2 -n2"), ("2 nodes, 4 ranks", 4, "-N2 -n4"))
# The most telling first.
TELLING = (
    "bollard: .*",
    "unsupported PMI version.*",
    "Unable to find reachable pairing",
    "OPAL ERROR: .*",
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
    if done.returncode in (124, 137):
        return library, "hangs at the end" if "sum ok" in done.stdout else "hangs"
    words = [match[0] for pattern in TELLING if (match := re.search(pattern, done.stdout))]
    return library, f"exit {done.returncode}" + (f": {words[0][:80]}" if words else "")


def main() -> None:
    parser = argparse.ArgumentParser(description="print the MPI table of docs/mpi.md")
    parser.add_argument("--runs", type=int, default=3, help="of each cell; default: %(default)s")
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    given = parser.parse_args()
    print("| image | library | `--mpi=` | " + " | ".join(place for place, _, _ in PLACES) + " |")
    print("|---" * (3 + len(PLACES)) + "|")
    for image in given.images:
        for program, name in (("ompi", "Open MPI"), ("mpich", "MPICH")):
            for kind in ("pmix", "pmi2"):
                words = [f"--mpi={kind}", f"--container={image}", f"/opt/mpi/{program}_ring"]
                row = [image.rpartition("/")[2], name, kind]
                for _, ranks, place in PLACES:
                    runs = [run([*place.split(), *words], ranks) for _ in range(given.runs)]
                    row[1] = next((library for library, _ in runs if library), row[1])
                    ways = sorted({way for _, way in runs}, key=[way for _, way in runs].count, reverse=True)
                    counts = [f"{way} ({[w for _, w in runs].count(way)} of {len(runs)})" for way in ways]
                    row.append(ways[0] if len(ways) == 1 else ", ".join(counts))
                print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
