# SPDX-License-Identifier: BSD-3-Clause
"""A disk that cannot be read is not taken for a damaged image, and each command names the file."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from building import USER, Builder
from fetcher import Fetcher
from linked import base

SIZE = 40 << 20  # bytes of the image; its tables are at its end
FAULT = "the disk or its file server cannot be read or written (input/output error)"


@pytest.fixture(scope="module")
def broken(builder: Builder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An image on a disk whose second half gives EIO: a loop device whose file has been cut."""
    if os.geteuid() != 0:
        pytest.skip("only root mounts a disk")
    tree = builder.work / "disks"
    base(tree)
    (tree / "large").write_bytes(os.urandom(SIZE))
    image = builder.work / "disks.sif"
    builder.build(image, tree)
    folder = tmp_path_factory.mktemp("disks")
    disk, place = folder / "disk", folder / "mnt"
    place.mkdir()
    disk.touch()
    os.truncate(disk, 2 * SIZE)
    subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", disk], check=True)
    subprocess.run(["mount", "-o", "loop", disk, place], check=True)
    (place / "i.sif").write_bytes(image.read_bytes())
    os.chown(place / "i.sif", USER, USER)
    subprocess.run(["umount", place], check=True)
    shown = subprocess.run(["losetup", "-f", "--show", disk], stdout=subprocess.PIPE, text=True, check=True)
    device = shown.stdout.strip()
    try:
        os.truncate(disk, SIZE // 2)
        subprocess.run(["mount", "-o", "ro", device, place], check=True)
        for path in (folder, *folder.parents[:2]):  # pytest's own directories
            os.chmod(path, 0o755)
        yield place / "i.sif"
    finally:
        subprocess.run(["umount", place], check=False)
        subprocess.run(["losetup", "-d", device], check=True)


def test_exec(fetcher: Fetcher, installed: str, broken: Path) -> None:
    status, _, err = fetcher.run("exec", broken, "true", PYTHONPATH=installed)
    assert status == 255 and err.count("\n") == 1, err
    assert err.startswith(f"bollard: {broken}: cannot be read: on {broken.parent}: {FAULT}"), err


def test_build(builder: Builder, broken: Path) -> None:
    line = builder.refused(builder.work / "of-broken.sif", broken)
    assert line.startswith(f"bollard: {broken}: ") and FAULT in line, line


def test_push(fetcher: Fetcher, broken: Path) -> None:
    line = fetcher.refused("push", broken, "oras://127.0.0.1:1/x:y")
    assert line.startswith(f"{broken}: cannot be pushed: on {broken.parent}: {FAULT}"), line
