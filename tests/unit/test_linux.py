# SPDX-License-Identifier: BSD-3-Clause
"""Look-ups below a root, beside renames that make the kernel answer EAGAIN."""

from __future__ import annotations

import errno
import io
import os
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from disturbance import renames

from bollard.runtime.container import covers, image_scripts
from bollard.runtime.fetch import layer as layers
from bollard.runtime.system import identity, linux
from bollard.runtime.system.tree import Tree
from bollard.spank_plugin import probes

TRIES = 5000
PATH = "/var/run/munge"
# On a busy machine it takes a while until the renames run beside a look-up.
PATIENCE = 60.0


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    """Relative links through "..", as RHEL's images have them."""
    for folder in ("run/munge", "var", "srv/data", "usr/share/zoneinfo/Etc", "etc"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "var/run").symlink_to("../run")
    (tmp_path / "data").symlink_to("../srv/data")
    (tmp_path / "usr/share/zoneinfo/Etc/UTC").write_text("UTC\n")
    (tmp_path / "etc/localtime").symlink_to("../usr/share/zoneinfo/Etc/UTC")
    fd = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def refusal(root: int) -> int:
    """The kernel's first refusal of a single look-up; 0 for none."""
    how = linux.RESOLVE_IN_ROOT | linux.RESOLVE_NO_MAGICLINKS
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        fd = linux.lib.b_openat2(root, PATH.encode(), os.O_PATH | os.O_CLOEXEC, how)
        if fd < 0:
            return linux.ffi.errno
        os.close(fd)
    return 0


def repeated(look: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        look()


def test_a_look_up_that_is_disturbed_is_tried_again(root: int) -> None:
    with renames():
        assert refusal(root) == errno.EAGAIN, "the kernel was not disturbed, so nothing is tested here"
        for _ in range(TRIES):
            os.close(linux.open_in_root(root, PATH))
            assert covers.exists(root, "/etc/localtime")
        for _ in range(TRIES):
            assert covers.deepest(root, "/data/new") == ("/data", ["new"])
            assert image_scripts.read(root, "/etc/localtime") == b"UTC\n"


def test_a_look_up_that_is_disturbed_for_ever_fails_with_the_reason(root: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linux, "DISTURBED_SECONDS", -1.0)  # the first disturbance is one too many
    with renames(), pytest.raises(OSError, match="mounts or renames on this machine disturbed") as caught:
        repeated(lambda: os.close(linux.open_in_root(root, PATH)))
    assert caught.value.filename == PATH
    assert not linux.is_missing(caught.value)


def test_disturbed_is_not_missing(root: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linux, "DISTURBED_SECONDS", -1.0)
    tree = Tree(str(tmp_path))
    looks = (
        lambda: covers.exists(root, PATH),
        lambda: covers.deepest(root, PATH + "/x"),
        lambda: image_scripts.read(root, "/etc/localtime"),
        lambda: tree.kind(PATH),
        lambda: tree.is_link(PATH),
        lambda: tree.names(PATH),
    )
    with renames():
        for look in looks:
            with pytest.raises(OSError, match="disturbed the look-up"):
                repeated(look)
    tree.close()


@pytest.mark.parametrize(
    ("path", "missing"), [("/nothing", True), ("/etc/localtime/x", True), ("/loop", True), ("/" + "x" * 300, False)]
)
def test_what_is_missing(root: int, tmp_path: Path, path: str, missing: bool) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError) as caught:
        linux.open_in_root(root, path)
    assert linux.is_missing(caught.value) is missing


def test_a_layer_is_unpacked_beside_renames(tmp_path: Path) -> None:
    """Its files go through a link with a ".." of the layer below."""
    count = 5000
    tree = Tree(str(tmp_path))
    (tmp_path / "run").mkdir()
    (tmp_path / "var").mkdir()
    (tmp_path / "var/run").symlink_to("../run")
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        for number in range(count):
            member = tarfile.TarInfo(f"var/run/d/{number}")
            member.uid, member.gid = os.getuid(), os.getgid()
            archive.addfile(member)
    layer.seek(0)
    with renames():
        layers.apply(layer, tree, "layer 2")
    tree.close()
    assert len(os.listdir(tmp_path / "run/d")) == count


def test_a_copy_over_the_root_can_be_left() -> None:
    """What a root on initramfs needs: a copy of the root over it, which pivot_root(2) leaves. A process whose root is
    not that of its mount namespace may make no user namespace."""

    def leave() -> str:
        identity.new_namespace(False)
        linux.new_mount_namespace()
        linux._cover_root()
        assert os.path.isdir("/usr") and os.getcwd() == "/"
        linux.mount("tmpfs", "/tmp", "mode=0755,size=1m", linux.MS_NOSUID | linux.MS_NODEV)
        os.mkdir("/tmp/new")
        linux.change_root("/tmp")
        there = os.listdir("/")
        linux.new_user_namespace()
        return ",".join(there)

    assert not linux.root_is_initramfs()
    assert probes.attempt(leave) == (True, "new")
