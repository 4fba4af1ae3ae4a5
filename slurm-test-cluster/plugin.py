# SPDX-License-Identifier: BSD-3-Clause
"""The plugin on the nodes: build the checkout once in the suite's tree, and install the result on every node.

As on a real cluster, each node has its own copy of the files. Files are replaced by rename(2) and never written in
place, because slurmd and running steps have mapped the old files. So an update needs no restart.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

from state import Cluster, ClusterError
from suites import remove_tree, run_recipe

CHECKOUT = Path(__file__).resolve().parent.parent
BUILD = Path("spank_plugin/build.py")
INSTALLED = ("usr", "etc")  # the directories whose files are copied to the nodes

# The build writes into the upper directory of an overlay, so the tree does not change. It installs plain files, as a
# package does: a link in the place of the prefix could not replace the directory that nodes have.
RECIPE = r"""
set -eu
tree=$1 layer=$2 source=$3 sanitize=$4
mkdir -p "$layer/upper" "$layer/work" "$layer/root"
mount -t overlay -o "lowerdir=$tree,upperdir=$layer/upper,workdir=$layer/work" build "$layer/root"
cd "$layer/root"
mount --bind "$source" srv/bollard
mount -t proc proc proc
mount --bind /dev dev
mount -t tmpfs tmp tmp
exec chroot . env -i HOME=/root LANG=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin PYTHONDONTWRITEBYTECODE=1 \
    BOLLARD_SANITIZE="$sanitize" \
    sh -euc 'cd /usr/src/bollard && python3 spank_plugin --prefix /usr/lib/bollard --destdir /
             ln -sf /usr/lib/bollard/names/run-singularity /usr/bin/run-singularity'  # as update-alternatives would
"""


def available() -> bool:
    """Return whether the checkout has the plugin's sources."""
    return (CHECKOUT / BUILD).exists()


def build(cluster: Cluster) -> None:
    """Copy the checkout and build it into a new layer.

    Raises:
        ClusterError: the checkout has no plugin, or the build fails.
    """
    if not available():
        raise ClusterError(f"no plugin to build: {CHECKOUT / BUILD} does not exist; use --no-plugin")
    copy_checkout(source_directory(cluster))
    cluster.own.mkdir(parents=True, exist_ok=True)
    building, log = cluster.own / "layer.new", cluster.own / "plugin.log"
    remove_tree(building)
    log.unlink(missing_ok=True)
    print("building the plugin", flush=True)
    sanitize = os.environ.get("BOLLARD_SANITIZE", "")  # build.py
    run_recipe(RECIPE, [str(cluster.tree), str(building), str(source_directory(cluster)), sanitize], log)
    remove_tree(cluster.own / "layer")
    building.rename(cluster.own / "layer")


def source_directory(cluster: Cluster) -> Path:
    """Make the directory that nodes see as /usr/src/bollard; return its path."""
    source = cluster.own / "source"
    source.mkdir(parents=True, exist_ok=True)
    return source


def copy_checkout(target: Path) -> None:
    """Copy the files of the checkout that git does not ignore, with their times; remove other files from `target`.

    Raises:
        ClusterError: git fails.
    """
    done = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        check=False,
    )
    if done.returncode:
        raise ClusterError(f"git ls-files failed in {CHECKOUT}: run this from a git checkout of the project")
    wanted = {Path(os.fsdecode(name)) for name in done.stdout.split(b"\0") if name}
    for name in wanted:
        with contextlib.suppress(FileNotFoundError):  # tracked, but removed from the work tree
            replace(CHECKOUT / name, target / name)
    for directory, _, files in os.walk(target, topdown=False):
        for file in files:
            path = Path(directory, file)
            if path.relative_to(target) not in wanted or not os.path.lexists(CHECKOUT / path.relative_to(target)):
                path.unlink()
        if Path(directory) != target:
            with contextlib.suppress(OSError):
                os.rmdir(directory)


def replace(origin: Path, target: Path) -> None:
    """Copy one file or link, with its mode and times, by rename(2). A copy of equal size, time and mode is kept."""
    new = origin.lstat()
    with contextlib.suppress(FileNotFoundError):
        old = target.lstat()
        if (old.st_size, old.st_mtime_ns, old.st_mode) == (new.st_size, new.st_mtime_ns, new.st_mode):
            return
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(target.name + ".new")
    temporary.unlink(missing_ok=True)
    shutil.copy2(origin, temporary, follow_symlinks=False)
    os.chown(temporary, new.st_uid, new.st_gid, follow_symlinks=False)
    temporary.rename(target)


def layer_files(layer: Path) -> Iterator[Path]:
    """Yield the files and links that the build made, without overlayfs' marks for deleted files."""
    for top in INSTALLED:
        for directory, links, files in os.walk(layer / "upper" / top):
            for name in (*files, *links):
                path = Path(directory, name)
                mode = path.lstat().st_mode
                if stat.S_ISREG(mode) or stat.S_ISLNK(mode):
                    yield path.relative_to(layer / "upper")


def install(cluster: Cluster, node: str, pid: int) -> None:
    """Install the built files on a running node, and remove files of an earlier build.

    cluster: the cluster of a suite.
    node: the name of the node.
    pid: the process id of its init.
    """
    root, layer = Path(f"/proc/{pid}/root"), cluster.own / "layer"
    names = sorted(map(str, layer_files(layer)))
    before = installed(cluster, node)
    for name in sorted(set(before) - set(names)):
        (root / name).unlink(missing_ok=True)
    # Slurm's configuration is installed last: it must not name a plugin that does not exist yet.
    for name in sorted(names, key=lambda name: name.startswith("etc/slurm/")):
        replace(layer / "upper" / name, root / name)
    record(cluster, node).write_text(json.dumps(names))


def remove(cluster: Cluster, node: str, pid: int) -> None:
    """Remove the plugin's files from a running node; parameters as in `install`."""
    # Slurm's configuration is removed first, so that it never names a missing plugin.
    for name in sorted(installed(cluster, node), key=lambda name: not name.startswith("etc/slurm/")):
        Path(f"/proc/{pid}/root", name).unlink(missing_ok=True)
    record(cluster, node).unlink(missing_ok=True)


def record(cluster: Cluster, node: str) -> Path:
    """Return the path of the list of the plugin's files on a node."""
    return cluster.run / node / "plugin.json"


def installed(cluster: Cluster, node: str) -> list[str]:
    """Return the paths of the plugin's files on a node, relative to its root; empty if it has no plugin."""
    try:
        names: list[str] = json.loads(record(cluster, node).read_text())
    except FileNotFoundError:
        return []
    return names
