# SPDX-License-Identifier: BSD-3-Clause
"""Devices by their CDI names: which specs are read, and what they become."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bollard.runtime.container import cdi
from bollard.runtime.errors import BollardError
from bollard.runtime.request import plan_records, spec


def hook(name: str, *words: str) -> dict[str, object]:
    return {
        "hookName": "createContainer",
        "path": "/usr/bin/nvidia-cdi-hook",
        "args": ["nvidia-cdi-hook", name, *words],
    }


def write(folder: Path, name: str = "gpu.json", **more: object) -> Path:
    content = {
        "cdiVersion": "0.6.0",
        "kind": "nvidia.com/gpu",
        "devices": [
            {"name": "0", "containerEdits": {"deviceNodes": [{"path": "/dev/null"}]}},
            {"name": "all", "containerEdits": {"deviceNodes": [{"path": "/dev/null"}, {"path": "/dev/zero"}]}},
        ],
        **more,
    }
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(json.dumps(content))
    return path


def targets(found: plan_records.Gpus) -> dict[str, str]:
    return {mount.target: mount.source for mount in found.mounts}


def test_device_files_are_bound_where_dev_is_the_containers_own(tmp_path):
    write(tmp_path)

    assert targets(cdi.find(("nvidia.com/gpu=all",), (str(tmp_path),), True)) == {
        "/dev/null": "/dev/null",
        "/dev/zero": "/dev/zero",
    }
    assert cdi.find(("nvidia.com/gpu=all",), (str(tmp_path),), False).mounts == ()


def test_a_device_with_another_name_on_the_host(tmp_path):
    nodes = [{"path": "/dev/card", "hostPath": "/dev/full"}]
    write(tmp_path, devices=[{"name": "0", "containerEdits": {"deviceNodes": nodes}}])

    found = cdi.find(("nvidia.com/gpu=0",), (str(tmp_path),), False)

    assert targets(found) == {"/dev/card": "/dev/full"} and found.mounts[0].devices


def test_libraries_links_and_variables(tmp_path):
    library = tmp_path / "libcuda.so.535.1"
    subprocess.run(["gcc", "-shared", "-Wl,-soname,libcuda.so.1", "-o", library, "-xc", "/dev/null"], check=True)
    write(
        tmp_path,
        containerEdits={
            "env": ["NVIDIA_VISIBLE_DEVICES=void"],
            "mounts": [{"hostPath": str(library), "containerPath": "/usr/lib64/libcuda.so.535.1", "options": ["ro"]}],
            "hooks": [
                hook("create-symlinks", "--link", "libcuda.so.1::/usr/lib64/libcuda.so"),
                hook("create-symlinks", "--link", "libcuda.so.535.1::/usr/lib64/libcuda.so.1", "--link", "x::/usr/y"),
                hook("update-ldcache", "--folder", "/usr/lib64"),
                hook("enable-cuda-compat", "--host-driver-version=535.1"),
            ],
        },
    )

    found = cdi.find(("nvidia.com/gpu=0",), (str(tmp_path),), False)

    assert targets(found) == dict.fromkeys(
        [
            "/usr/lib64/libcuda.so.535.1",
            "/usr/lib64/libcuda.so.1",
            "/usr/lib64/libcuda.so",
            "/.singularity.d/libs/libcuda.so.1",
        ],
        str(library),
    )
    assert all(mount.read_only and mount.only == plan_records.CAN_LOAD for mount in found.mounts)
    assert found.variables == ((b"NVIDIA_VISIBLE_DEVICES", b"void"),) and found.warnings == ()


def test_what_a_container_cannot_have_is_told(tmp_path):
    write(
        tmp_path,
        containerEdits={
            "hooks": [{"hookName": "prestart", "path": "/opt/vendor/hook", "args": ["hook", "go"]}],
            "additionalGids": [987654],
        },
    )

    found = cdi.find(("nvidia.com/gpu=0",), (str(tmp_path),), False)

    assert [line.partition(": ")[2] for line in found.warnings] == [
        "you are not in group 987654, which it asks for",
        "its hook /opt/vendor/hook is not run: hooks are programs of the host",
    ]


def test_the_later_directory_wins_and_two_files_of_one_do_not_agree(tmp_path):
    etc, run = tmp_path / "etc", tmp_path / "run"
    write(etc, containerEdits={"env": ["FROM=etc"]})
    write(run, containerEdits={"env": ["FROM=run"]})
    folders = (str(etc), str(run), str(tmp_path / "none"))

    assert cdi.find(("nvidia.com/gpu=0",), folders, False).variables == ((b"FROM", b"run"),)
    write(run, "other.json")
    with pytest.raises(BollardError, match="gpu=0: is in .*gpu.json and in .*other.json"):
        cdi.find(("nvidia.com/gpu=0",), folders, False)


def test_yaml(tmp_path):
    pytest.importorskip("yaml")
    text = "cdiVersion: 0.6.0\nkind: amd.com/gpu\ndevices:\n- name: '0'\n  containerEdits:\n    env: [A=b]\n"
    (tmp_path / "amd.yaml").write_text(text)

    assert cdi.find(("amd.com/gpu=0",), (str(tmp_path),), False).variables == ((b"A", b"b"),)
    (tmp_path / "amd.yaml").write_text("a: [")
    with pytest.raises(BollardError, match="amd.yaml: cannot be read"):
        cdi.find(("amd.com/gpu=0",), (str(tmp_path),), False)


def test_an_unknown_device_names_those_there_are(tmp_path):
    with pytest.raises(BollardError, match="no device nvidia.com/gpu=7 on .*; .* have no specs"):
        cdi.find(("nvidia.com/gpu=7",), (str(tmp_path), "/nowhere"), False)
    write(tmp_path)
    with pytest.raises(
        BollardError, match="no device nvidia.com/gpu=7 on .*; there are nvidia.com/gpu=0, nvidia.com/gpu=all"
    ):
        cdi.find(("nvidia.com/gpu=7",), (str(tmp_path),), False)


@pytest.mark.parametrize(
    ("edits", "why"),
    [
        ({"mounts": [{"hostPath": "/usr", "containerPath": "/a/../b"}]}, "containerPath '/a/../b' is no path"),
        ({"mounts": [{"hostPath": "/usr", "containerPath": "/"}]}, "containerPath '/' is no path"),
        ({"mounts": [{"hostPath": 7, "containerPath": "/a"}]}, "hostPath 7 is no path"),
        ({"mounts": [[]]}, "mounts: an entry has no names"),
        ({"mounts": {}, "env": "A=b"}, "env is no list"),
        ({"env": ["A"]}, "env 'A' is not NAME=VALUE"),
        ({"deviceNodes": [{"path": "/dev/none-of-this-name"}]}, "/dev/none-of-this-name: is not on"),
        ({"netDevices": [{"hostInterfaceName": "ib0"}]}, "netDevices needs root"),
        ({"hooks": [1]}, "hooks: an entry has no names"),
        ([], ""),
    ],
)
def test_faulty_specs(tmp_path, edits, why):
    write(tmp_path, containerEdits=edits)

    if not why:
        assert cdi.find(("nvidia.com/gpu=0",), (str(tmp_path),), False).mounts == ()
        return
    with pytest.raises(BollardError, match=why.replace("(", ".")):
        cdi.find(("nvidia.com/gpu=0",), (str(tmp_path),), False)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"{", "cannot be read"),
        (b"[" * 100_000, "cannot be read"),
        (b"[]", "is not a CDI spec"),
        (b'{"cdiVersion": "1", "kind": "gpu"}', "is not a CDI spec"),
        (b'{"cdiVersion": "1", "kind": "a/b", "devices": [1]}', "an entry has no name"),
        (b" " * (cdi.SIZE_MAX + 1), "more than 1048576 bytes"),
    ],
)
def test_files_that_are_no_specs(tmp_path, text, why):
    (tmp_path / "a.json").write_bytes(text)

    with pytest.raises(BollardError, match=why):
        cdi.find(("a/b=0",), (str(tmp_path),), False)


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("nvidia.com/gpu=0", ("nvidia.com/gpu=0",)),
        ("nvidia.com/gpu=0,1", ("nvidia.com/gpu=0", "nvidia.com/gpu=1")),
        ("nvidia.com/gpu=0,hpe.com/cxi=2,3", ("nvidia.com/gpu=0", "hpe.com/cxi=2", "hpe.com/cxi=3")),
    ],
)
def test_names_of_devices(value, names):
    assert spec.make([("image", "/i"), ("device", value)]).devices == names


@pytest.mark.parametrize("value", ["/dev/fuse", "gpu=0", "0", "nvidia.com/gpu=", "nvidia.com/gpu", "a/b/c=0"])
def test_what_is_no_name_of_a_device(value):
    with pytest.raises(BollardError, match="device '"):
        spec.make([("image", "/i"), ("device", value)])


def test_directories_are_absolute_for_another_container():
    made = spec.make([("image", "/i"), ("cwd", "/home/u"), ("cdi-dirs", "cdi,/etc/cdi"), ("device", "a/b=0")])

    assert made.cdi_dirs == ("/home/u/cdi", "/etc/cdi")
    assert made.options == b"device=a/b=0 cdi-dirs=/home/u/cdi&/etc/cdi"


def test_the_specs_that_are_made_for_the_check(tmp_path):
    """tests/gpu/cdi_spec.py writes what this reads."""
    program = Path(__file__).resolve().parents[1] / "gpu/cdi_spec.py"
    made = subprocess.run([sys.executable, program, "/usr/lib/driver"], stdout=subprocess.PIPE, check=True).stdout
    (tmp_path / "a.json").write_bytes(made)

    assert "nvidia.com/gpu=all" in [f"{s.kind}={name}" for s in cdi.read((str(tmp_path),)) for name in s.devices()]


def test_device_files_elsewhere_are_no_devices(tmp_path):
    """As with --bind: only what is in the host's /dev can be used as a device."""
    nodes = [{"path": "/dev/card", "hostPath": str(tmp_path)}]
    write(tmp_path, devices=[{"name": "0", "containerEdits": {"deviceNodes": nodes}}])

    assert not cdi.find(("nvidia.com/gpu=0",), (str(tmp_path),), False).mounts[0].devices


def test_a_pipe_is_no_spec(tmp_path):
    os.mkfifo(tmp_path / "a.json")

    with pytest.raises(BollardError, match="cannot be read"):
        cdi.find(("a/b=0",), (str(tmp_path),), False)
