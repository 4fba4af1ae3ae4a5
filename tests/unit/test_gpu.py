# SPDX-License-Identifier: BSD-3-Clause
"""Which of the host's libraries a graphics card needs in the container."""

from __future__ import annotations

import os

import pytest

from bollard.runtime.container import gpu
from bollard.runtime.errors import BollardError

KNOWN = {
    "libcuda.so.1": "/usr/lib/x86_64-linux-gnu/libcuda.so.1",
    "libnvidia-ml.so.1": "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1",
    "libm.so.6": "/usr/lib/x86_64-linux-gnu/libm.so.6",
}


def test_the_drivers_libraries_and_no_others():
    made = gpu.binds("nv", KNOWN, False)

    targets = {bind.target for bind in made if bind.target.startswith(gpu.LIBRARIES)}
    assert targets == {f"{gpu.LIBRARIES}/{name}" for name in ("libcuda.so.1", "libnvidia-ml.so.1")}


def test_a_damaged_cache_of_the_loader_is_told(monkeypatch, tmp_path):
    (tmp_path / "ld.so.cache").write_bytes(b"glibc-ld.so.cache1.1")
    monkeypatch.setattr(gpu.loader_cache, "PATH", str(tmp_path / "ld.so.cache"))

    with pytest.raises(BollardError, match="damaged .cut off in its header.; its administrator should run ldconfig"):
        gpu.find(("nv",), False)


@pytest.mark.parametrize("kind", ["nv", "rocm"])
def test_a_machine_without_cards(kind):
    """Libraries that others share, libdrm or libGL, do not make one."""
    assert gpu.binds(kind, {"libdrm.so.2": "/lib/libdrm.so.2", "libGL.so.1": "/lib/libGL.so.1"}, True) == []


def test_devices_where_dev_is_the_containers_own(monkeypatch):
    monkeypatch.setattr(os, "listdir", lambda path: ["null", "nvidia0", "nvidiactl"])

    made = gpu.binds("nv", KNOWN, True)

    devices = [bind for bind in made if bind.target.startswith("/dev/")]
    assert [bind.source for bind in devices] == ["/dev/nvidia0", "/dev/nvidiactl"]
    assert all(bind.devices and not bind.read_only for bind in devices)
