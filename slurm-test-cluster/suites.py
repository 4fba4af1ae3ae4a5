# SPDX-License-Identifier: BSD-3-Clause
"""The Debian suites, and the tree that every node of a suite starts from.

A tree is built beside its final place and renamed when it is complete, so an interrupted build is never used.
Its stamp is a hash of everything that it is made from. After a change of the table or the recipe, the next `up` builds
it again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from state import CACHE, Cluster, ClusterError

HERE = Path(__file__).resolve().parent
PACKAGES = """
slurm-wlm slurm-wlm-basic-plugins munge tini iproute2 procps psmisc strace less file ca-certificates
python3 python3-dev python3-cffi python3-yaml python3-psutil gcc make libc6-dev libslurm-dev libpmi2-0-dev
libpmix-dev squashfuse squashfs-tools fuse3 fuse-overlayfs fuse2fs e2fsprogs
openmpi-bin libopenmpi-dev mpich libmpich-dev
"""


class Suite(NamedTuple):
    """The differences between Debian releases."""

    number: int  # the third byte of the suite's network, 10.83.NUMBER.0/24
    slurm: str  # the release of Slurm in this suite
    without: tuple[str, ...] = ()  # packages of the list above that this suite does not have
    extra: tuple[str, ...] = ()
    cgroup_plugin: bool = True  # cgroup.conf has the key CgroupPlugin (21.08 and later)

    def packages(self) -> list[str]:
        """Return the packages to install in the tree, sorted."""
        return sorted((set(PACKAGES.split()) - set(self.without)) | set(self.extra))


SUITES = {
    "bullseye": Suite(11, "20.11", cgroup_plugin=False),
    "bookworm": Suite(12, "22.05"),
    "trixie": Suite(13, "24.11"),
    "sid": Suite(14, "26.05"),
}

# The ids are fixed, so that files in the shared directories have the same owners with every tree.
ACCOUNTS = """
groupadd --gid 1000 alice; groupadd --gid 1001 bob; groupadd --gid 2001 chem; groupadd --gid 2002 proj
useradd --no-create-home --shell /bin/bash --uid 1000 --gid 1000 --groups chem,proj alice
useradd --no-create-home --shell /bin/bash --uid 1001 --gid 1001 bob
"""

RECIPE = r"""
set -eu
tree=$1 archives=$2 here=$3 accounts=$4; shift 4
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount --bind "$archives" "$tree/var/cache/apt/archives"
mount -t proc proc "$tree/proc"
printf '#!/bin/sh\nexit 101\n' > "$tree/usr/sbin/policy-rc.d"
chmod 755 "$tree/usr/sbin/policy-rc.d"
# Packages come the way this machine gets its own: through its proxy, from a frozen mirror, ...
apt-config dump | grep -E '^Acquire::(Check-Valid-Until|Check-Date|https?::Proxy) ' \
    > "$tree/etc/apt/apt.conf.d/90machine" || true
chroot "$tree" apt-get -q update
chroot "$tree" apt-get -q -y --no-install-recommends install "$@"
chroot "$tree" sh -euc "$accounts"
if ! [ -s "$tree/etc/munge/munge.key" ]; then
    head -c 128 /dev/urandom > "$tree/etc/munge/munge.key"
    chroot "$tree" sh -c 'chown munge:munge /etc/munge/munge.key && chmod 400 /etc/munge/munge.key'
fi
mkdir -p "$tree/usr/local/lib/test-cluster"
cp "$here/folded_cpus.c" "$tree/usr/local/lib/test-cluster"
chroot "$tree" sh -c 'cd /usr/local/lib/test-cluster && gcc -O2 -Wall -Wextra -shared -fPIC \
    -o folded_cpus.so folded_cpus.c'
