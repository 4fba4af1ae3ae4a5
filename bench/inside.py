#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Measure on the cluster's login node the time from `srun` to the last rank's first instruction.

    inside.py RUNS RANKS cold|warm SRUN-ARGUMENTS... [-- SRUN-ARGUMENTS...]...

Each group of arguments is one way to start `date +%s%N` on every rank. The ways take turns, RUNS times.
`cold` gives the image a new modification time before each start, so that no container of an earlier step can be joined.
Prints JSON: for each way the list of milliseconds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time


def once(arguments: list[str], ranks: int) -> float:
    begin = time.time_ns()
    out = subprocess.run(
        ["srun", "-n", str(ranks), *arguments, "date", "+%s%N"], stdout=subprocess.PIPE, check=True, text=True
    ).stdout.split()
    if len(out) != ranks:
        sys.exit(f"{len(out)} ranks answered, {ranks} expected")
    return (max(map(int, out)) - begin) / 1e6


def renew(arguments: list[str]) -> None:
    for word in arguments:
        if word.startswith("--container="):
            os.utime(word.partition("=")[2])


def main() -> None:
    runs, ranks, cold = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "cold"
    ways: list[list[str]] = [[]]
    for word in sys.argv[4:]:
        if word == "--":
            ways.append([])
        else:
            ways[-1].append(word)
    for way in ways:
        once(way, ranks)
    times: list[list[float]] = [[] for _ in ways]
    for _ in range(runs):
        for way, found in zip(ways, times):
            if cold:
                renew(way)
            found.append(once(way, ranks))
    json.dump(times, sys.stdout)


main()
