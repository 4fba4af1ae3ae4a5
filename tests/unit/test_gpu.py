# SPDX-License-Identifier: BSD-3-Clause
"""Which of the host's libraries a graphics card needs in the container."""

from __future__ import annotations

import os

import pytest

from bollard.runtime.container import gpu
from bollard.runtime.errors import BollardError
from bollard.runtime.request import plan_records
from bollard.runtime.request.site import Site
from bollard.runtime.request.spec import Spec

KNOWN = {
    "libcuda.so.1": "/usr/lib/x86_64-linux-gnu/libcuda.so.1",
    "libnvidia-ml.so.1": "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1",
    "libm.so.6": "/usr/lib/x86_64-linux-gnu/libm.so.6",
}


def test_the_drivers_libraries_and_no_others():
    others = {"libnvidia-container.so.1": "/lib/libnvidia-container.so.1"}
    made = gpu.binds("nv", {**KNOWN, **others}, False)

    targets = {bind.target for bind in made if bind.target.startswith(plan_records.LIBRARIES)}
    assert targets == {f"{plan_records.LIBRARIES}/{name}" for name in ("libcuda.so.1", "libnvidia-ml.so.1")}


@pytest.mark.parametrize(
    ("kind", "name", "only"),
    [
        ("nv", "libcuda.so.1", plan_records.CAN_LOAD),
        ("nv", "libGLX_nvidia.so.0", plan_records.CAN_LOAD),
        ("nv", "libGLX.so.0", plan_records.LACKS),
        ("nv", "libOpenCL.so.1", plan_records.LACKS),
        ("rocm", "libdrm_amdgpu.so.1", plan_records.LACKS),
    ],
)
def test_which_libraries_the_image_may_have_itself(kind, name, only):
    marks = {"nv": "libcuda.so.1", "rocm": "libdrm_amdgpu.so.1"}
    made = gpu.binds(kind, {marks[kind]: f"/lib/{marks[kind]}", name: f"/lib/{name}"}, False)

    assert {bind.only for bind in made if bind.target == f"{plan_records.LIBRARIES}/{name}"} == {only}


def test_a_damaged_cache_of_the_loader_is_told(monkeypatch, tmp_path):
    (tmp_path / "ld.so.cache").write_bytes(b"glibc-ld.so.cache1.1")
    monkeypatch.setattr(gpu.loader_cache, "PATH", str(tmp_path / "ld.so.cache"))

    with pytest.raises(BollardError, match="damaged .cut off in its header.; its administrator should run ldconfig"):
        gpu.find((plan_records.Driver("nv", "--nv", True),), False)


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


@pytest.fixture
def dev(monkeypatch):
    """Make /dev show GPUs; `dev` gets the paths of those that can be opened."""
    openable: set[str] = set()
    monkeypatch.setattr(os, "listdir", lambda path: ["null", "nvidiactl", "nvidia1", "nvidia0", "kfd", "nvidia-caps"])
    monkeypatch.setattr(os, "access", lambda path, mode: path in openable)
    return openable


@pytest.mark.parametrize(
    ("gpus", "setting", "gpus_here", "why"),
    [
        ((), "auto", {"/dev/nvidia1"}, [("nv", "gpu: auto, /dev/nvidia1", True)]),
        ((), "auto", {"/dev/kfd"}, [("rocm", "gpu: auto, /dev/kfd", False)]),
        ((), "auto", {"/dev/nvidiactl"}, []),  # another job's GPUs
        ((), "never", {"/dev/nvidia0"}, []),
        (("no-nv",), "auto", {"/dev/nvidia0"}, []),
        (("no-nv",), "always", set(), []),
        (("nv",), "never", set(), [("nv", "--nv", True)]),
        ((), "always", set(), [("nv", "gpu: always", False)]),
    ],
)
def test_who_gets_a_driver(dev, gpus, setting, gpus_here, why):
    dev |= gpus_here

    found = gpu.chosen(Spec("/i.sif", gpus=gpus), Site(gpu=setting))

    assert [(driver.name, driver.because, driver.required) for driver in found] == why


def test_a_gpu_without_a_driver_is_told_and_not_a_machine_without_both(monkeypatch):
    monkeypatch.setattr(gpu, "of_machine", dict)
    auto, always = plan_records.Driver("nv", "gpu: auto, /dev/nvidia0", True), plan_records.Driver("nv", "gpu: always")

    assert gpu.find((auto,), False).missing == (auto,)
    assert gpu.find((always,), False).missing == () == gpu.find((), False).missing


def test_names_of_a_driver_that_the_loader_does_not_know():
    names = ["libcuda.so", "libcuda.so.1", "libcuda.so.535.1", "libnvidia-glcore.so.535.1", "README"]

    assert gpu.sonames(names) == ["libcuda.so.1", "libnvidia-glcore.so.535.1"]


def test_files_by_which_graphics_find_the_driver(monkeypatch, tmp_path):
    for name in ("egl_vendor.d/10_nvidia.json", "egl_vendor.d/50_mesa.json", "icd.d/nvidia_icd.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    folders = ((f"{tmp_path}/egl_vendor.d", "nvidia"), (f"{tmp_path}/icd.d", "nvidia"), (f"{tmp_path}/none", "nvidia"))
    monkeypatch.setitem(gpu._SETTINGS, "nv", folders)

    paths = [f"{tmp_path}/{name}" for name in ("egl_vendor.d/10_nvidia.json", "icd.d/nvidia_icd.json")]
    assert gpu.settings("nv") == [(path, path) for path in paths]


def test_pipes_of_the_multi_process_service(monkeypatch, tmp_path):
    """Another directory than /tmp/nvidia-mps is named by a variable; the host's /tmp is in the container anyway."""
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path))
    inside = str(tmp_path).startswith("/tmp/")

    assert [bind.target for bind in gpu._mps(False)] == ([] if inside else [str(tmp_path)])
    assert str(tmp_path) in [bind.target for bind in gpu._mps(True)]
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", "relative/../path")
    assert "relative/../path" not in [bind.target for bind in gpu._mps(True)]


def test_libraries_that_are_gone_are_told(monkeypatch, tmp_path):
    """An update of the driver has removed them, and the loader's cache is the old one."""
    libraries = {name: str(tmp_path / name) for name in ("libcuda.so.1", "libnvidia-ml.so.1", "libGLX_nvidia.so.0")}
    monkeypatch.setattr(gpu, "of_machine", lambda: libraries)
    drivers = (plan_records.Driver("nv", "--nv", True),)
    (tmp_path / "libcuda.so.1").touch()
    (tmp_path / "libnvidia-ml.so.1").symlink_to("libnvidia-ml.so.535")
    (line,) = gpu.find(drivers, False).warnings
    gone = f"{tmp_path}/libnvidia-ml.so.1 and 1 more: named by /etc/ld.so.cache and not on this node; left out; "
    assert line == gone + "its administrator should install the driver again, or run ldconfig"

    for name in ("libnvidia-ml.so.535", "libGLX_nvidia.so.0"):
        (tmp_path / name).touch()
    assert gpu.find(drivers, False).warnings == ()
