#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Runs on the cluster's controller, within an allocation: starts many steps of it, cancels them, tells what came.

    drive.py crowd  < COMMANDS              start all at once, wait for all
    drive.py cancel SEED AT-ONCE < COMMANDS start AT-ONCE at a time, end each at a random moment

COMMANDS is JSON: a list of what each srun gets behind its name. The answer is JSON too: for each (exit status,
stdout, stderr, how it was ended).
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

# A step that is still there so long after its end was asked for has failed.
PATIENCE = 180.0
GRACE = 5.0
JOB = os.environ["SLURM_JOB_ID"]


def start(number: int, words: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["srun", "-Q", "--overlap", f"--job-name=stress-{number}", *words],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace",
    )  # fmt: skip


def finish(step: subprocess.Popen[str], how: str) -> tuple[int, str, str, str]:
    try:
        out, err = step.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        step.kill()
        out, err = step.communicate()
        return -1, out, err, f"{how}: still there after {PATIENCE:.0f} s"
    return step.returncode, out, err, how


def step_id(number: int) -> str:
    """JOB.STEP of a step by its name; "" while it has none."""
    listed = subprocess.run(
        ["squeue", "-h", "-s", "-j", JOB, "-o", "%i %j"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    for line in listed.stdout.splitlines():
        name, _, title = line.partition(" ")
        if title.strip() == f"stress-{number}":
            return name
    return ""


def end(number: int, step: subprocess.Popen[str], how: str) -> str:
    """End a step in one of the ways that users have; what was done."""
    if how != "srun":
        found = step_id(number)
        if found:
            force = ["--signal=KILL"] if how == "kill" else []
            subprocess.run(["scancel", "-Q", *force, found], check=False)
            return how
    step.terminate()
    return "srun"


def insist(number: int, step: subprocess.Popen[str], how: str) -> str:
    """Signal a step until it ends. Slurm tells a signal to the nodes alone where the step runs by then, and a task may
    want to hear no SIGTERM of srun's: in a container or not."""
    for _ in range(int(PATIENCE / GRACE)):
        try:
            step.wait(GRACE)
            return how
        except subprocess.TimeoutExpired:
            how = f"{how.split()[0]} repeated"
            subprocess.run(["scancel", "-Q", "--signal=KILL", step_id(number)], check=False)
    return how


def usual_seconds(words: list[str]) -> float:
    """How long a step takes here until its task says its first word; it is ended then."""
    begin = time.monotonic()
    step = start(0, words)
    assert step.stdout is not None
    step.stdout.readline()
    took = time.monotonic() - begin
    step.terminate()
    finish(step, "srun")
    return took


def cancel(commands: list[list[str]], seed: int, at_once: int) -> list[tuple[int, str, str, str]]:
    usual = usual_seconds(commands[0]) * at_once
    chance = random.Random(seed)
    plans = [(chance.uniform(0, usual), chance.choice(["scancel", "scancel", "kill", "srun"])) for _ in commands]

    def one(number: int) -> tuple[int, str, str, str]:
        delay, how = plans[number]
        step = start(number + 1, commands[number])
        time.sleep(delay)
        done = end(number + 1, step, how)
        return finish(step, done if done == "scancel" else insist(number + 1, step, done))

    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(one, range(len(commands))))


def crowd(commands: list[list[str]]) -> list[tuple[int, str, str, str]]:
    steps = [start(number, words) for number, words in enumerate(commands)]
    answers: list[tuple[int, str, str, str]] = [(-1, "", "", "")] * len(steps)

    def collect(number: int) -> None:
        answers[number] = finish(steps[number], "ran")

    threads = [threading.Thread(target=collect, args=(number,)) for number in range(len(steps))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def main() -> None:
    commands = json.load(sys.stdin)
    seeds = [int(word) for word in sys.argv[2:]]
    json.dump(crowd(commands) if sys.argv[1] == "crowd" else cancel(commands, *seeds), sys.stdout)


if __name__ == "__main__":
    main()
