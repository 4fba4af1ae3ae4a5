# SPDX-License-Identifier: BSD-3-Clause
"""`bollard overlay create`: ext3 with upper and work, as a file and in a SIF file. That Apptainer writes to them is
tested in tests/peers."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import sif_files
from test_main import command, refused

from bollard.runtime.image import image, sif, sif_edit

LEAST = 64 << 20


@pytest.fixture
def path(tmp_path):
    sif_files.write(tmp_path / "img.sif", (), b"hsqs" + bytes(5000), "aarch64")
    return tmp_path / "img.sif"


def create(folder, *argv):
    done = command("overlay", "create", *argv, cwd=folder, PATH=os.environ["PATH"])
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def listed(path, place):
    """name -> (mode, uid) of a directory in an ext3 file."""
    done = subprocess.run(
        ["debugfs", "-R", f"ls -l {place}", str(path)],
        env={"PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        encoding="utf-8",
        check=True,
    )
    rows = [line.split() for line in done.stdout.splitlines() if line.strip()]
    return {row[-1]: (row[1], int(row[3])) for row in rows if row[-1] not in (".", "..", "lost+found")}


def test_a_file(tmp_path):
    create(tmp_path, "--size", "65", "o.img")

    info = (tmp_path / "o.img").stat()
    assert (info.st_size, info.st_mode & 0o7777, info.st_nlink) == (65 << 20, 0o600, 1)
    assert info.st_blocks * 512 >= 65 << 20  # no space can be missing later
    assert listed(tmp_path / "o.img", "/") == {"upper": ("40755", os.getuid()), "work": ("40755", os.getuid())}
    assert os.listdir(tmp_path) == ["o.img"]


def test_a_sparse_file_with_directories(tmp_path):
    create(tmp_path, "-S", "o.img", "--create-dir", "/a/b,c/", "--create-dir", "./a/d")

    info = (tmp_path / "o.img").stat()
    assert info.st_size == LEAST > 4 * info.st_blocks * 512
    assert list(listed(tmp_path / "o.img", "upper")) == ["a", "c"]
    assert list(listed(tmp_path / "o.img", "upper/a")) == ["b", "d"]


def as_user(folder, uid, *argv):
    """The command as a user that is not root, whoever runs the tests."""
    main = "import sys; from bollard.runtime.cli import main; sys.exit(main.main(sys.argv[1:]))"
    code = (
        "import os, sys\n"
        f"if os.getuid() == 0: os.setgroups([]); os.setgid({uid}); os.setuid({uid})\n"
        # A process that gave root up may not write its own maps until it has become another program.
        f"os.execv(sys.executable, [sys.executable, '-c', {main!r}, *sys.argv[1:]])"
    )
    env = {"PYTHONPATH": os.pathsep.join(part for part in sys.path if part), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, "-c", code, "overlay", "create", *argv],
        cwd=folder,
        env=env,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("fakeroot", "uid", "mode"), [([], 4242, "40755"), (["--fakeroot"], 4242, "40755"), ([], 70000, "40777")]
)
def test_whose_the_directories_are(tmp_path, fakeroot, uid, mode):
    for place in (tmp_path, *list(tmp_path.parents)[:2]):
        place.chmod(0o777 if place == tmp_path else 0o755)
    as_user(tmp_path, uid, "-S", *fakeroot, "o.img")
    owner = 0 if fakeroot else uid if os.getuid() == 0 else os.getuid()
    assert listed(tmp_path / "o.img", "/") == {"upper": (mode, owner), "work": (mode, owner)}


@pytest.mark.parametrize("sparse", [[], ["--sparse"]])
def test_in_a_sif(path, sparse):
    create(path.parent, *sparse, "img.sif")

    fd, found = image.open_sif(str(path))
    (overlay,) = sif.overlays(found)
    assert (overlay.id, overlay.size, overlay.offset % 4096) == (2, LEAST, 0)
    assert (overlay.fstype, overlay.arch, overlay.group, overlay.name) == (sif.FS_EXT3, "arm64", 1, "")
    assert os.pread(fd, 2, overlay.offset + 1080) == b"\x53\xef"
    os.close(fd)
    assert (path.stat().st_blocks * 512 < LEAST // 4) == bool(sparse)
    assert os.listdir(path.parent) == ["img.sif"]
    text = refused("overlay", "create", "img.sif", cwd=path.parent)
    assert text == "img.sif: has a writable overlay already, object 2; delete it first with `bollard sif del 2 img.sif`"
    sif_edit.delete(str(path), 2)
    create(path.parent, *sparse, "img.sif")


def add(path, datatype, extra=b""):
    source = os.memfd_create("object")
    sif_edit.add(str(path), sif_edit.New(datatype, extra), source)
    os.close(source)


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        ([], "overlay create takes one name, not 0; write `bollard overlay create IMAGE`"),
        (["-s", "63", "o"], "--size '63' is not a size; give MiB, from 64 to 16777216"),
        (["-s", "1G", "o"], "--size '1G' is not a size; "),
        (
            ["--create-dir", "a/../..", "o"],
            "--create-dir 'a/../..' is not a directory in the overlay; give a path without ..",
        ),
        (["no/o"], "no/o: cannot be written: No such file or directory; "),
        (["text"], "text: not a SIF image; is it a script?"),
        (["folder"], "folder: is a directory; name a SIF file"),
        (["ext.img"], "ext.img: is an ext3 filesystem already; choose another name, or remove it"),
        (
            ["signed.sif"],
            "signed.sif: is signed, which a writable overlay would break; make the overlay a file of its own",
        ),
        (["odd.sif"], "odd.sif: its overlay, object 2, has the filesystem raw, neither squashfs nor ext3; "),
        (["empty.sif"], "empty.sif: no primary system partition; this SIF holds no container; check the file name"),
        (["secret.sif"], "secret.sif: is encrypted with LUKS, which only root can open; let its "
            "author build it as a user, with `bollard build --encrypt` or Apptainer 1.2 and later"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(path, argv, text):
    folder = path.parent
    (folder / "text").write_text("#!/bin/sh\n")
    (folder / "folder").mkdir()
    (folder / "ext.img").write_bytes(bytes(1080) + b"\x53\xef" + bytes(5000))
    for name in ("signed.sif", "odd.sif", "secret.sif"):
        (folder / name).write_bytes(path.read_bytes())
    add(folder / "signed.sif", sif.SIGNATURE)
    add(folder / "odd.sif", sif.PARTITION, bytes((4, 0, 0, 0, 4, 0, 0, 0)) + b"02\0")
    with open(folder / "secret.sif", "r+b") as file:
        file.seek(sif.TABLE_OFFSET + 201)
        file.write(b"\5")
    sif_edit.create(str(folder / "empty.sif"))
    before = {entry.name: entry.stat().st_size for entry in folder.iterdir()}
    assert refused("overlay", "create", *argv, cwd=folder).startswith(text)
    assert {entry.name: entry.stat().st_size for entry in folder.iterdir()} == before


def test_without_the_program(tmp_path, monkeypatch):
    from bollard.runtime.errors import BollardError
    from bollard.runtime.image import overlay_create

    monkeypatch.setattr(overlay_create.shutil, "which", lambda *_, **__: None)
    with pytest.raises(BollardError, match="mkfs.ext3: no such program; install the package e2fsprogs"):
        overlay_create.create(str(tmp_path / "o.img"), 64, [])
    assert os.listdir(tmp_path) == []
