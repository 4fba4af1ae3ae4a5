# SPDX-License-Identifier: BSD-3-Clause
"""Add packages that few tests need to a running node. The suites' trees do not change."""

from __future__ import annotations

import subprocess
from pathlib import Path

from state import Cluster
from suites import ensure_layer, stamp


def add(cluster: Cluster, names: list[str], node: str) -> None:
    """Install packages and their dependencies on a running node, until the cluster is down.

    cluster  the cluster, which is up
    names    the packages
    node     the name of the node; its files of /etc and /var/lib stay, those that it lacks are added
    """
    name = "-".join(["packages", *sorted(names)])
    files = ensure_layer(cluster, name, stamp(cluster.suite), tuple(names))
    root = Path(f"/proc/{cluster.init(node)}/root")
    subprocess.run(["cp", "-a", "--remove-destination", f"{files}/usr/.", f"{root}/usr/"], check=True)
    for folder in ("etc", "var/lib"):
        if (files / folder).is_dir():
            subprocess.run(["cp", "-a", "--no-clobber", f"{files}/{folder}/.", f"{root}/{folder}/"], check=True)
