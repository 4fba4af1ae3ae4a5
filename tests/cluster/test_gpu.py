# SPDX-License-Identifier: BSD-3-Clause
"""GPUs: who gets the host's driver, what of it an image can load, and CDI devices. No card: see drivers.py."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import drivers
import pytest
from cluster import Cluster, Images, Work, good

NODE = "n1"
# Loads the driver as a program does that is linked to it.
LOAD = ("env", "LD_PRELOAD=libcuda.so.1", "true")
NOT_FOUND = "object 'libcuda.so.1' from LD_PRELOAD cannot be preloaded"


@pytest.fixture(scope="module")
def node_with_card(cluster: Cluster) -> Iterator[str]:
    drivers.install(cluster, NODE)
    drivers.show_card(cluster, NODE)
    yield NODE
    drivers.hide_card(cluster, NODE)
    drivers.remove(cluster, NODE)


@pytest.mark.every_release
def test_the_driver_without_a_word(cluster: Cluster, images: Images, node_with_card: str) -> None:
    step = ["-w", NODE, f"--container={images.small}"]

    assert good(cluster.srun(*step, *LOAD)) == f"{drivers.LOADED}\n"
    assert good(cluster.srun(*step, "nvidia-smi")) == "card\n"
    assert NOT_FOUND in cluster.srun(*step, "--container-opts=--no-nv", *LOAD).err
    elsewhere = cluster.srun("-w", "n2", f"--container={images.small}", *LOAD)
    assert (elsewhere.rc, NOT_FOUND in elsewhere.err, "bollard" in elsewhere.err) == (0, True, False)


def test_a_gpu_of_another_job_is_none(cluster: Cluster, images: Images, node_with_card: str) -> None:
    """The keeper asks access(2), which the device cgroup answers too; here the file's mode does."""
    good(cluster.exec("chmod 600 /dev/nvidia0", NODE, "root"))
    try:
        done = cluster.srun("-w", NODE, f"--container={images.small}", *LOAD)
    finally:
        good(cluster.exec("chmod 666 /dev/nvidia0", NODE, "root"))
    assert NOT_FOUND in done.err


def test_a_gpu_without_a_driver_is_told(cluster: Cluster, images: Images) -> None:
    drivers.show_card(cluster, "n2")
    try:
        done = cluster.srun("-w", "n2", f"--container={images.small}", "true")
    finally:
        drivers.hide_card(cluster, "n2")
    why = "gpu: auto, /dev/nvidia0: n2 has no driver for it; the container starts without"
    assert (done.rc, done.err) == (0, f"bollard: {why}\n")


def test_it_is_in_the_plan(cluster: Cluster, images: Images, node_with_card: str) -> None:
    lines = good(cluster.exec(["bollard", "plan", images.small, "true"], NODE)).splitlines()
    assert "  GPU driver  nv  (gpu: auto, /dev/nvidia0)" in lines
    told = json.loads(good(cluster.exec(["bollard", "plan", "--json", "--rocm", "--no-nv", images.small], NODE)))
    assert (told["drivers"], told["missing_gpus"]) == ([], ["rocm"])


@pytest.mark.parametrize("setting", ["never", "always"])
def test_what_the_site_decides(cluster: Cluster, images: Images, node_with_card: str, setting: str) -> None:
    """`always` shows it where no card can be opened, and on a node without a driver says nothing."""
    write = f"mkdir -p /etc/bollard; echo 'gpu: {setting}' > /etc/bollard/bollard.yaml; bollard site configure"
    undo = "rm -r /etc/bollard; bollard site configure"
    good(cluster.exec("chmod 600 /dev/nvidia0", NODE, "root"))
    for node in (NODE, "n2"):
        assert cluster.exec(write, node, "root").rc == 0
    try:
        here = cluster.srun("-w", NODE, f"--container={images.small}", *LOAD)
        asked = cluster.srun("-w", NODE, f"--container={images.small}", "--container-opts=--nv", *LOAD)
        elsewhere = cluster.srun("-w", "n2", f"--container={images.small}", "true")
    finally:
        good(cluster.exec("chmod 666 /dev/nvidia0", NODE, "root"))
        for node in (NODE, "n2"):
            cluster.exec(undo, node, "root")
    assert (here.out == f"{drivers.LOADED}\n") == (setting == "always"), here
    assert good(asked) == f"{drivers.LOADED}\n"
    assert good(elsewhere) == ""


@pytest.fixture(scope="module")
def plain(cluster: Cluster, images: Images) -> Iterator[Path]:
    """A directory of NODE's with a shell, as an image without .singularity.d."""
    root = cluster.path(NODE, "/srv/plain")
    root.mkdir()
    names = "bin lib lib64 usr/bin/{sh,dash,env,true} usr/lib64 usr/lib/*-linux-gnu*/{ld-*,libc.so.6,libc-*}"
    command = f"shopt -s nullglob; cp -a --parents {names} {root}; cd {root}; mkdir -p etc proc sys dev tmp var/tmp"
    subprocess.run(["bash", "-ec", command], cwd=images.small_tree, check=True)
    yield root
    shutil.rmtree(root, ignore_errors=True)  # gone already where a test of another site started the node anew


