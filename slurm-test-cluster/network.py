# SPDX-License-Identifier: BSD-3-Clause
"""The network: one bridge for each suite, in a network namespace that one small process holds.

The machine's own network namespace is not changed, and the bridge ends with this process. So no address conflicts with
the machine's, and two suites are not connected.
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
    """Return the IP address of a node: the last byte is 100 for the controller, 101 for n1, and so on."""
    return f"10.83.{lookup(suite).number}.{100 + (int(node[1:]) if node[0] == 'n' else 0)}"


def start_switch(cluster: Cluster) -> None:
    """Start the process with the bridge, if it is not running."""
    if cluster.process(SWITCH) is not None:
        return
    record = cluster.run / f"{SWITCH}.init"
    log = cluster.run / "switch.log"
    cluster.start_init(SWITCH, ["unshare", "--net", "sh", "-c", SWITCH_SCRIPT, "switch", str(record)], log)
    wait_until(lambda: cluster.process(SWITCH) is not None, 10, f"the bridge did not start (see {log})")


def plug(cluster: Cluster, node: str, pid: int) -> None:
    """Connect a node to the bridge with a pair of veth interfaces.

    cluster: the cluster of a suite.
    node: the name of the node.
    pid: the process id of its init.

    Raises:
        ClusterError: the bridge is gone, or `ip` fails.
    """
    switch = cluster.process(SWITCH)
    if switch is None:
        raise ClusterError(f"the bridge of suite '{cluster.suite}' is gone: run `cluster down`, then `cluster up`")
    # If the node was killed just now, the bridge can still have the old interface of this name.
    batch(switch.pid, [f"link del {node}"], force=True)
    batch(
        switch.pid,
        [f"link add {node} type veth peer name eth0 netns {pid}", f"link set {node} master br0 up"],
    )
    batch(pid, ["link set lo up", f"addr add {address(cluster.suite, node)}/24 dev eth0", "link set eth0 up"])


def batch(pid: int, lines: list[str], force: bool = False) -> None:
    """Run commands of `ip` in a network namespace.

    pid: the process whose network namespace is used.
    lines: the commands.
    force: ignore errors.

    Raises:
        ClusterError: `ip` fails, and `force` is not set.
    """
    done = subprocess.run(
        ["nsenter", "--target", str(pid), "--net", "--", "ip", "-batch", "-"],
        text=True,
        input="\n".join(lines) + "\n",
        capture_output=True,
        check=False,
    )
    if done.returncode and not force:
        raise ClusterError(f"ip failed: {done.stderr.strip()} (in: {'; '.join(lines)})")
