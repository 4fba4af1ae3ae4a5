#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Measure the `bollard` command and Apptainer in turn, in the Debian tree of `make peers`.

    bench/peers.py [exec] [build] [--runs 20]

exec     `exec img.sif true`, of an image that Apptainer built (gzip)
build    `build img.sif tree` of about 400 MB of that tree's /usr, each with its default compression

Prints the medians and writes bench/results/sid-SECTION.json: milliseconds of wall time, and the median ratio of pairs,
because the speed of the machine changes during a run.
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

# Runs inside the tree, so that entering the tree is not measured.
_MEASURE = r"""
import subprocess, sys, time
def once(program):
    begin = time.monotonic_ns()
    null = subprocess.DEVNULL
    subprocess.run([program, *sys.argv[2:]], stdin=null, stdout=null, stderr=null, check=True)
    return (time.monotonic_ns() - begin) / 1e6
for program in ("bollard", "apptainer"):
    once(program)
for number in range(int(sys.argv[1])):
    first = ("bollard", "apptainer")[:: 1 if number % 2 else -1]
    took = {program: once(program) for program in first}
    print(took["bollard"], took["apptainer"])
"""
_MEGABYTES = 400
_TREE = f"""
cd && rm -rf bench && mkdir -p bench/tree/usr && cd bench
for part in /usr/bin /usr/lib/python3* /usr/libexec /usr/share /usr/lib/gcc /usr/lib/x86_64-linux-gnu; do
    [ "$(du -sm tree | cut -f1)" -ge {_MEGABYTES} ] || cp -a --parents "$part" tree
done
du -sm tree | cut -f1
"""


def measure(machine: Machine, title: str, words: list[str], runs: int) -> None:
    command = shlex.join(["python3", "-c", _MEASURE, str(runs), *words])
    done = machine.run(f"cd; {command}", timeout=3600)
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
    (HERE / f"results/sid-{title}.json").write_text(json.dumps(found, indent=1) + "\n")
    print(f"{' '.join(words)}: bollard {found['bollard']} ms, apptainer {found['apptainer']} ms, {found['ratio']}")


def main() -> None:
    parser = argparse.ArgumentParser(description="what the command costs beside Apptainer")
    parser.add_argument("sections", nargs="*", metavar="exec|build", help="default: both")
    parser.add_argument("--runs", type=int, default=20, help="pairs; a fifth as many builds; default: %(default)s")
    given = parser.parse_args()
    sections = given.sections or ["exec", "build"]
    machine = Machine()
    try:
        if "exec" in sections:
            measure(machine, "exec", ["exec", f"{IMAGES}/plain.sif", "true"], given.runs)
        if "build" in sections:
            done = machine.run(_TREE, timeout=300)
            print(f"a tree of {done.stdout.decode().strip()} MB")
            measure(machine, "build", ["build", "--force", "bench/img.sif", "bench/tree"], max(2, given.runs // 5))
            machine.run("rm -rf bench")
    finally:
        machine.stop()


if __name__ == "__main__":
    main()
