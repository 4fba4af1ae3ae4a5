# SPDX-License-Identifier: BSD-3-Clause
"""Apptainer as an unprivileged user in a file tree of its own, beside this checkout's `bollard`.

A user namespace cannot be made in a chroot: the tree becomes the root of a mount namespace by pivot_root.
"""

from __future__ import annotations

import os
import subprocess
import sys

UID = 4242

# $1: the tree, $2: the folder both see, then the command.
_ENTER = f"""
set -e
tree=$1 folder=$2
shift 2
mount --bind "$tree" "$tree"
cd "$tree"
mount -t proc proc proc
mount --rbind /sys sys
mount --rbind /dev dev
mount -t tmpfs tmpfs tmp
mkdir -p "./$folder" tmp/old tmp/home
chmod 1777 tmp
mount --bind "$folder" "./$folder"
mknod -m 666 tmp/fuse c 10 229
mount --bind tmp/fuse dev/fuse
for name in hosts resolv.conf localtime; do test -e etc/$name || touch etc/$name; done
echo 'peer:x:{UID}:{UID}::/tmp/home:/bin/sh' > tmp/passwd
cat etc/passwd >> tmp/passwd
mount --bind tmp/passwd etc/passwd
chown {UID}:{UID} tmp/home
pivot_root . tmp/old
cd /
umount -l /tmp/old
cd "$folder"
exec setpriv --reuid {UID} --regid {UID} --clear-groups env -i PATH=/usr/sbin:/usr/bin HOME=/tmp/home TZ=UTC "$@"
"""


# $1: the folder, then the command: on this machine, as the same user, who may open /dev/fuse.
_BESIDE = f"""
set -e
folder=$1
shift
mount -t tmpfs tmpfs /mnt
mknod -m 666 /mnt/fuse c 10 229
mount --bind /mnt/fuse /dev/fuse
umount -l /mnt
cd "$folder"
exec setpriv --reuid {UID} --regid {UID} --clear-groups env -i PATH=/usr/sbin:/usr/bin HOME=/tmp/home TZ=UTC "$@"
"""


class Peer:
    """Runs `apptainer` of `tree` and `bollard` of this checkout in `folder`; `prefix` is where that is installed."""

    def __init__(self, tree: str, folder: str) -> None:
        self.tree = os.path.abspath(tree)
        self.folder = folder
        self.prefix = os.path.join(folder, "prefix")

    def apptainer(self, *argv: str, binary: bool = False) -> subprocess.CompletedProcess[str]:
        command = ["unshare", "-m", "--propagation", "private", "sh", "-c", _ENTER, "sh", self.tree, self.folder]
        return self._run([*command, "apptainer", *argv], dict(os.environ), binary)

    def bollard(self, *argv: str, binary: bool = False, **environ: str) -> subprocess.CompletedProcess[str]:
        code = "import sys; from bollard.runtime.cli.main import main; sys.exit(main(sys.argv[1:]))"
        env = {"PATH": os.environ["PATH"], "PYTHONPATH": os.environ["PYTHONPATH"], "HOME": "/root", **environ}
        return self._run([sys.executable, "-c", code, *argv], env, binary)

    def bollard_as_user(self, *argv: str) -> subprocess.CompletedProcess[str]:
        code = (
            f"import sys; sys.path.append({self.prefix + '/python'!r})\n"
            "from bollard.runtime.cli.main import main; sys.exit(main(sys.argv[1:]))"
        )
        command = ["unshare", "-m", "--propagation", "private", "sh", "-c", _BESIDE, "sh", self.folder]
        return self._run([*command, sys.executable, "-ISXutf8", "-c", code, *argv], dict(os.environ), False)

    def _run(self, command: list[str], env: dict[str, str], binary: bool) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command, cwd=self.folder, env=env, stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
        # Not by run(): it would change the ends of lines.
        out, err = done.stdout.decode("latin-1" if binary else "utf-8"), done.stderr.decode("utf-8", "replace")
        return subprocess.CompletedProcess(command, done.returncode, out, err)
