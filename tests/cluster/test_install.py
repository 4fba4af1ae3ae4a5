# SPDX-License-Identifier: BSD-3-Clause
"""The plugin's files belong to root, and the plugin refuses files of other users."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator

import pytest
from cluster import PREFIX, Cluster, Images, Work, good

PLACES = ("", "/_bollard.so", "/bollard-enter", "/python", "/python/bollard", "/python/bollard/runtime")


def test_every_path_is_roots_alone(cluster: Cluster) -> None:
    for node in cluster.nodes():
        top = str(cluster.path(node, PREFIX))
        paths = [top, *(f"{folder}/{name}" for folder, folders, files in os.walk(top) for name in (*folders, *files))]
        assert len(paths) > 20
        for path in paths:
            info = os.lstat(path)
            assert (info.st_uid, info.st_gid) == (0, 0), path
            if stat.S_ISLNK(info.st_mode):  # links to a program in the same directory
                assert path.startswith(f"{top}/inside/bin/") and os.readlink(path) == "bollard-inside", path
                continue
            assert not info.st_mode & (stat.S_IWGRP | stat.S_IWOTH | stat.S_ISUID | stat.S_ISGID), path


def test_the_launcher_needs_no_loader(cluster: Cluster) -> None:
    """It is started on the host with the task's environment, so LD_PRELOAD and library paths must have no effect."""
    done = cluster.exec(["readelf", "-lW", f"{PREFIX}/bollard-enter"], node="n1")
    assert "INTERP" not in good(done)


def test_the_launcher_by_hand(cluster: Cluster) -> None:
    done = cluster.exec([f"{PREFIX}/bollard-enter", "true"], node="n1")
    assert done.rc == 255 and len(done.complaints()) == 1, done


def test_what_starts_the_hosts_commands_needs_no_loader(cluster: Cluster) -> None:
    """bollard-inside is static: an image may have no loader."""
    assert "INTERP" not in good(cluster.exec(["readelf", "-lW", f"{PREFIX}/inside/bin/bollard-inside"], node="n1"))


@contextlib.contextmanager
def spoilt(cluster: Cluster, command: str, undo: str) -> Iterator[None]:
    good(cluster.exec(command, node="n1", user="root"))
    try:
        yield
    finally:
        good(cluster.exec(undo, node="n1", user="root"))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("how", ["writable", "owned"])
def test_an_installation_that_others_can_write(
    cluster: Cluster, images: Images, work: Work, place: str, how: str
) -> None:
    path = PREFIX + place
    mode = stat.S_IMODE(os.stat(cluster.path("n1", path)).st_mode)
    command = f"chmod o+w {path}" if how == "writable" else f"chown alice {path}"
    with spoilt(cluster, command, f"chown root:root {path}; chmod {mode:o} {path}"):
        done = cluster.srun("-w", "n1", f"--container={images.small}", "touch", f"{work.path}/marker")
    assert done.rc == 255, done
    assert len(done.complaints()) == 1 and f"the installation in {PREFIX} " in done.err, done
    assert "not root's alone" in done.err and "administrator" in done.err and not work.exists("marker")


@pytest.mark.parametrize(
    "name", ["_bollard.so", "bollard-enter", "python/bollard/runtime/container/keeper.py", "python"]
)
def test_an_installation_with_a_hole(cluster: Cluster, images: Images, work: Work, name: str) -> None:
    """A node with a missing file refuses with a reason; the program does not run on the host."""
    path = f"{PREFIX}/{name}"
    hide = f"mv {path} {path}.hidden"
    also = back = ""
    if name.endswith("keeper.py"):  # its code is in the archive, and in a .pyc file
        places = ("node.archive", "bollard/runtime/container/__pycache__")
        also = "".join(f"; mv {PREFIX}/python/{place} /tmp/test-{os.path.basename(place)}" for place in places)
        back = "".join(f"; mv /tmp/test-{os.path.basename(place)} {PREFIX}/python/{place}" for place in places)
    with spoilt(cluster, hide + also, f"mv {path}.hidden {path}" + back):
        done = cluster.srun("-w", "n1", f"--container={images.small}", "touch", f"{work.path}/marker")
    assert done.rc != 0 and not work.exists("marker"), done
    if name != "bollard-enter":  # slurmstepd itself reports that it cannot start the launcher
        assert len(done.complaints()) == 1 and "administrator" in done.err, done


def test_a_missing_file_server(cluster: Cluster, images: Images, work: Work) -> None:
    servers = f"{PREFIX}/squashfuse {PREFIX}/squashfuse2 /usr/bin/squashfuse /usr/bin/squashfuse_ll"
    hide = f"for f in {servers}; do ! test -e $f || mv $f $f.hidden; done"
    back = f"for f in {servers}; do ! test -e $f.hidden || mv $f.hidden $f; done"
    with spoilt(cluster, hide, back):
        done = cluster.srun("-w", "n1", f"--container={images.small}", "touch", f"{work.path}/marker")
    assert done.rc == 255 and len(done.complaints()) == 1, done
    assert "squashfuse" in done.err and "administrator" in done.err and not work.exists("marker"), done


def test_no_fuse(cluster: Cluster, images: Images, work: Work) -> None:
    with spoilt(cluster, "mv /dev/fuse /dev/fuse.hidden", "mv /dev/fuse.hidden /dev/fuse"):
        done = cluster.srun("-w", "n1", f"--container={images.small}", "touch", f"{work.path}/marker")
    assert done.rc == 255 and len(done.complaints()) == 1 and "/dev/fuse" in done.err, done
    assert not work.exists("marker")


def test_no_user_namespaces(cluster: Cluster) -> None:
    """Checks that the nodes have user namespaces, which every container needs."""
    assert good(cluster.exec(["unshare", "--user", "true"], node="n1")) == ""
