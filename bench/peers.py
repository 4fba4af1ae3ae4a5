#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""What a container by hand costs beside Apptainer: `exec img.sif true`, the two in turn, in the tree of `make peers`.

    bench/peers.py [--runs 20]

The image is one that Apptainer built (gzip). Prints the medians and writes bench/results/sid-exec.json: milliseconds
of wall time, and the ratio pair by pair, for the machine's own speed drifts.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests/peers"))

from tree import IMAGES, Machine  # noqa: E402

# Runs on the machine, so that entering it is not measured.
_MEASURE = r"""
import subprocess, sys, time
def once(program):
    begin = time.monotonic_ns()
    null = subprocess.DEVNULL
    subprocess.run([program, "exec", sys.argv[1], "true"], stdin=null, stderr=null, check=True)
    return (time.monotonic_ns() - begin) / 1e6
for program in ("bollard", "apptainer"):
    once(program)
for number in range(int(sys.argv[2])):
    first = ("bollard", "apptainer")[:: 1 if number % 2 else -1]
    took = {program: once(program) for program in first}
    print(took["bollard"], took["apptainer"])
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="what a container by hand costs beside Apptainer")
    parser.add_argument("--runs", type=int, default=20, help="pairs; default: %(default)s")
    given = parser.parse_args()
    machine = Machine()
    try:
        done = machine.run(f"python3 -c {shlex.quote(_MEASURE)} {IMAGES}/plain.sif {given.runs}", timeout=300)
    finally:
        machine.stop()
    if done.returncode:
        sys.exit(f"bench: {done.stderr.decode().strip()}")
    pairs = [[float(word) for word in line.split()] for line in done.stdout.decode().splitlines()]
    ratios = sorted(ours / theirs for ours, theirs in pairs)
    found = {
        "bollard": round(statistics.median(ours for ours, _ in pairs), 2),
        "apptainer": round(statistics.median(theirs for _, theirs in pairs), 2),
        "ratio": round(statistics.median(ratios), 3),
        "low": round(ratios[len(ratios) // 4], 3),
        "high": round(ratios[-1 - len(ratios) // 4], 3),
        "pairs": pairs,
    }
    (HERE / "results/sid-exec.json").write_text(json.dumps(found, indent=1) + "\n")
    print(f"exec img.sif true: bollard {found['bollard']} ms, apptainer {found['apptainer']} ms, {found['ratio']}")


if __name__ == "__main__":
    main()
