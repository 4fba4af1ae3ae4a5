# SPDX-License-Identifier: BSD-3-Clause
"""What is known of a container: fixed when it is made, but for what its tasks teach."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bollard.runtime.container import mounts, renewal
from bollard.runtime.container.clock import Clock
from bollard.runtime.container.container import Container
from bollard.runtime.image.image import Image
from bollard.runtime.request import plan, plan_records
from bollard.runtime.request.site import Site
from bollard.runtime.request.spec import Spec


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Container]:
    fd = os.open(tmp_path, os.O_RDONLY)
    no_driver = plan_records.Gpus(missing=(plan_records.Driver("nv", "--nv", required=True),))
    spec = Spec("/i.sif", hostname="there", unshare=("uts",))
    report = mounts.Report()
    report.left_out.append("/sys: /sys: No such file or directory")
    report.warnings.append("/sys: No such file or directory; the container starts without it")
    yield Container(
        node="n1", spec=spec, site=Site(), image=Image(str(tmp_path), fd, "directory", (1, 2, 3)),
        plan=plan.make(spec, plan.Facts(gpus=no_driver)), report=report, server=0, server_state=-1,
        image_root=-1, clock=Clock(), saver=None, servers=None, scripts=[], rc=b"", locales=None, command=b"exec",
        instance="", namespace_fds=(), tools=b"", layer=renewal.Layer(),
    )  # fmt: skip
    os.close(fd)


@pytest.mark.parametrize("name", ["spec", "plan", "report", "image", "command", "namespace_fds", "record", "servers"])
def test_what_is_fixed(container: Container, name: str) -> None:
    with pytest.raises(AttributeError, match=f"{name} of a container is fixed"):
        setattr(container, name, None)


def test_what_is_learned(container: Container) -> None:
    container.told, container.warnings = True, []
    assert container.told and container.define_environment(lambda script, env: None) is container.environment


def test_the_node_is_told_by_its_own_name(container: Container) -> None:
    """Not by the one that the container has been given."""
    assert container.warnings == [
        "--nv: n1 has no driver for it; the container starts without",
        "n1: /sys: No such file or directory; the container starts without it",
    ]
    assert ("node", "n1") in container.record.values()


def test_lines_have_the_plan_and_what_became_of_it(container: Container) -> None:
    lines = container.lines()
    assert lines[: len(container.plan.lines())] == container.plan.lines()
    assert lines[-1] == "left out: /sys: /sys: No such file or directory"
