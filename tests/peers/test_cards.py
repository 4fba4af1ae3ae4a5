# SPDX-License-Identifier: BSD-3-Clause
"""--nv on a machine whose loader knows an NVIDIA driver: the same libraries and programs appear under both."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tree import IMAGES, Machine

LIBRARIES = ("libcuda.so.1", "libnvidia-ml.so.1", "libGL.so.1")


@pytest.fixture
def driver(machine: Machine) -> Iterator[None]:
    """Libraries by the driver's names, and one of its programs; no card."""
    names = " ".join(LIBRARIES)
    made = machine.run(
        f"cd /usr/local/lib; for name in {names}; do "
        "echo 'int f(void) { return 1; }' | gcc -shared -fPIC -Wl,-soname,$name -o $name -x c - || exit 1; done; "
        "echo 'int puts(const char *); int main(void) { puts(\"driver\"); return 0; }' | "
        "gcc -static -o /usr/bin/nvidia-smi -x c - && ldconfig",
        root=True,
    )
    assert made.returncode == 0, made.stderr
    yield
    machine.run(f"cd /usr/local/lib; rm {names} /usr/bin/nvidia-smi; ldconfig", root=True)


def test_the_driver_is_bound(machine: Machine, driver: None) -> None:
    shown = {}
    for program in ("bollard", "apptainer"):
        done = machine.run(
            f"{program} exec --nv {IMAGES}/plain.sif sh -c 'ls /.singularity.d/libs; nvidia-smi; echo $LD_LIBRARY_PATH'"
        )
        shown[program] = done.stdout.decode()
    assert shown["bollard"] == shown["apptainer"]
    assert all(name in shown["bollard"] for name in (*LIBRARIES, "driver"))


def test_a_machine_without_one_says_so(machine: Machine) -> None:
    done = machine.run(f"bollard exec --nv {IMAGES}/plain.sif echo starts")
    assert (done.returncode, done.stdout) == (0, b"starts\n")
    assert b"--nv: peers has no driver for it" in done.stderr
