# SPDX-License-Identifier: BSD-3-Clause
"""What the keeper reads of an image, and what it says when the kernel refuses it something."""

from __future__ import annotations

import errno
import os

import pytest

from bollard.runtime.container import fuse, image_scripts, keeper
from bollard.runtime.errors import BollardError
from bollard.runtime.request.spec import Spec

ASKED = Spec("/data/img.sif", asked="img.sif")


@pytest.fixture
def root(tmp_path):
    fd = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    yield fd
    os.close(fd)


@pytest.mark.parametrize(
    ("number", "what", "words"),
    [
        (errno.ENOSYS, "mount_setattr", f"the kernel {os.uname().release} lacks it; bollard needs Linux 5.12"),
        (errno.ENOSPC, "unshare(CLONE_NEWNS)", "too many namespaces on this node; see /proc/sys/user"),
        (errno.ENOSPC, "/tmp/x", "img.sif: cannot be made a root filesystem: /tmp/x: no space left on /"),
        (errno.EIO, keeper.SESSION + "/image", "img.sif: damaged: its filesystem cannot be read"),
        (errno.EACCES, b"/scratch/a", "/scratch/a: Permission denied"),
        (errno.EACCES, None, "filesystem: Permission denied; look at that path"),
    ],
)
def test_what_the_kernel_refused_is_explained(number, what, words):
    found = keeper._explained(ASKED, OSError(number, os.strerror(number), what))

    assert words in str(found)
    assert found.hint
    assert found.code == 255


def test_small_files_of_the_image(root, tmp_path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_bytes(b"root:x:0:0\n")
    (tmp_path / "link").symlink_to("/etc/passwd")
    (tmp_path / "away").symlink_to("../../../../../../../../etc/hostname")
    os.mkfifo(tmp_path / "pipe")

    assert image_scripts.read(root, "/etc/passwd") == image_scripts.read(root, "/link") == b"root:x:0:0\n"
    for path in ("/missing", "/etc", "/pipe", "/away", "/etc/passwd/x"):
        assert image_scripts.read(root, path) == b""


def test_a_large_file_is_refused_not_cut(root, tmp_path):
    (tmp_path / "group").write_bytes(b"x" * image_scripts.FILE_MAX)
    assert len(image_scripts.read(root, "/group")) == image_scripts.FILE_MAX

    os.truncate(tmp_path / "group", image_scripts.FILE_MAX + 1)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(BollardError, match=f"/group in the image has {image_scripts.FILE_MAX + 1} bytes"):
        image_scripts.read(root, "/group")
    assert os.listdir("/proc/self/fd") == before


def test_scripts_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(image_scripts, "SCRIPTS", str(tmp_path))
    for name in ("90-b.sh", "10-a.sh", "README", "x.bak"):
        (tmp_path / name).write_text(name)
    os.mkfifo(tmp_path / "50-pipe.sh")

    assert image_scripts.scripts() == [("10-a.sh", b"10-a.sh"), ("50-pipe.sh", b""), ("90-b.sh", b"90-b.sh")]


def test_too_many_scripts(tmp_path, monkeypatch):
    monkeypatch.setattr(image_scripts, "SCRIPTS", str(tmp_path))
    for number in range(image_scripts.SCRIPTS_MAX):
        (tmp_path / f"{number:03}.sh").write_text("")
    assert len(image_scripts.scripts()) == image_scripts.SCRIPTS_MAX

    (tmp_path / "more.sh").write_text("")
    with pytest.raises(BollardError, match=f"{image_scripts.SCRIPTS_MAX + 1} environment scripts"):
        image_scripts.scripts()


def test_a_script_that_is_too_long(tmp_path, monkeypatch):
    monkeypatch.setattr(image_scripts, "SCRIPTS", str(tmp_path))
    (tmp_path / "a.sh").write_bytes(b"#" * (image_scripts.FILE_MAX + 1))
    with pytest.raises(BollardError, match="a.sh in the image has"):
        image_scripts.scripts()


@pytest.mark.parametrize(("text", "found"), [(b"A=1\n", [("environment", b"A=1\n")]), (b"", [])])
def test_images_from_before_there_were_scripts(tmp_path, monkeypatch, text, found):
    monkeypatch.setattr(image_scripts, "SCRIPTS", str(tmp_path / "missing"))
    monkeypatch.setattr(image_scripts, "read", lambda root, path: text if path == "/environment" else b"wrong")
    assert image_scripts.scripts() == found


@pytest.mark.parametrize(
    ("said", "last"),
    [
        (b"", ""),
        (b"\n \n", ""),
        (b"Can't find a valid SQUASHFS superblock\n", "Can't find a valid SQUASHFS superblock"),
        (b"first\nlast\n\n", "last"),
        (b"\xff", "�"),
    ],
)
def test_a_file_servers_last_words(said, last):
    words = os.memfd_create("words")
    os.write(words, said)
    assert fuse.last_words(words) == last
    os.close(words)


def test_a_file_server_that_cannot_be_started_has_last_words():
    words = os.memfd_create("words")
    parent, pid = os.getpid(), os.fork()
    if pid == 0:
        fuse.serve(parent, ["/nonexistent/squashfuse"], (), words, {})
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 127
    assert fuse.last_words(words) == "/nonexistent/squashfuse: No such file or directory"
    os.close(words)
