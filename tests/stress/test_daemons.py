# SPDX-License-Identifier: BSD-3-Clause
"""Slurm reads its configuration again, or slurmd is killed, while steps start: containers do as well as plain steps."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster import Cluster, Images, Process, Work, good, until

PAIRS = Path(__file__).with_name("pairs.py")
PAUSE = 0.5  # seconds between two disturbances
NODE = "n1"


def reconfigure(cluster: Cluster) -> None:
    cluster.exec(["scontrol", "reconfigure"], user="root")


def kill_slurmd(cluster: Cluster) -> None:
    """Kill slurmd at whatever it does, and start it again."""
    slurmd = until(lambda: cluster.named(NODE, "slurmd", "slurmd-wlm"), "slurmd")[0]
    command, environ = (_words(slurmd, name) for name in ("cmdline", "environ"))
    slurmd.kill()
    until(lambda: not slurmd.alive(), "the end of slurmd")
    good(cluster.exec(["env", "-i", *environ, "setsid", *command], node=NODE, user="root"))


def _words(process: Process, name: str) -> list[str]:
    found = [word.decode() for word in Path(f"/proc/{process.pid}/{name}").read_bytes().split(b"\0") if word]
    return [word for word in found if not word.startswith("SLURMD_RECONF")]  # set by an earlier reconfigure


@pytest.mark.parametrize("disturb", [reconfigure, kill_slurmd])
def test_pairs_of_steps(
    cluster: Cluster, images: Images, work: Work, pytestconfig: pytest.Config, disturb: Callable[[Cluster], None]
) -> None:
    seconds = pytestconfig.getoption("--pairs")
    program = work.write("pairs.py", PAIRS.read_bytes())
    with cluster.start(["python3", program, str(seconds), NODE, images.small], cwd=work.path) as running:
        count = 0
        while running.popen.poll() is None:
            disturb(cluster)
            count += 1
            time.sleep(PAUSE)
        found = json.loads(good(running.result()))
    bad = {kind: [done for done in steps if done != [0, ""]] for kind, steps in found.items()}
    states = good(cluster.exec(["sinfo", "-h", "-n", NODE, "-o", "%T"])).strip()
    print(f"{count} disturbances, {len(found['plain'])} pairs; {bad}; the node is {states}")
    assert len(bad["container"]) <= len(bad["plain"]), bad
    assert [done for done in bad["container"] if "bollard" in done[1] or done[0] == -1] == []
    assert "drain" not in states
