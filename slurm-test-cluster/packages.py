# SPDX-License-Identifier: BSD-3-Clause
"""Add packages that few tests need to a running node. The suites' trees do not change."""

from __future__ import annotations

import subprocess
from pathlib import Path

from state import Cluster
from suites import install_packages, read, remove_tree, say, stamp


def add(cluster: Cluster, names: list[str], node: str) -> None:
    """Install packages and their dependencies on a running node, until the cluster is down.

    cluster  the cluster, which is up
    names    the packages
    node     the name of the node; its files of /etc and /var/lib stay, those that it lacks are added
    """
    layer = cluster.cache / "-".join(["packages", *sorted(names)])
    if read(layer / ".stamp") != stamp(cluster.suite):
        building, log = Path(f"{layer}.new"), Path(f"{layer}.log")
        remove_tree(building)
        log.unlink(missing_ok=True)
        say(f"installing {' '.join(names)} for {node} (log: {log})")
        install_packages(cluster, building, log, ":", [""], tuple(names))
        (building / ".stamp").write_text(stamp(cluster.suite))
        remove_tree(layer)
        building.rename(layer)
    root = Path(f"/proc/{cluster.init(node)}/root")
    subprocess.run(["cp", "-a", "--remove-destination", f"{layer}/upper/usr/.", f"{root}/usr/"], check=True)
    for folder in ("etc", "var/lib"):
        if (layer / "upper" / folder).is_dir():
            subprocess.run(["cp", "-a", "--no-clobber", f"{layer}/upper/{folder}/.", f"{root}/{folder}/"], check=True)