@pytest.mark.parametrize("variable", [[], ["--env", "LD_LIBRARY_PATH=/nowhere"], ["--cleanenv"]])
def test_an_image_without_apptainers_scripts(
    cluster: Cluster, node_with_card: str, plain: Path, variable: list[str]
) -> None:
    assert good(cluster.exec(["bollard", "exec", *variable, "/srv/plain", *LOAD], NODE)) == f"{drivers.LOADED}\n"


def test_an_images_own_newer_cuda(cluster: Cluster, node_with_card: str, plain: Path) -> None:
    """Its note has to name the host's driver, 535."""
    command = ["bollard", "exec", "--verbose", "/srv/plain", *LOAD]
    folder = plain / "usr/local/cuda-13.0/compat"
    folder.mkdir(parents=True)
    (plain / "usr/local/cuda").symlink_to("cuda-13.0")
    (folder / "libcuda.so.1").symlink_to("libcuda.so.580.95.05")
    try:
        for releases, text in (("550,580", drivers.LOADED), ("535,550", "the image's")):
            drivers.compile_library(
                folder / "libcuda.so.580.95.05", "libcuda.so.1", drivers.talking("the image's"), releases
            )
            done = cluster.exec(command, NODE)
            assert done.out == f"{text}\n", done
        line = "used: /usr/local/cuda/compat of the image, CUDA of driver 580.95.05: this node's is 535.104.05"
        assert line in done.err
    finally:
        shutil.rmtree(plain / "usr/local")


def test_libraries_that_the_image_cannot_load(cluster: Cluster, images: Images, node_with_card: str) -> None:
    """An image of Debian 11 on a node of Debian 12."""
    folder, newer = "/.singularity.d/libs", f"--container={images.sif('bookworm', 'small')}"
    path = cluster.path(NODE, f"{drivers.FOLDER}/libnvidia-ml.so.1")
    look = ("sh", "-c", f"ls {folder}/libcuda.so.1 {folder}/libnvidia-ml.so.1 2>/dev/null; true")
    drivers.compile_library(path, path.name, drivers.NEW_GLIBC)
    try:
        done = cluster.srun("-w", NODE, f"--container={images.small}", *look)
        silent = cluster.srun("-w", NODE, newer, *look)
    finally:
        drivers.compile_library(path, path.name)
    assert done == (
        0,
        f"{folder}/libcuda.so.1\n",
        "bollard: n1: the image's glibc (symbols up to 2.30) is too old for libnvidia-ml.so.1 (2.36) of the GPU "
        "driver; the container starts without; use an image with a newer glibc\n",
    )
    assert good(silent) == f"{folder}/libcuda.so.1\n{folder}/libnvidia-ml.so.1\n"


def test_a_program_that_is_a_script_of_the_node(cluster: Cluster, images: Images, node_with_card: str) -> None:
    good(cluster.exec("mv /usr/bin/nvidia-smi /root/real; printf '#!/bin/sh\\n' > /usr/bin/nvidia-smi", NODE, "root"))
    try:
        done = cluster.srun("-w", NODE, f"--container={images.small}", "sh", "-c", "! command -v nvidia-smi")
    finally:
        good(cluster.exec("mv /root/real /usr/bin/nvidia-smi", NODE, "root"))
    why = "/usr/bin/nvidia-smi is a script of this node, which would not run in the container; left out"
    assert (done.out, done.err) == ("", f"bollard: n1: {why}\n")


def test_files_by_which_graphics_find_the_driver(cluster: Cluster, images: Images, node_with_card: str) -> None:
    files = "/usr/share/vulkan/icd.d/nvidia_icd.json /etc/OpenCL/vendors/nvidia.icd /run/nvidia-persistenced/socket"
    make = f"for f in {files}; do mkdir -p $(dirname $f); echo $f > $f; chmod 644 $f; done"
    good(cluster.exec(make, NODE, "root"))
    try:
        done = cluster.srun("-w", NODE, f"--container={images.small}", "sh", "-c", f"cat {files}")
    finally:
        good(cluster.exec(f"rm -r {files} /run/nvidia-persistenced", NODE, "root"))
    assert good(done).split() == files.split()


