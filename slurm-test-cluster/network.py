# SPDX-License-Identifier: BSD-3-Clause
"""The network: one bridge a suite, in a network namespace that one small process keeps open.

Nothing ever appears in the machine's own network namespace, and all of it goes with that process: no address
of the machine can clash, and two suites cannot meet.
"""

from __future__ import annotations

import subprocess

from state import SWITCH, Cluster, ClusterError, wait_until
from suites import lookup

SWITCH_SCRIPT = r"""
set -eu
ip link set lo up
ip link add br0 type bridge forward_delay 0
ip link set br0 up
read -r stat < /proc/self/stat
echo "$stat" > "$1.new"
mv "$1.new" "$1"
exec sleep infinity
"""


def address(suite: str, node: str) -> str:
    """ctl is .100, nodes count from .101."""
    return f"10.83.{lookup(suite).number}.{100 + (int(node[1:]) if node[0] == 'n' else 0)}"


def start_switch(cluster: Cluster) -> None:
    if cluster.process(SWITCH) is not None:
        return
    record = cluster.run / f"{SWITCH}.init"
    log = cluster.run / "switch.log"
    cluster.start_init(SWITCH, ["unshare", "--net", "sh", "-c", SWITCH_SCRIPT, "switch", str(record)], log)
    wait_until(lambda: cluster.process(SWITCH) is not None, 10, f"the bridge did not start (see {log})")


def plug(cluster: Cluster, node: str, pid: int) -> None:
    """A cable from the bridge to a node: both ends are made where they belong."""
    switch = cluster.process(SWITCH)
    if switch is None:
        raise ClusterError(f"the bridge of suite '{cluster.suite}' is gone: run `cluster down`, then `cluster up`")
    # A node that was cut a moment ago may still hold the bridge's end of its old cable.
    batch(switch.pid, [f"link del {node}"], force=True)
    batch(
        switch.pid,
        [f"link add {node} type veth peer name eth0 netns {pid}", f"link set {node} master br0 up"],
    )
    batch(pid, ["link set lo up", f"addr add {address(cluster.suite, node)}/24 dev eth0", "link set eth0 up"])


def batch(pid: int, lines: list[str], force: bool = False) -> None:
    done = subprocess.run(
        ["nsenter", "--target", str(pid), "--net", "--", "ip", "-batch", "-"],
        text=True,
        input="\n".join(lines) + "\n",
        capture_output=True,
        check=False,
    )
    if done.returncode and not force:
        raise ClusterError(f"ip failed: {done.stderr.strip()} (in: {'; '.join(lines)})")
