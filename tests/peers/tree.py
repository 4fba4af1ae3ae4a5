# SPDX-License-Identifier: BSD-3-Clause
"""A small Debian (sid) with Apptainer and this checkout's bollard in it, and one ordinary user who runs both.

    python3 tests/peers/tree.py          make or refresh it (`make peers`)
    python3 tests/peers/tree.py run CMD  run a shell command in it as that user

The tree is entered with pivot_root in namespaces of its own, for no user namespace can be made from a chroot. It
lies in $BOLLARD_PEERS, else in /var/cache/bollard-peers.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
TOP = HERE.parent.parent
ROOT = Path(os.environ.get("BOLLARD_PEERS", "/var/cache/bollard-peers"))
SUITE = "sid"
PACKAGES = (
    "apptainer", "bash", "busybox-static", "ca-certificates", "e2fsprogs", "fuse-overlayfs", "fuse2fs", "fuse3", "gcc",
    "gocryptfs", "gpg", "gpg-agent", "gpgconf", "gpgv", "libc6-dev", "libslurm-dev", "mawk", "openssl", "procps",
    "python3-cffi", "python3-cryptography", "python3-dev", "python3-yaml", "skopeo", "squashfs-tools", "squashfuse",
)  # fmt: skip
USER, UID, GID, CHEM = "peer", 4242, 4242, 4343
HOME = f"/home/{USER}"
IMAGES = "/peers"
PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
ENVIRONMENT = {"HOME": HOME, "PATH": PATH, "TERM": "xterm", "USER": USER, "LOGNAME": USER, "SHELL": "/bin/bash"}

# In the tree, in a mount namespace of its own: a /proc, /dev and /tmp as on a machine of one's own, then its root.
_ENTER = r"""
set -eu
tree=$1
mount --bind "$tree" "$tree"
cd "$tree"
mount -t proc proc proc
mount --rbind /sys sys
mount -t tmpfs -o mode=0755 tmpfs dev
for node in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0 fuse:10:229; do
    name=${node%%:*} number=${node#*:}
    mknod -m 666 "dev/$name" c "${number%:*}" "${number#*:}"
done
mkdir dev/pts dev/shm dev/mqueue
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620 devpts dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t mqueue mqueue dev/mqueue
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ln -s fd/0 dev/stdin
ln -s fd/1 dev/stdout
ln -s fd/2 dev/stderr
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o mode=1777 tmpfs var/tmp
mkdir -p old
pivot_root . old
cd /
umount -l old
hostname peers
exec /usr/bin/python3 -ISc '
import signal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print("ready", flush=True)
while True:
    signal.pause()
'
"""


class Machine:
    """The tree, entered: an init process that reaps, and commands beside it."""

    def __init__(self, root: Path = ROOT) -> None:
        command = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private", "--pid",
                   "--fork", "--uts", "--ipc", "--kill-child", "sh", "-c", _ENTER, "sh", str(root)]  # fmt: skip
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        if self.process.stdout.readline() != "ready\n":
            raise RuntimeError(f"{root} cannot be entered; `make peers` makes it")
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        self.init = int(children.split()[0])

    def command(self, words: list[str], root: bool = False) -> list[str]:
        """What runs `words` there."""
        ids = ["--reuid", str(UID), "--regid", str(GID), "--groups", f"{GID},{CHEM}"]
        enter = ["nsenter", "-t", str(self.init), "--mount", "--pid", "--uts", "--ipc", "--"]
        return enter + ([] if root else ["setpriv", *ids, "--inh-caps=-all"]) + words

    def run(
        self, script: str, root: bool = False, env: dict[str, str] | None = None, timeout: float = 30
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a script of bash there, as the user; nothing of our own environment goes along."""
        words = ["env", "-i", *(f"{k}={v}" for k, v in {**ENVIRONMENT, **(env or {})}.items()), "bash", "-c", script]
        return subprocess.run(
            self.command(words, root), stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, check=False
        )

    def left(self) -> list[str]:
        """Processes there besides the first."""
        found = self.run("ps -eo pid=,args= --no-headers", root=True).stdout.decode().splitlines()
        return [line for line in found if line.split(None, 1)[0] != "1" and "ps -eo" not in line]

    def stop(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def _in_tree(script: str) -> None:
    """As root in the tree, before it can be entered."""
    env = {"PATH": PATH, "DEBIAN_FRONTEND": "noninteractive", "HOME": "/root", "LC_ALL": "C"}
    subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-euc",
         'mount -t proc proc "$0/proc"; mkdir -p "$0/src"; mount --bind "$2" "$0/src"; exec chroot "$0" sh -euc "$1"',
         str(ROOT), script, str(TOP)],
        stdin=subprocess.DEVNULL, env=env, check=True,
    )  # fmt: skip


