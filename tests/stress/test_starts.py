# SPDX-License-Identifier: BSD-3-Clause
"""Containers of images with relative links, started while others start: each has all its mounts."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from cluster import Cluster, Images, Work, good
from linked import KINDS, base

DRIVE = Path(__file__).with_name("starts.py")
HOURS = 4 * 3600.0


def test_starts_beside_starts(cluster: Cluster, images: Images, work: Work, pytestconfig: pytest.Config) -> None:
    from bollard.runtime.image.pack import build

    count, made = pytestconfig.getoption("--starts"), []
    for kind, links in KINDS.items():
        links(base(work.here / kind))
        made.append(f"{work.path}/{kind}.sif")
        build(str(work.here / f"{kind}.sif"), str(work.here / kind))
        os.chmod(work.here / f"{kind}.sif", 0o644)
    (work.here / "host").mkdir()
    work.write("host/sock", "")
    here = good(cluster.exec("cat /etc/localtime /etc/resolv.conf", node="n1"))
    program = work.write("starts.py", DRIVE.read_bytes())
    words = ["python3", program, str(count), f"{work.path}/host", images.small, *made]

    found = json.loads(good(cluster.exec(words, node="n1", cwd=work.path, seconds=HOURS)))

    right = [count, 0, f"/run/munge:\nsock\n\n/srv/data/x:\nsock\n{here}", ""]
    assert found == {image: [right] for image in made}
