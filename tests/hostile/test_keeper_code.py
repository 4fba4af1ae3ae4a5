# SPDX-License-Identifier: BSD-3-Clause
"""Attempts of a user to run code in the keeper: by Python modules in the container, and by tracing its processes."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import PREFIX, SERVERS, Cluster, Images, Process, Work, good, until

# Modules that Python's own library, and functions of ours, import late.
MODULES = (
    "csv", "re", "shlex", "subprocess", "difflib", "json", "typing", "traceback", "linecache", "tokenize", "warnings",
    "contextlib", "encodings/idna", "encodings/punycode", "encodings/ascii", "locale", "threading", "hashlib", "struct",
    "bollard",
)  # fmt: skip
EVIL = "import os\ntry: os.close(os.open('{marker}', os.O_CREAT | os.O_WRONLY))\nexcept OSError: pass\n"
# What a task may send in the place of its spec, and in its environment.
_HEAD = "bollard1 root=0 image=0 multi-prog=0 verbose= name=a mode=auto cwd=/ : "
SPECS = (
    _HEAD + "mount=type=bind,src=/tmp,dst=/mnt name=a",
    _HEAD + "env=a=1,b=2 name=a",
    _HEAD + 'env="a=1" name=a',
    _HEAD + "opts=--nosuch name=a",
    _HEAD + "env-file=/etc/passwd name=a",
    _HEAD + "binds=%FF%FE name=a",
    _HEAD + "image=/no/such name=%80",
    "nosuch=1",
    "",
)
# Sends each of them to every keeper of this user's on the node, as a launcher would, and prints the answers' letters.
SENDER = """
import glob, re, socket, struct, sys
names = set(glob.glob("/run/bollard-jobs/*/" + 16 * "[0-9a-f]"))
names |= {"\\0" + name for name in re.findall(r"@(bollard-[0-9a-f]{32})", open("/proc/net/unix").read())}
for name in sorted(names):
    for spec in sys.argv[1:]:
        env = [b"SLURM_BOLLARD_SPEC=" + spec.encode(), b"A=\\xff", b"PMIX_NAMESPACE="] if spec else [b"\\xff"]
        words = [b"1", b"true", b"%d" % len(env), *env, b"/", b"1", b""]
        frame = b"\\0".join(words)
        peer = socket.socket(socket.AF_UNIX)
        peer.settimeout(30)
        peer.connect(name)
        peer.sendall(b"T" + struct.pack("=I", len(frame)) + frame)
        print(name.rpartition("/")[2], peer.recv(1).decode(), flush=True)
"""


def stdlib(cluster: Cluster) -> str:
    """The directory of the nodes' standard library."""
    text = "import sysconfig; print(sysconfig.get_path('stdlib'))"
    return good(cluster.exec(["/usr/bin/python3", "-c", text], node="n1")).strip()


@contextlib.contextmanager
def container(cluster: Cluster, work: Work, *words: str) -> Iterator[Process]:
    """Yield the keeper of a container on n1 whose task waits; at the end of the block the job ends."""
    command = ["srun", "-Q", "-w", "n1", "-n1", *words, "sh", "-c", work.pause("inside")]
    with cluster.start(command, cwd=work.path) as job:
        work.wait_for("inside")
        keepers = until(lambda: cluster.named("n1", "bollard-keeper"), "a keeper")
        yield keepers[0]
        work.go_on("inside")
        assert job.result().rc == 0


def evil_modules(cluster: Cluster, work: Work) -> str:
    """The bind of a directory over the standard library. Each module in it makes a file `ran-MODULE` when it is run."""
    (work.here / "evil/encodings").mkdir(parents=True)
    for module in MODULES:
        work.write(f"evil/{module}.py", EVIL.format(marker=f"{work.path}/ran-{module.replace('/', '-')}"))
    work.write("send.py", SENDER)
    return f"{work.path}/evil:{stdlib(cluster)}"


def attack(cluster: Cluster, work: Work, keeper: Process) -> None:
    """Send requests that no launcher sends: the keeper answers each, and runs no module of the user."""
    answers = good(cluster.exec(["/usr/bin/python3", f"{work.path}/send.py", *SPECS], node="n1"))
    assert len(answers.splitlines()) == len(SPECS), answers
    assert keeper.alive()
    assert sorted(path.name for path in work.here.glob("ran-*")) == []


@pytest.mark.parametrize("named", [True, False])
def test_the_keeper_imports_nothing_of_the_container(cluster: Cluster, images: Images, work: Work, named: bool) -> None:
    words = [f"--container={images.small}", f"--container-mounts={evil_modules(cluster, work)}"]
    with container(cluster, work, *words, *(["--container-name=a"] if named else [])) as keeper:
        attack(cluster, work, keeper)


def test_nor_does_the_keeper_of_a_container_by_hand(cluster: Cluster, images: Images, work: Work) -> None:
    words = ["bollard", "exec", "--bind", evil_modules(cluster, work), images.small, "sh", "-c", work.pause("inside")]
    with cluster.start(words, node="n1") as program:
        work.wait_for("inside")
        attack(cluster, work, until(lambda: cluster.named("n1", "bollard-keeper"), "a keeper")[0])
        work.go_on("inside")
        assert program.result().rc == 0


