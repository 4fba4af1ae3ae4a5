# SPDX-License-Identifier: BSD-3-Clause
"""Add packages that few tests need to the running controller. The suites' trees do not change."""

from __future__ import annotations

import subprocess
from pathlib import Path

from state import CONTROLLER, Cluster
from suites import install_packages, read, remove_tree, say, stamp


def add(cluster: Cluster, names: list[str]) -> None:
    """Install packages and their dependencies on the running controller, until the cluster is down."""
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
