# SPDX-License-Identifier: BSD-3-Clause
"""Packages are installed by root in a container: they add users, change owners and replace files."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
from cluster import CONTROLLER, Cluster, Images, Work, good

# What maintainer scripts do; each line that fails ends the installation.
POSTINST = """#!/bin/sh
set -e
groupadd --system service
useradd --system --gid service --no-create-home --home-dir /var/lib/service service
install -d -o service -g service -m 750 /var/lib/service
chown -R service:service /usr/share/service
chgrp 42 /usr/share/service/file
setpriv --reuid=service --regid=service --init-groups true
mknod /var/lib/service/null c 1 3
cd /var/lib/service && tar -xpf /usr/share/service/owners.tar
ln -sf /usr/share/zoneinfo/UTC /etc/localtime.dpkg-new
mv -f /etc/localtime.dpkg-new /etc/localtime
echo 127.0.0.9 service >> /etc/hosts.new && mv /etc/hosts.new /etc/hosts
rm /etc/gshadow && touch /etc/gshadow
cp /etc/resolv.conf /etc/resolv.conf.new && mv /etc/resolv.conf.new /etc/resolv.conf
"""
APT = (
    "apt-get -q=2 -o Dir::Etc::SourceList=/repo/list -o Dir::Etc::SourceParts=- update && "
    "DEBIAN_FRONTEND=noninteractive apt-get -q=2 -o Dir::Etc::SourceList=/repo/list install service >/tmp/apt.$$ 2>&1 "
    "|| { cat /tmp/apt.$$; exit 1; }; rm -f /tmp/apt.$$; getent passwd service | cut -d: -f1; cat /etc/hosts; "
    "ls /var/lib/service; dpkg-query -W -f '${Status}\\n' service"
)
INSTALLED = "service\n127.0.0.9 service\nforeign\ninstall ok installed\n"


def repository(folder: Path) -> None:
    """An apt repository with one package, whose files belong to users that no image has."""
    tree = folder.parent / "service"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "usr/share/service").mkdir(parents=True)
    control = "Package: service\nVersion: 1\nArchitecture: all\nMaintainer: nobody <n@localhost>\nDescription: a test\n"
    (tree / "DEBIAN/control").write_text(control)
    (tree / "DEBIAN/postinst").write_text(POSTINST)
    (tree / "DEBIAN/postinst").chmod(0o755)
    (tree / "usr/share/service/file").write_text("x\n")
    with tarfile.open(tree / "usr/share/service/owners.tar", "w") as tar:
        entry = tarfile.TarInfo("foreign")
        entry.uid = entry.gid = 4321
        tar.addfile(entry, io.BytesIO())
    os.chown(tree / "usr/share/service/file", 4321, 4321)
    folder.mkdir()
    package = folder / "service_1_all.deb"
    subprocess.run(["dpkg-deb", "-Zgzip", "--build", str(tree), str(package)], check=True, stdout=subprocess.DEVNULL)
    data = package.read_bytes()
    fields = f"Filename: ./{package.name}\nSize: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n"
    (folder / "Packages").write_text(control + fields)
    (folder / "list").write_text("deb [trusted=yes] file:/repo ./\n")


def other_owners(cluster: Cluster, images: Images) -> str:
    """Make an image of the nodes' release whose files belong to many users, as enroot does; returns its path."""
    path = f"/images/{cluster.suite}-owners.sqsh"
    here = cluster.path(CONTROLLER, path)
    if not here.exists():
        tree = images.tree(cluster.suite, "small")
        subprocess.run(["mksquashfs", str(tree), str(here), "-quiet", "-no-progress", "-comp", "gzip"], check=True)
        here.chmod(0o644)
    return path


@pytest.mark.parametrize("kind", ["another release", "own release", "other owners"])
def test_packages(cluster: Cluster, images: Images, work: Work, kind: str) -> None:
    repository(work.here / "repo")
    image = images.small
    if kind == "own release":
        image = images.sif(cluster.suite, "small")
    elif kind == "other owners":
        image = other_owners(cluster, images)
    words = ["-N1", "-n1", f"--container={image}", "--container-remap-root", "--container-writable"]
    done = cluster.srun(*words, f"--container-mounts={work.path}/repo:/repo:ro", "sh", "-c", APT)
    assert good(done) == INSTALLED


def test_packages_stay_in_a_container_with_a_name_and_in_a_file(cluster: Cluster, images: Images, work: Work) -> None:
    repository(work.here / "repo")
    saved = f"{work.path}/saved.sqsh"
    words = f"--container={images.small} --container-name=lab --container-remap-root --container-writable"
    mount = f"--container-mounts={work.path}/repo:/repo:ro"
    script = work.write("install.sh", APT)
    steps = (
        f"srun -Q -N1 -n1 {words} {mount} sh {script} >/dev/null",
        f"srun -Q -N1 -n1 --container-name=lab --container-remap-root --container-save={saved} id -un service",
        f"srun -Q -N1 -n1 --container={saved} sh -c 'id -un service; cat /usr/share/service/file'",
    )
    done = cluster.exec(["salloc", "-Q", "-N1", "bash", "-c", "\n".join(steps)])
    assert good(done) == "service\nservice\nx\n"


def test_packages_by_hand(cluster: Cluster, images: Images, work: Work) -> None:
    repository(work.here / "repo")
    words = ["bollard", "exec", "--fakeroot", "--writable-tmpfs", f"--bind={work.path}/repo:/repo:ro", images.small]
    assert good(cluster.exec([*words, "sh", "-c", APT], cwd=work.path)) == INSTALLED


SSHD = """
sed -i 's/^sshd:x:[0-9]*:[0-9]*:/sshd:x:0:0:/' /etc/passwd
mkdir -p /run/sshd
mkdir /opt/sshd && cd /opt/sshd
ssh-keygen -q -t ed25519 -N '' -f key
options="-o AuthorizedKeysFile=$PWD/key.pub -o StrictModes=no -o PidFile=none -o ListenAddress=127.0.0.1"
for port in 22022 22023 22024 22025; do
    /usr/sbin/sshd -D -e -p $port $options 2>log &
    for try in $(seq 100); do grep -q 'listening on\\|Cannot bind' log && break; sleep 0.1; done
    grep -q 'listening on' log && break
done
known='-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR'
ssh -tt -p $port -i key $known root@127.0.0.1 'tty; stat -c %u $(tty); id -u' || cat log
kill %1
"""


def test_sshd_gives_a_terminal(cluster: Cluster, images: Images, work: Work) -> None:
    """sshd changes the owner of the terminal: an id that is not mapped. It must also not find that it stayed root."""
    script = work.write("sshd.sh", SSHD)
    words = ["-N1", "-n1", f"--container={images.sif('bookworm', 'ssh')}", "--container-remap-root"]
    done = cluster.srun(*words, "--container-writable", "bash", script)
    assert done.rc == 0, done
    terminal, owner, user = done.out.replace("\r", "").split()
    assert terminal.startswith("/dev/pts/") and (owner, user) == ("0", "0"), done