def make() -> None:
    """The tree, its packages and its user."""
    ready = ROOT / ".packages"
    wanted = " ".join(PACKAGES)
    if ready.exists() and ready.read_text() == wanted:
        return
    if not (ROOT / "usr/bin/apt-get").exists():
        print(f"making {ROOT}: debootstrap {SUITE}", flush=True)
        ROOT.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["debootstrap", "--variant=minbase", SUITE, str(ROOT)], stdout=subprocess.DEVNULL, check=True)
    print(f"installing {wanted}", flush=True)
    # A tree that was finished before names a server that does not exist.
    (ROOT / "etc/resolv.conf").unlink(missing_ok=True)
    (ROOT / "etc/resolv.conf").write_bytes(Path("/etc/resolv.conf").read_bytes())
    _in_tree(
        "apt-get -q -o Acquire::Check-Valid-Until=false update >/dev/null; "
        f"apt-get -q -y --no-install-recommends install {wanted} >/dev/null; "
        f"grep -q ^{USER}: /etc/passwd || useradd -m -s /bin/bash -c Peer -u {UID} {USER}; "
        f"grep -q ^chem: /etc/group || groupadd -g {CHEM} chem; "
        f"rm -f /etc/subuid /etc/subgid; chown {USER}: {HOME}; "
        "printf '127.0.0.1 localhost\\n127.0.1.1 peers\\n' > /etc/hosts; "
        "rm -f /etc/resolv.conf; echo nameserver 192.0.2.53 > /etc/resolv.conf; "
        "ln -sf /usr/share/zoneinfo/UTC /etc/localtime"
    )
    ready.write_text(wanted)


def install() -> None:
    """This checkout's bollard, as an administrator would install it."""
    _in_tree("cd /src && /usr/bin/python3 spank_plugin")


def images() -> None:
    """What tests/peers/make-images makes, when that is newer than what is there."""
    recipe = HERE / "make-images"
    stamp = ROOT / IMAGES[1:] / ".made"
    sources = [recipe, *(HERE / "images").iterdir()]
    if stamp.exists() and stamp.stat().st_mtime > max(path.stat().st_mtime for path in sources):
        return
    print("making the images", flush=True)
    subprocess.run(["rm", "-rf", str(stamp.parent)], check=True)
    stamp.parent.mkdir()
    os.chown(stamp.parent, UID, GID)
    for path in sources:
        target = ROOT / IMAGES[1:] / path.name
        target.write_bytes(path.read_bytes())
        target.chmod(0o755)
    machine = Machine()
    try:
        done = machine.run(f"cd {IMAGES} && ./make-images 2>&1", timeout=900)
    finally:
        machine.stop()
    if done.returncode:
        sys.exit(f"the images could not be made:\n{done.stdout.decode()[-3000:]}")
    stamp.write_text(time.ctime())


def main() -> None:
    make()
    if sys.argv[1:2] == ["run"]:
        machine = Machine()
        done = subprocess.run(machine.command(["env", "-i", *(f"{k}={v}" for k, v in ENVIRONMENT.items()), "bash", "-c",
                                               f"cd; {sys.argv[2]}"]))  # fmt: skip
        machine.stop()
        sys.exit(done.returncode)
    install()
    images()


if __name__ == "__main__":
    main()
