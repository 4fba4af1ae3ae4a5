#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Runs on the controller: plain steps and steps in a container in turns, for a time.

    pairs.py SECONDS NODE IMAGE

The answer is JSON: for each kind of step a list of (exit status, stderr); status -1 for one that did not end.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time

PATIENCE = 120.0  # seconds for one step


def step(node: str, words: list[str]) -> tuple[int, str]:
    argv = ["srun", "-Q", "-N1", "-w", node, *words, "true"]
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        return -1, ""
    return done.returncode, done.stderr


def main() -> None:
    seconds, node, image = sys.argv[1:]
    end = time.monotonic() + float(seconds)
    found: dict[str, list[tuple[int, str]]] = {"plain": [], "container": []}
    while time.monotonic() < end:
        found["plain"].append(step(node, []))
        found["container"].append(step(node, [f"--container={image}"]))
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
