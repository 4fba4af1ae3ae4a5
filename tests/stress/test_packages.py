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

PACKAGES = ("tzdata", "openssh-client", "emacs-nox", "redis", "rpm", "dnf", "createrepo-c")
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
apt-config dump | grep -E '^Acquire::(Check-Valid-Until|Check-Date|https?::Proxy) ' \
    > "$root/etc/apt/apt.conf.d/90machine" || true
mount --bind "$target" "$root/var/cache/apt/archives"
mount -t proc proc "$root/proc"
mount --bind /dev "$root/dev"
mount -t tmpfs tmp "$root/tmp"
chmod 1777 "$root/tmp"
mkdir -p "$target/partial"
chroot "$root" apt-get -q update
chroot "$root" apt-get -q -y --download-only --no-install-recommends install "$@"
"""
INSTALL = r"""
set -e
export DEBIAN_FRONTEND=noninteractive LC_ALL=C
options="-q=2 -o Dir::Etc::SourceList=/repo/list -o Dir::Etc::SourceParts=-"
apt-get $options update
apt-get $options --no-install-recommends install PACKAGES > /root/log 2>&1 || { cat /root/log; exit 1; }
dpkg-query -W -f '${Package} ${Status}\n' PACKAGES
id -u redis > /dev/null && getent passwd redis | cut -d: -f1
emacs --batch --eval '(princ (+ 40 2))' 2> /dev/null; echo
ssh -V 2>&1 | cut -d_ -f1
TZ=Asia/Tokyo date +%Z
apt-get $options purge redis-server > /root/log 2>&1 || { cat /root/log; exit 1; }
dpkg --audit
mkdir -p /root/rpm; cd /root/rpm
cat > own.spec << END
Name: own
Version: 1
Release: 1
Summary: files of another user
License: none
BuildArch: noarch
Provides: /bin/sh user(daemon) group(daemon)
%description
A test.
%install
mkdir -p %{buildroot}/srv/own && echo x > %{buildroot}/srv/own/file
%post
chown daemon:daemon /srv/own/file
%files
%attr(0750, daemon, daemon) /srv/own
END
rpmbuild --quiet -bb --define '_topdir /root/rpm' own.spec > log 2>&1 || cat log
rpm -i --nodeps RPMS/noarch/own-1-1.noarch.rpm 2> log || cat log  # it says so under nice(1)
rpm -q own; cat /srv/own/file
rpm -e own 2> log || cat log
createrepo_c -q RPMS/noarch > log 2>&1 || cat log
dnf="dnf -q -y --nogpgcheck --releasever=1 --repofrompath=here,file:///root/rpm/RPMS/noarch --repo=here"
$dnf install own > log 2>&1 || cat log
rpm -q own; cat /srv/own/file
sed -i -e 's/^Name: own/Name: bare/' -e '/^%post/,/^chown/d' own.spec
rpmbuild --quiet -bb --define '_topdir /root/rpm' own.spec > log 2>&1 || cat log
createrepo_c -q RPMS/noarch > log 2>&1 || cat log
$dnf --refresh --installroot=/srv/root install bare > log 2>&1 || cat log
rpm --root /srv/root -q bare; cat /srv/root/srv/own/file
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
        digest = hashlib.sha256(data).hexdigest()
        entries.append(f"{fields}Filename: ./{package.name}\nSize: {len(data)}\nSHA256: {digest}\n")
    (folder / "Packages").write_text("\n".join(entries))
    (folder / "list").write_text("deb [trusted=yes] file:/repo ./\n")
    for path in folder.iterdir():
        path.chmod(0o644 if path.is_file() else 0o755)
    folder.chmod(0o755)
    return folder


# /tmp is the container's: maintainer scripts leave directories there.
@pytest.mark.parametrize("writable", ["--writable-tmpfs", "--overlay layer"])
def test_packages_of_debian(cluster: Cluster, images: Images, work: Work, repository: Path, writable: str) -> None:
    shutil.copytree(repository, work.here / "repo", ignore=shutil.ignore_patterns("partial", "lock"))
    script = work.write("install.sh", INSTALL.replace("PACKAGES", " ".join(PACKAGES)))
    (work.here / "layer").mkdir()
    cluster.exec(["chown", "alice", f"{work.path}/layer"], user="root")
    words = ["-N1", "-n1", f"--container={images.sif(cluster.suite, 'small')}", "--container-remap-root"]
    words.append(f"--container-opts=--no-mount tmp {writable}")
    mount = f"--container-mounts={work.path}/repo:/repo:ro"
    done = cluster.srun(*words, mount, "sh", script, cwd=work.path, seconds=1200)
    wanted = [f"{package} install ok installed" for package in sorted(PACKAGES)]
    assert (done.rc, done.err) == (0, ""), done
    told = ["redis", "42", "OpenSSH", "JST", *["own-1-1.noarch", "x"] * 2, "bare-1-1.noarch", "x"]
    assert done.out.splitlines() == [*wanted, *told], done
