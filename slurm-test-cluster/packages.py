# SPDX-License-Identifier: BSD-3-Clause
"""Packages that few tests need, added to the running controller: the suites' trees stay as they are."""

from __future__ import annotations

import subprocess
from pathlib import Path

from state import CONTROLLER, Cluster
from suites import install_packages, read, remove_tree, say, stamp


def add(cluster: Cluster, names: list[str]) -> None:
    """Put the packages `names`, with what they need, on the running controller; gone with the cluster."""
    layer = cluster.cache / "-".join(["packages", *sorted(names)])
    if read(layer / ".stamp") != stamp(cluster.suite):
        building, log = Path(f"{layer}.new"), Path(f"{layer}.log")
        remove_tree(building)
        log.unlink(missing_ok=True)
        say(f"installing {' '.join(names)} for the controller (log: {log})")
        install_packages(cluster, building, log, ":", [""], tuple(names))
        (building / ".stamp").write_text(stamp(cluster.suite))
        remove_tree(layer)
        building.rename(layer)
    root = Path(f"/proc/{cluster.init(CONTROLLER)}/root")
    subprocess.run(["cp", "-a", "--remove-destination", f"{layer}/upper/usr/.", f"{root}/usr/"], check=True)
