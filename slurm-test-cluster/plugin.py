# SPDX-License-Identifier: BSD-3-Clause
"""The plugin on the nodes: build the checkout once in the suite's tree, install the result on every node.

As on a real cluster, each node has its own copy of the files. They are replaced by rename, never written in
place, because slurmd and running steps have the old ones mapped; so an update needs no restart.
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
INSTALLED = ("usr", "etc")  # what a build may put on a node

# The tree stays as it is: what the build writes lands in the upper directory of an overlay. As plain files, like a
# package's, for a link in the prefix's place could not be exchanged for what nodes have.
RECIPE = r"""
set -eu
tree=$1 layer=$2 source=$3
mkdir -p "$layer/upper" "$layer/work" "$layer/root"
mount -t overlay -o "lowerdir=$tree,upperdir=$layer/upper,workdir=$layer/work" build "$layer/root"
cd "$layer/root"
mount --bind "$source" srv/bollard
mount -t proc proc proc
mount --bind /dev dev
mount -t tmpfs tmp tmp
exec chroot . env -i HOME=/root LANG=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin PYTHONDONTWRITEBYTECODE=1 \
    sh -euc 'cd /usr/src/bollard && exec python3 spank_plugin --prefix /usr/lib/bollard --destdir /'
"""


def available() -> bool:
    return (CHECKOUT / BUILD).exists()


def build(cluster: Cluster) -> None:
    """Copy the checkout and build it into a fresh layer."""
    if not available():
        raise ClusterError(f"no plugin to build: {CHECKOUT / BUILD} does not exist; use --no-plugin")
    copy_checkout(source_directory(cluster))
    cluster.own.mkdir(parents=True, exist_ok=True)
    building, log = cluster.own / "layer.new", cluster.own / "plugin.log"
    remove_tree(building)
    log.unlink(missing_ok=True)
    print("building the plugin", flush=True)
    run_recipe(RECIPE, [str(cluster.tree), str(building), str(source_directory(cluster))], log)
    remove_tree(cluster.own / "layer")
    building.rename(cluster.own / "layer")


def source_directory(cluster: Cluster) -> Path:
    """What nodes see as /usr/src/bollard."""
    source = cluster.own / "source"
    source.mkdir(parents=True, exist_ok=True)
    return source


def copy_checkout(target: Path) -> None:
    """What git would commit, tracked or new, with the times of the files kept."""
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
    """Copy one file or link by rename, with its mode and times; nothing is done when it is there already."""
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
    """Files and links that the build made; the marks of overlayfs for deleted files are not any of them."""
    for top in INSTALLED:
        for directory, links, files in os.walk(layer / "upper" / top):
            for name in (*files, *links):
                path = Path(directory, name)
                mode = path.lstat().st_mode
                if stat.S_ISREG(mode) or stat.S_ISLNK(mode):
                    yield path.relative_to(layer / "upper")


def install(cluster: Cluster, node: str, pid: int) -> None:
    """Put the built files on a running node, and take away those that an earlier build had put there."""
    root, layer = Path(f"/proc/{pid}/root"), cluster.own / "layer"
    names = sorted(map(str, layer_files(layer)))
    before = installed(cluster, node)
    for name in sorted(set(before) - set(names)):
        (root / name).unlink(missing_ok=True)
    # Slurm's configuration goes last: it must never name a plugin that is not there yet.
    for name in sorted(names, key=lambda name: name.startswith("etc/slurm/")):
        replace(layer / "upper" / name, root / name)
    record(cluster, node).write_text(json.dumps(names))


def remove(cluster: Cluster, node: str, pid: int) -> None:
    # The other way round: first Slurm's configuration, then what it names.
    for name in sorted(installed(cluster, node), key=lambda name: not name.startswith("etc/slurm/")):
        Path(f"/proc/{pid}/root", name).unlink(missing_ok=True)
    record(cluster, node).unlink(missing_ok=True)


def record(cluster: Cluster, node: str) -> Path:
    return cluster.run / node / "plugin.json"


def installed(cluster: Cluster, node: str) -> list[str]:
    try:
        names: list[str] = json.loads(record(cluster, node).read_text())
    except FileNotFoundError:
        return []
    return names
