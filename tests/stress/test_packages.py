# SPDX-License-Identifier: BSD-3-Clause
"""Packages of Debian with many maintainer scripts are installed by root in a writable container, under srun.

The nodes have no network: the packages come from an apt repository in a directory, which this machine has filled.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest
from cluster import Cluster, Images, Work

PACKAGES = ("tzdata", "openssh-client", "emacs-nox", "redis", "rpm")
# $1: the image's tree, $2: where the packages go, then their names. In a layer, so that the tree stays as it is.
FETCH = r"""
set -eu
tree=$1 target=$2; shift 2
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin
layer=$(mktemp -d)
mount -t tmpfs layer "$layer"
mkdir "$layer/upper" "$layer/work" "$layer/root"
mount -t overlay -o "lowerdir=$tree,upperdir=$layer/upper,workdir=$layer/work" layer "$layer/root"
root=$layer/root
for name in resolv.conf hosts; do cat "/etc/$name" > "$root/etc/$name"; done
apt-config dump | grep -E '^Acquire::(Check-Valid-Until|Check-Date|https?::Proxy) ' > "$root/etc/apt/apt.conf.d/90machine" || true
mount --bind "$target" "$root/var/cache/apt/archives"
mkdir -p "$target/partial"
chroot "$root" apt-get -q update
chroot "$root" apt-get -q -y --download-only --no-install-recommends install "$@"
"""
INSTALL = r"""
set -e
export DEBIAN_FRONTEND=noninteractive LC_ALL=C
options="-q=2 -o Dir::Etc::SourceList=/repo/list -o Dir::Etc::SourceParts=-"
apt-get $options update
apt-get $options --no-install-recommends install PACKAGES > /tmp/log 2>&1 || { cat /tmp/log; exit 1; }
grep -i 'warning\|error' /tmp/log | grep -v 'unable to delete old directory\|debconf: delaying' || true
dpkg-query -W -f '${Package} ${Status}\n' PACKAGES
id -u redis > /dev/null && getent passwd redis | cut -d: -f1
emacs --batch --eval '(princ (+ 40 2))'; echo
ssh -V 2>&1 | cut -d_ -f1
TZ=Asia/Tokyo date +%Z
apt-get $options purge redis-server > /tmp/log 2>&1 || { cat /tmp/log; exit 1; }
dpkg --audit
"""


@pytest.fixture(scope="module")
def repository(cluster: Cluster, images: Images, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of this machine with the packages that the image lacks for PACKAGES: an apt repository."""
    folder, tree = tmp_path_factory.mktemp("repository"), images.tree(cluster.suite, "small")
    recipe = ["unshare", "--mount", "--propagation", "private", "sh", "-c", FETCH, "fetch"]
    done = subprocess.run([*recipe, str(tree), str(folder), *PACKAGES], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    entries = []
    for package in sorted(folder.glob("*.deb")):
        fields = subprocess.run(["dpkg-deb", "-f", str(package)], capture_output=True, text=True, check=True).stdout
        data = package.read_bytes()
        entries.append(f"{fields}Filename: ./{package.name}\nSize: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n")
    (folder / "Packages").write_text("\n".join(entries))
    (folder / "list").write_text("deb [trusted=yes] file:/repo ./\n")
    return folder


@pytest.mark.parametrize("writable", ["--container-writable", "--container-opts=--overlay layer"])
def test_packages_of_debian(
    cluster: Cluster, images: Images, work: Work, repository: Path, writable: str
) -> None:
    shutil.copytree(repository, work.here / "repo", ignore=shutil.ignore_patterns("partial", "lock"))
    script = work.write("install.sh", INSTALL.replace("PACKAGES", " ".join(PACKAGES)))
    (work.here / "layer").mkdir()
    cluster.exec(["chown", "alice", f"{work.path}/layer"], user="root")
    words = ["-N1", "-n1", f"--container={images.sif(cluster.suite, 'small')}", "--container-remap-root", writable]
    mount = f"--container-mounts={work.path}/repo:/repo:ro"
    done = cluster.srun(*words, mount, "sh", script, cwd=work.path, seconds=1200)
    wanted = [f"{package} install ok installed" for package in sorted(PACKAGES)]
    assert (done.rc, done.err) == (0, ""), done
    assert done.out.splitlines() == [*wanted, "redis", "42", "OpenSSH", "JST"], done