def test_nothing_of_slurmstepd_is_in_the_keeper(cluster: Cluster, images: Images, work: Work) -> None:
    with container(cluster, work, f"--container={images.small}") as keeper:
        own = cluster.named("n1", "bollard-keeper", "bollard-reaper")
        assert {process.name for process in own} == {"bollard-keeper", "bollard-reaper"}
        for process in own:
            there = Path(f"/proc/{process.pid}")
            assert os.readlink(there / "exe").rpartition("/")[2] == "bollard-keeper"
            maps = (there / "maps").read_text()
            assert "slurm" not in maps and "libpython" in maps
            assert b"slurmstepd" not in (there / "cmdline").read_bytes()
            assert (there / "environ").stat().st_uid == 0  # not dumpable
        for server in cluster.named("n1", *SERVERS):
            for field in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
                assert int(server.status(field), 16) == 0, (server, field)
        for field in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
            assert int(keeper.status(field), 16) == 0, field
        assert keeper.status("NoNewPrivs") == "1"


@pytest.mark.parametrize("root", [False, True])
def test_no_process_of_the_keepers_can_be_traced(cluster: Cluster, images: Images, work: Work, root: bool) -> None:
    """Neither the user nor root in the container can; that root has capabilities in the keeper's namespace."""
    remap = ["--container-remap-root"] if root else []
    with container(cluster, work, f"--container={images.small}", *remap):
        own = cluster.named("n1", "bollard-keeper", "bollard-reaper", *SERVERS)
        inside = {process.pid: process.status("NSpid").split()[-1] for process in own}
        look = "readlink /proc/$p/ns/mnt /proc/$p/root /proc/$p/fd/0; cat /proc/$p/environ /proc/$p/maps 2>/dev/null"
        text = f"for p in {' '.join(inside.values())}; do {look}; done; true"
        assert good(cluster.exec(["sh", "-c", text], node="n1")) == ""
        enter = cluster.srun("-w", "n1", "--overlap", f"--container={images.small}", *remap, "sh", "-c", text)
        assert enter.out == ""


@contextlib.contextmanager
def told(cluster: Cluster, path: str, marker: str) -> Iterator[None]:
    """Replace the program `path` on n1 by one that appends to `marker`, a file that all users can write."""
    real = cluster.path("n1", "/tmp/told")
    real.write_text(f"#!/bin/sh\necho ran >> {marker}\n")
    real.chmod(0o755)
    good(cluster.exec(["mount", "--bind", "/tmp/told", path], node="n1", user="root"))
    try:
        yield
    finally:
        good(cluster.exec(["umount", path], node="n1", user="root"))
        real.unlink()


def test_ldconfig_is_not_run(cluster: Cluster, images: Images, work: Work) -> None:
    marker = work.write("marker", "", 0o666)
    with told(cluster, good(cluster.exec(["readlink", "-f", "/sbin/ldconfig"], node="n1")).strip(), marker):
        done = cluster.srun("-w", "n1", f"--container={images.small}", "--container-opts=--nv --rocm", "true")
        assert done.rc == 0
    assert work.read("marker") == ""


# Prints the names of all descendants of a saver, then those whose /proc entries this user could read.
WATCHER = """
import os, sys
seen, reached = set(), set()
def field(pid, name):
    with open(f"/proc/{pid}/status") as file:
        return next(line.split()[1] for line in file if line.startswith(name))
while not os.path.exists(sys.argv[1]):
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            at, names = pid, []
            while int(at) > 1:
                names.append(field(at, "Name:"))
                at = field(at, "PPid:")
            if "bollard-saver" not in names:
                continue
            seen.add(names[0])
            os.readlink(f"/proc/{pid}/ns/mnt")
            reached.add(names[0])
        except (OSError, StopIteration):
            pass
    open(sys.argv[2], "w").close()
print(" ".join(sorted(seen)), "|", " ".join(sorted(reached)))
"""


@pytest.mark.parametrize("name", ["saved.sqsh", "saved.sif"])
def test_what_saves_a_container_cannot_be_entered(cluster: Cluster, images: Images, work: Work, name: str) -> None:
    """The image has no .singularity.d, so for a SIF file mksquashfs starts a shell that reads the added files."""
    plain = work.here / "plain.sqfs"
    command = ["mksquashfs", str(images.small_tree), str(plain), "-comp", "gzip", "-quiet", "-no-progress", "-all-root"]
    subprocess.run([*command, "-e", ".singularity.d"], check=True, stdout=subprocess.DEVNULL)
    plain.chmod(0o644)
    work.write("watch.py", WATCHER)
    watch = ["/usr/bin/python3", f"{work.path}/watch.py", f"{work.path}/over", f"{work.path}/watching"]
    with cluster.start(watch, node="n1") as watcher:
        work.wait_for("watching")
        words = [f"--container={work.path}/plain.sqfs", "--container-writable", f"--container-save={work.path}/{name}"]
        done = cluster.srun("-w", "n1", "-n1", *words, "sh", "-c", "echo > /opt/kept")
        work.write("over", "")
        seen, _, reached = good(watcher.result()).strip().partition("|")
    assert good(done) == ""
    assert "mksquashfs" in seen.split(), seen
    assert reached.strip() == ""
    check = "ls /opt/kept; test -s /.singularity.d/runscript && echo runscript; true"
    out = good(cluster.srun("-w", "n1", f"--container={work.path}/{name}", "sh", "-c", check)).split()
    assert out == ["/opt/kept", *(["runscript"] if name.endswith(".sif") else [])]


def test_the_installation_lets_nobody_read_what_must_not_be_traced(cluster: Cluster) -> None:
    names = ("bollard-keeper", "bollard-cat", "mksquashfs", *SERVERS[:2])
    there = [path for name in names if (path := cluster.path("n1", f"{PREFIX}/{name}")).exists()]
    assert {"bollard-keeper", "bollard-cat", "mksquashfs"} <= {path.name for path in there}
    for path in there:
        assert path.stat().st_mode & 0o777 == 0o711, path
