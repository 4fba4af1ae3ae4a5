# SPDX-License-Identifier: BSD-3-Clause
"""Attacks by a user on the site's rules about the places of images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster, Images, Work, good

FOLDER = "/srv/allowed"
SERVER = Path(__file__).with_name("fuse_server.py")
WHY = "in another mount namespace, or was unmounted while it was opened"
RULES = {
    "images-allowed": f"images-allowed: [{FOLDER}]\n",
    "images-forbidden": "images-forbidden: [/tmp]\n",
    "trust": f"trust:\n  mode: enforce\n  rules:\n    - from: {FOLDER}\n    - {{from: /tmp, refuse: yes}}\n",
}


@pytest.fixture
def shared_root(cluster: Cluster) -> Iterator[None]:
    """Mounts propagate on n1, as systemd sets it up on each machine."""
    good(cluster.exec(f"mount --make-rshared / && mkdir -p {FOLDER}", "n1", "root"))
    yield
    undo = f"rm -rf /etc/bollard; bollard site configure; mount --make-rprivate /; rmdir {FOLDER}"
    good(cluster.exec(undo, "n1", "root"))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.usefixtures("shared_root")
def test_a_filesystem_that_is_unmounted_while_the_keeper_reads_it(
    cluster: Cluster, images: Images, work: Work, rule: str
) -> None:
    """The kernel then shows a path that begins at the root of the user's filesystem: one that the site allows."""
    configure = f"mkdir -p /etc/bollard; printf %s '{RULES[rule]}' > /etc/bollard/bollard.yaml; bollard site configure"
    good(cluster.exec(configure, "n1", "root"))
    place = f"/tmp/{work.path[-8:]}"  # of n1 alone, so that n1 decides
    program = work.write("fuse_server.py", SERVER.read_bytes())
    serve = f"mkdir {place} && python3 {program} {place} {images.small} {FOLDER}/own.sif"
    with cluster.start(["sh", "-c", serve], node="n1") as server:
        assert server.popen.stdout is not None and server.popen.stdout.readline() == "serving\n"
        done = cluster.srun("-w", "n1", f"--container={place}{FOLDER}/own.sif", "true")
        cluster.exec(f"fusermount -uz {place} 2> /dev/null; rmdir {place}", "n1")
    assert done.rc != 0 and WHY in done.err and len(done.complaints()) == 1, done
