# SPDX-License-Identifier: BSD-3-Clause
"""Attacks by another user who may write to the directory in which a container is saved."""

from __future__ import annotations

import pytest
from cluster import Cluster, Images, Work, good


@pytest.mark.parametrize("name", ["saved.sqsh", "saved.sif"])
def test_links_of_another_user_are_not_followed(cluster: Cluster, images: Images, work: Work, name: str) -> None:
    """bob sees the saver's process id long before it writes. What he puts there leads to another file of alice's."""
    place = f"/tmp/{work.path[-8:]}"
    good(cluster.exec(f"mkdir {place}; chmod 777 {place}; echo mine > {work.path}/other", "n1"))
    words = ["srun", "-Q", "-w", "n1", f"--container={images.small}", f"--container-save={place}/{name}"]
    try:
        with cluster.start([*words, "sh", "-c", work.pause("in")]) as step:
            work.wait_for("in")
            plant = f"for pid in $(pgrep bollard-saver); do ln -s {work.path}/other {place}/.{name}.$pid && echo; done"
            assert good(cluster.exec(plant, "n1", "bob")) == "\n"
            work.go_on("in")
            assert step.result().rc == 0
        assert work.read("other") == "mine\n"
        good(cluster.exec(f"test -s {place}/{name} && ! test -L {place}/{name}", "n1"))
    finally:
        good(cluster.exec(f"rm -r {place}", "n1", "root"))
