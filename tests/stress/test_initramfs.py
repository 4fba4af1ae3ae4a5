# SPDX-License-Identifier: BSD-3-Clause
"""A stateless node: contrib/warewulf/node.def is built, and booted under QEMU with the image as its initramfs.

There the root filesystem is the kernel's first one, and pivot_root(2) fails. The build takes minutes, the boot about
two, without KVM.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from building import machine_binds

TOP = Path(__file__).resolve().parents[2]
WAREWULF = TOP / "contrib/warewulf"
SECONDS = 1200
# As excludes says, and modules of devices that this machine does not have.
LEFT_OUT = ("usr/lib/modules/*/kernel/drivers", "usr/lib/modules/*/kernel/net", "usr/share/perl")

INIT = r"""#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev
mkdir -p /dev/shm /dev/pts; mount -t tmpfs shm /dev/shm; mount -t devpts pts /dev/pts
mount -t tmpfs run /run; mount -t tmpfs -o mode=1777 tmp /tmp
exec > /dev/console 2>&1 < /dev/null
modprobe fuse; modprobe overlay; chmod 666 /dev/fuse
cd /
read -r id parent rest < /proc/self/mountinfo; echo "ROOT $id $parent $rest"
for user in 0 65534; do
    setpriv --reuid=$user --regid=$user --clear-groups env HOME=/ bollard exec --no-home \
        /usr/lib/bollard/check.sqfs /bin/probe --print-environment > /tmp/out
    echo "EXEC $user $? $(grep -azc ^BOLLARD_CONTAINER= /tmp/out)"
done
bollard site check
echo END
poweroff -f
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sandbox made by node.def, with packages of this checkout."""
    subprocess.run([TOP / "packaging/packages", "deb", "bookworm"], cwd=TOP, check=True, stdout=subprocess.DEVNULL)
    work = tmp_path_factory.mktemp("node")
    for path in (*WAREWULF.glob("*"), *TOP.glob("dist/bookworm/bollard*.deb")):
        if path.is_file() and "dbgsym" not in path.name:
            shutil.copy(path, work)
    program = "import sys; from bollard.runtime.cli.main import main; sys.exit(main())"
    binds = [word for bind in machine_binds(work) for word in ("--bind", bind)]
    environment = {**os.environ, "PYTHONPATH": str(TOP / ".dev"), "BOLLARD_TMPDIR": str(work)}
    command = [sys.executable, "-c", program, "build", *binds, "--sandbox", "node", "node.def"]
    subprocess.run(command, cwd=work, env=environment, check=True)
    return work / "node"


def packed(tree: Path, target: Path) -> None:
    """Write the tree to `target` as Warewulf's image has it: a compressed cpio archive."""
    left_out = [*(line.rstrip("/") for line in (WAREWULF / "excludes").read_text().split()), *LEFT_OUT]
    tests = [word for name in left_out for word in ("-path", f"./{name}", "-o")][:-1]
    command = 'find . -xdev \\( "$@" \\) -prune -o -print0 | cpio --null -o --format=newc --quiet | gzip -1 > "$0"'
    subprocess.run(["sh", "-c", command, str(target), *tests], cwd=tree, check=True)


def test_containers_on_an_initramfs(tree: Path, tmp_path: Path) -> None:
    (tree / "init").unlink(missing_ok=True)
    (tree / "init").write_text(INIT)
    (tree / "init").chmod(0o755)
    packed(tree, tmp_path / "image")
    (kernel,) = tree.glob("boot/vmlinuz-*")
    machine = ["qemu-system-x86_64", "-accel", "tcg", "-m", "3000", "-nographic", "-no-reboot", "-net", "none"]
    line = ["-kernel", str(kernel), "-initrd", str(tmp_path / "image"), "-append", "console=ttyS0 quiet panic=-1"]
    done = subprocess.run(
        [*machine, *line], stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=SECONDS
    )
    text = done.stdout.decode(errors="replace").replace("\r", "")
    assert "\nEND\n" in text, text
    (root,) = [text.split() for text in text.splitlines() if "ROOT " in text]
    root = root[-(len(root) - root.index("ROOT")) :]
    assert root[1] == root[2] and "rootfs" in root, root
    assert "EXEC 0 0 1" in text and "EXEC 65534 0 1" in text, text
    assert "root filesystem   the initramfs" in text and "--root=tmpfs" in text, text
    assert "container         a program ran in check.sqfs" in text, text