SPEC = {
    "cdiVersion": "0.6.0",
    "kind": "nvidia.com/gpu",
    "devices": [{"name": "0", "containerEdits": {"deviceNodes": [{"path": "/dev/nvidia0"}]}}],
    "containerEdits": {
        "env": ["NVIDIA_VISIBLE_DEVICES=void"],
        "deviceNodes": [{"path": "/dev/nvidiactl"}],
        "mounts": [
            {
                "hostPath": f"{drivers.FOLDER}/{drivers.CUDA}",
                "containerPath": f"/usr/lib/driver/{drivers.CUDA}",
                "options": ["ro", "nosuid", "nodev", "bind"],
            }
        ],
        "hooks": [
            {
                "hookName": "createContainer",
                "path": "/usr/bin/nvidia-cdi-hook",
                "args": ["nvidia-cdi-hook", "update-ldcache", "--folder", "/usr/lib/driver"],
            },
            {
                "hookName": "createContainer",
                "path": "/usr/bin/nvidia-cdi-hook",
                "args": ["nvidia-cdi-hook", "create-symlinks", "--link", f"{drivers.CUDA}::/usr/lib/driver/libcuda.so"],
            },
        ],
    },
}  # fmt: skip
YAML = """\
cdiVersion: 0.6.0
kind: example.com/card
devices:
- name: a
  containerEdits:
    env:
    - CARD=a
"""


@pytest.fixture
def specs(cluster: Cluster) -> Iterator[None]:
    folder = cluster.path(NODE, "/etc/cdi")
    folder.mkdir()
    (folder / "nvidia.json").write_text(json.dumps(SPEC))
    (folder / "example.yaml").write_text(YAML)
    yield
    shutil.rmtree(folder)


@pytest.mark.every_release
def test_devices_by_their_names(cluster: Cluster, images: Images, work: Work, node_with_card: str, specs: None) -> None:
    step = ["-w", NODE, f"--container={images.small}"]
    look = "ls /dev/nvidia* /usr/lib/driver; echo $NVIDIA_VISIBLE_DEVICES $CARD"

    asked = ["--container-device=nvidia.com/gpu=0,example.com/card=a", "--container-opts=--contain --no-nv"]
    done = cluster.srun(*step, *asked, "sh", "-c", look)
    assert good(done).split() == [
        "/dev/nvidia0", "/dev/nvidiactl", "/usr/lib/driver:", "libcuda.so", drivers.CUDA, "void", "a",
    ]  # fmt: skip
    loaded = cluster.srun(*step, "--container-device=nvidia.com/gpu=0", "--container-opts=--no-nv", *LOAD)
    assert good(loaded) == f"{drivers.LOADED}\n"
    unknown = cluster.srun(*step, "--container-device=nvidia.com/gpu=9", "true")
    assert unknown.rc == 255
    assert "no device nvidia.com/gpu=9 on n1; there are example.com/card=a, nvidia.com/gpu=0" in unknown.err
    by_hand = cluster.exec(
        ["bollard", "exec", "--device", "nvidia.com/gpu=0", "--cdi-dirs", "/etc/cdi", images.small, *LOAD], NODE
    )
    assert good(by_hand) == f"{drivers.LOADED}\n"


@pytest.fixture(scope="module")
def site_with_cards(cluster: Cluster) -> Iterator[None]:
    """Start the cluster with two GPUs in each node, as Slurm's generic resources; devices are constrained."""
    cluster.front("down")
    try:
        cluster.front("up", "--plugin", "--site", "gpus")
        drivers.install(cluster, NODE)
        yield
    finally:
        cluster.front("down")
        cluster.front("up", "--plugin")


def test_a_job_with_gpus_gets_the_driver_and_another_does_not(
    cluster: Cluster, images: Images, site_with_cards: None
) -> None:
    step = ["-w", NODE, f"--container={images.small}"]

    assert good(cluster.srun("--gres=gpu:1", *step, *LOAD)) == f"{drivers.LOADED}\n"
    assert NOT_FOUND in cluster.srun(*step, *LOAD).err


def test_slurms_choice_of_gpus_wins_over_the_images(
    cluster: Cluster, images: Images, work: Work, site_with_cards: None
) -> None:
    """The image sets CUDA_VISIBLE_DEVICES in its script of /.singularity.d/env; the user's own value wins over all."""
    show = ("sh", "-c", "echo $CUDA_VISIBLE_DEVICES")
    asked = ["--gres=gpu:1", "-w", NODE, f"--container={work.path}/image"]
    script = "export CUDA_VISIBLE_DEVICES=7\n"
    made = f"bollard build --sandbox {work.path}/image {images.small}"
    assert cluster.exec(made, NODE).rc == 0
    work.write("image/.singularity.d/env/90-environment.sh", script)

    assert good(cluster.exec(["bollard", "exec", f"{work.path}/image", *show], NODE)) == "7\n"
    assert good(cluster.srun(*asked, *show)) == "0\n"
    assert good(cluster.srun(*asked, "--container-opts=--cleanenv", *show)) == "0\n"
    assert good(cluster.srun(*asked, "--container-opts=--env CUDA_VISIBLE_DEVICES=none", *show)) == "none\n"
