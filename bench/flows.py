#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Measure a large flow on the test cluster: the time to submit it, to see it through, and what slurmctld pays.

    bench/flows.py [--jobs 1000] [--width 50] [--suite bookworm]

The flow is JOBS jobs in chains: WIDTH chains side by side, each job needs the one before it. Each job runs `true` in a
container. slurmctld's CPU time is that of its process. Then `flow status` is timed for JOBS jobs, and for an array of
10 000 elements whose states are made up, from a directory alone, without an answer of Slurm.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

from run import cluster, made, shared

TICKS = os.sysconf("SC_CLK_TCK")


def controller_seconds(suite: str) -> float:
    """CPU time of slurmctld so far."""
    line = cluster(suite, "bash", "-c", "cat /proc/$(pgrep -o slurmctld)/stat", user="root")
    fields = line.rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def timed(suite: str, line: str) -> tuple[float, str]:
    begun = time.monotonic()
    said = cluster(suite, "bash", "-c", f"cd ~ && {line}")
    return time.monotonic() - begun, said.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure a large flow.")
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--width", type=int, default=50)
    parser.add_argument("--suite", default="bookworm")
    asked = parser.parse_args()
    suite = asked.suite
    made(suite, "small")
    jobs = {}
    for at in range(asked.jobs):
        needs = [f"j{at - asked.width}"] if at >= asked.width else []
        jobs[f"j{at}"] = {"image": f"/images/{suite}-small.sif", "command": ["true"], "needs": needs}
    place = shared(suite, "/home/alice/bench-flow.yaml")
    place.write_text(json.dumps({"jobs": jobs}))
    place.chmod(0o644)

    before = controller_seconds(suite)
    submitting, name = timed(suite, "bollard flow submit bench-flow.yaml")
    submitted = controller_seconds(suite)
    waiting, said = timed(suite, f"bollard flow status --wait {name} > bench-flow.out; tail -1 bench-flow.out")
    after = controller_seconds(suite)
    looking, _ = timed(suite, f"bollard flow status {name} > bench-flow.out")
    fake = shared(suite, f"/home/alice/.local/state/bollard/flows/{name}")
    plan = json.loads((fake / "plan.json").read_text())
    plan["jobs"] = [
        {"name": "a", "kind": "job", "key": "", "skipped": False, "all": list(range(10_000)),
         "indexes": list(range(10_000)), "needs": []}
    ]  # fmt: skip
    (fake / "plan.json").write_text(json.dumps(plan))
    (fake / "ids").write_text("1 a 1\n")
    for path in fake.glob("verdict.*"):
        path.unlink()
    record = "state=ok job=1 start=1 end=2 status=0 attempt=1 restart=0 node=n1".ljust(510) + ".\n"
    for at in range(10_000):
        (fake / f"state/a.{at}").write_text(record)
    many, _ = timed(suite, f"bollard flow status {name} > bench-flow.out")
    cluster(suite, "bash", "-c", f"cd ~ && bollard flow cancel --remove {name}; rm bench-flow.yaml bench-flow.out")
    found = {
        "suite": suite, "jobs": asked.jobs, "width": asked.width, "end": said.rpartition(": ")[2],
        "submit_seconds": round(submitting, 1), "seen_through_seconds": round(submitting + waiting, 1),
        "slurmctld_submit_seconds": round(submitted - before, 2), "slurmctld_seconds": round(after - before, 2),
        "status_seconds": round(looking, 2), "status_of_10000_seconds": round(many, 2),
    }  # fmt: skip
    Path(__file__).with_name("results").joinpath(f"{suite}-flows.json").write_text(json.dumps(found, indent=2) + "\n")
    for name, value in found.items():
        print(f"{name:<28}{value}")


if __name__ == "__main__":
    main()