rm -rf "$tree/var/lib/apt/lists" "$tree/etc/slurm/plugstack.conf"
mkdir -p "$tree/etc/slurm/plugstack.conf.d" "$tree/images" "$tree/srv/bollard"
ln -s /srv/bollard "$tree/usr/src/bollard"
ln -sf /proc/self/mounts "$tree/etc/mtab"
"""

# Installs packages in a layer above the tree. They start no daemon, because the tree has a policy-rc.d.
LAYER_RECIPE = r"""
set -eu
tree=$1 layer=$2 archives=$3 prepare=$4 argument=$5; shift 5
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin
mkdir -p "$layer/upper" "$layer/work" "$layer/root"
mount -t overlay -o "lowerdir=$tree,upperdir=$layer/upper,workdir=$layer/work" layer "$layer/root"
root=$layer/root
mount --bind "$archives" "$root/var/cache/apt/archives"
mount -t proc proc "$root/proc"
mount --bind /dev "$root/dev"
mount -t tmpfs tmp "$root/tmp"
chroot "$root" apt-get -q update
chroot "$root" apt-get -q -y --no-install-recommends install "$@"
chroot "$root" sh -euc "$prepare" prepare "$argument"
rm -rf "$root/var/lib/apt/lists"
"""

TOOLS = {"debootstrap": "debootstrap", "ip": "iproute2", "unshare": "util-linux", "mount": "mount"}


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


def lookup(name: str) -> Suite:
    """Return the suite of this name.

    Raises:
        ClusterError: there is no such suite.
    """
    if name not in SUITES:
        raise ClusterError(f"unknown suite '{name}': choose one of {', '.join(SUITES)}")
    return SUITES[name]


def install_tools() -> None:
    """Install the programs that this machine itself needs."""
    missing = sorted(package for tool, package in TOOLS.items() if shutil.which(tool) is None)
    if missing:
        say(f"installing {' '.join(missing)} on this machine")
        logged(
            [
                "sh",
                "-euc",
                'apt-get -q update; apt-get -q -y --no-install-recommends install "$@"',
                "sh",
                *missing,
            ],
            CACHE / "tools.log",
        )


def stamp(name: str) -> str:
    """Return a hash of everything that a suite's tree is made from."""
    parts = [name, RECIPE, ACCOUNTS, (HERE / "folded_cpus.c").read_text(), *SUITES[name].packages()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def ensure_tree(cluster: Cluster) -> None:
    """Build the suite's tree, if it is missing or its stamp differs."""
    with cluster.cache_lock():
        if read(cluster.tree / ".stamp") != stamp(cluster.suite):
            build_tree(cluster)


def build_tree(cluster: Cluster) -> None:
    """Build the suite's tree in the place of the one that is there."""
    suite = lookup(cluster.suite)
    archives = CACHE / "debs" / cluster.suite
    archives.joinpath("partial").mkdir(parents=True, exist_ok=True)
    building, log = cluster.cache / "base.new", cluster.cache / "build.log"
    remove_tree(building)
    log.unlink(missing_ok=True)
    say(f"building the {cluster.suite} tree (log: {log})")
    say(f"  debootstrap --variant=minbase {cluster.suite}")
    logged(["debootstrap", "--variant=minbase", f"--cache-dir={archives}", cluster.suite, str(building)], log)
    say(
        f"  apt-get install Slurm {suite.slurm}, munge, MPI, compilers: {len(suite.packages())} packages "
        "and what they need"
    )
    words = [str(building), str(archives), str(HERE), ACCOUNTS, *suite.packages()]
    run_recipe(RECIPE, words, log)
    (building / ".stamp").write_text(stamp(cluster.suite))
    remove_tree(cluster.tree)
    building.rename(cluster.tree)


def ensure_layer(
    cluster: Cluster, name: str, wanted: str, packages: tuple[str, ...], prepare: str = ":", argument: str = ""
) -> Path:
    """Make a layer of packages above the suite's tree, if it is missing or its stamp differs; return its files.

    cluster: the cluster of a suite.
    name: the name of the layer in the suite's cache.
    wanted: the stamp: a hash of everything that the layer is made from.
    packages: the names of the packages.
    prepare: a shell script to run in the layer after the installation.
    argument: its argument.
    """
    layer = cluster.cache / name
    with cluster.cache_lock():
        if read(layer / ".stamp") != wanted:
            building, log = Path(f"{layer}.new"), Path(f"{layer}.log")
            remove_tree(building)
            log.unlink(missing_ok=True)
            say(f"installing {' '.join(packages)} in a layer over {cluster.suite} (log: {log})")
            archives = CACHE / "debs" / cluster.suite
            archives.joinpath("partial").mkdir(parents=True, exist_ok=True)
            words = [str(cluster.tree), str(building), str(archives), prepare, argument, *packages]
            run_recipe(LAYER_RECIPE, words, log)
            (building / ".stamp").write_text(wanted)
            remove_tree(layer)
            building.rename(layer)
    return layer / "upper"


def run_recipe(recipe: str, words: list[str], log: Path) -> None:
    """Run a shell script in its own mount namespace, so that its mounts end with it, also after an error.

    recipe: the text of the script.
    words: its arguments.
    log: the log file.
    """
    logged(["unshare", "--mount", "--propagation", "private", "sh", "-c", recipe, "recipe", *words], log)


def read(path: Path) -> str:
    """Return the text of a file; "" if it does not exist."""
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


def remove_tree(path: Path) -> None:
    """Remove a directory tree on one filesystem only: files on a mount below it must not be removed."""
    if path.exists():
        subprocess.run(["rm", "-rf", "--one-file-system", str(path)], check=True)


def logged(command: list[str], log: Path) -> None:
    """Run a command with its output in a log file.

    Raises:
        ClusterError: the command fails; the message has the end of the log.
    """
    with open(log, "ab") as output:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False)
    if done.returncode:
        tail = log.read_text(errors="replace").splitlines()[-20:]
        said = f"{command[0]} failed with status {done.returncode}: the whole log is {log}"
        raise ClusterError("\n".join([*tail, said]))


def prepare_shared(cluster: Cluster) -> None:
    """Make /home and /images, which all nodes share. `down` without --purge keeps them."""
    images = cluster.shared / "images"
    images.mkdir(parents=True, exist_ok=True)
    images.chmod(0o755)
    for name, uid in (("alice", 1000), ("bob", 1001)):
        home = cluster.shared / "home" / name
        if not home.exists():
            shutil.copytree(cluster.tree / "etc/skel", home)
            for path in (home, *home.rglob("*")):
                os.chown(path, uid, uid)
            home.chmod(0o700)
