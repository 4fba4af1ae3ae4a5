# SPDX-License-Identifier: BSD-3-Clause
"""The test cluster in Python: run commands on its nodes, and inspect the nodes from outside.

Commands run through `slurm-test-cluster/cluster exec`, as a user. Processes, mounts, sockets and files of a node are
read through /proc of the node's init, so that reading them leaves no trace on the node.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import secrets
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from subprocess import PIPE
from types import TracebackType
from typing import NamedTuple, TypeVar

import pexpect

TOP = Path(__file__).resolve().parent.parent.parent
COMMAND = ["/usr/bin/python3", str(TOP / "slurm-test-cluster/cluster")]
ENTRY = ["/usr/bin/python3", "-IS", str(TOP / "slurm-test-cluster/entry.py")]
IMAGES_COMMAND = ["/usr/bin/python3", str(TOP / "slurm-test-cluster/images")]
CONTROLLER = "ctl"
PREFIX = "/usr/lib/bollard"
# The second is built with libfuse 2 (the Debian of Slurm 20.11). The third shows files as the user's; the kernel cuts
# its name at 15 bytes.
SERVERS = ("squashfuse", "squashfuse2", "squashfuse-owne")
# Long enough for a loaded machine; a test that waits this long has failed.
PATIENCE = 60.0

T = TypeVar("T")


def until(found: Callable[[], T], what: str, seconds: float = PATIENCE) -> T:
    """Call `found` until its value is true, and return that value; fail with `what` in the message after `seconds`."""
    end = time.monotonic() + seconds
    while True:
        value = found()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds:.0f} s: {what} (last seen: {value!r})")
        time.sleep(0.05)


class Result(NamedTuple):
    """The exit status and output of a command."""

    rc: int
    out: str
    err: str

    def lines(self) -> list[str]:
        return sorted(self.out.splitlines())

    def complaints(self) -> list[str]:
        """The lines of bollard on stderr."""
        return [line for line in self.err.splitlines() if line.startswith("bollard: ")]

    def refusal(self) -> str:
        """The one line of bollard on stderr; fails unless the step was refused and printed nothing."""
        assert (self.rc, self.out, len(self.complaints())) == (255, "", 1), self
        return self.complaints()[0]


# srun's lines while a job before it still ends.
_QUEUED = re.compile(r"^srun: job \d+ (queued and waiting for resources|has been allocated resources)\n", re.MULTILINE)


def good(result: Result) -> str:
    """The output of a command; fails unless it succeeded with empty stderr, besides what srun says while it waits."""
    assert (result.rc, _QUEUED.sub("", result.err)) == (0, ""), result
    return result.out


class Process(NamedTuple):
    """A process of a node, with its process id on this machine."""

    pid: int
    name: str
    node: str
    uid: int
    start: int

    def status(self, field: str) -> str:
        """A field of /proc/PID/status."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == field:
                return value.strip()
        raise KeyError(field)

    def alive(self) -> bool:
        return read_process(self.pid, self.node) == self

    def kill(self, number: int = 9) -> None:
        os.kill(self.pid, number)


def read_process(pid: int, node: str) -> Process | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        uid = os.stat(f"/proc/{pid}").st_uid
    except (FileNotFoundError, ProcessLookupError):
        return None
    name = stat[stat.index("(") + 1 : stat.rindex(")")]
    fields = stat[stat.rindex(")") + 2 :].split()
    return None if fields[0] in "ZX" else Process(pid, name, node, uid, int(fields[19]))


class Running:
    """A started command; it is terminated at the end of the `with` block if it still runs."""

    def __init__(self, command: list[str]) -> None:
        self.popen = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def result(self, seconds: float = PATIENCE) -> Result:
        out, err = self.popen.communicate(timeout=seconds)
        return Result(self.popen.returncode, out, err)

    def terminate(self) -> None:
        """Send what Ctrl-C twice sends: srun ends its job and then itself."""
        self.popen.terminate()

    def __enter__(self) -> Running:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.popen.poll() is None:
            self.popen.terminate()
            try:
                self.popen.wait(20)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()
        # Processes that it left behind may hold the other ends for ever.
        for pipe in (self.popen.stdout, self.popen.stderr):
            if pipe is not None:
                pipe.close()


def _usual_signals() -> None:
    """Let the keys of a terminal act: a shell that starts the tests in the background has them ignored."""
    for number in (signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)


class Cluster:
    """The cluster of one Debian suite."""

    def __init__(self, suite: str) -> None:
        self.suite = suite
        self.inits: dict[str, int] = {}
        # Jobs of sbatch and programs on terminals: a fixture ends those that a failed test leaves.
        self.jobs: list[int] = []
        self.terminals: list[pexpect.spawn[str]] = []

    @functools.cached_property
    def release(self) -> tuple[int, int]:
        """Slurm's release as (20, 11); tests use it when releases behave differently."""
        words = good(self.exec(["sinfo", "--version"])).split()  # "slurm-wlm 20.11.4"
        major, minor = words[-1].split(".")[:2]
        return int(major), int(minor)

    # Commands of the cluster itself.

    def front(self, *words: str, seconds: float = 1800) -> str:
        with tempfile.TemporaryFile("w+") as output:  # no pipe: nodes that are started here outlive the command
            done = subprocess.run(
                [*COMMAND, words[0], "--suite", self.suite, *words[1:]],
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, timeout=seconds, check=False,
            )  # fmt: skip
            output.seek(0)
            said = output.read()
        assert done.returncode == 0, f"cluster {' '.join(words)}: {said}"
        self.inits.clear()
        return said

    def add_gocryptfs(self, node: str) -> None:
        """Install what encrypted images need, and what `bollard site install` then adds; the suites' trees lack it."""
        self.front("add", "--node", node, "gocryptfs", "openssl")
        copy = "cd $(realpath /usr/lib/bollard); for p in gocryptfs openssl; do install -m 711 /usr/bin/$p $p; done"
        good(self.exec(copy, node=node, user="root"))

    def init(self, node: str) -> int:
        """The process id on this machine of a node's init."""
        if node not in self.inits or not os.path.exists(f"/proc/{self.inits[node]}"):
            done = subprocess.run(
                [*COMMAND, "status", "--suite", self.suite, "--json"], stdout=subprocess.PIPE, text=True, check=False
            )
            self.inits = {row["node"]: row["pid"] for row in json.loads(done.stdout) if row["up"]}
        return self.inits[node]

    def nodes(self) -> list[str]:
        """The names of all nodes, the controller first."""
        self.init(CONTROLLER)
        return list(self.inits)

    # Commands on nodes.

    def command(
        self, command: str | Sequence[str], node: str = CONTROLLER, user: str = "alice", cwd: str | None = None,
        env: dict[str, str] | None = None,
    ) -> list[str]:  # fmt: skip
        words = ["bash", "-c", command] if isinstance(command, str) else list(command)
        if env:
            words = ["env", *(f"{name}={value}" for name, value in env.items()), *words]
        return [*ENTRY, str(self.init(node)), user, cwd or "", *words]

    def exec(
        self, command: str | Sequence[str], node: str = CONTROLLER, user: str = "alice", cwd: str | None = None,
        env: dict[str, str] | None = None, stdin: bytes = b"", seconds: float = PATIENCE,
    ) -> Result:  # fmt: skip
        """Run a command and wait for its end; a string is run by bash."""
        with subprocess.Popen(
            self.command(command, node, user, cwd, env), stdin=PIPE, stdout=PIPE, stderr=PIPE
        ) as popen:
            try:
                out, err = popen.communicate(stdin, timeout=seconds)
            except subprocess.TimeoutExpired:
                popen.terminate()  # srun ends its job then
                try:
                    out, err = popen.communicate(timeout=20)
                except subprocess.TimeoutExpired:
                    popen.kill()
                    out, err = b"", b""
                raise AssertionError(f"still running after {seconds:.0f} s: {command}\n{out!r}\n{err!r}") from None
        return Result(popen.returncode, out.decode(errors="replace"), err.decode(errors="replace"))

    def start(
        self, command: str | Sequence[str], node: str = CONTROLLER, user: str = "alice", cwd: str | None = None,
        env: dict[str, str] | None = None,
    ) -> Running:  # fmt: skip
        """Start a command; use it in a `with` block."""
        return Running(self.command(command, node, user, cwd, env))

    def srun(
        self, *words: str, user: str = "alice", cwd: str | None = None, env: dict[str, str] | None = None,
        stdin: bytes = b"", seconds: float = PATIENCE,
    ) -> Result:  # fmt: skip
        return self.exec(["srun", "-Q", *words], user=user, cwd=cwd, env=env, stdin=stdin, seconds=seconds)

    def in_one_job(self, *steps: str, nodes: int = 1) -> Result:
        """Run lines of bash, one after the other, in one allocation of alice's."""
        return self.exec(["salloc", "-Q", f"-N{nodes}", "bash", "-c", "\n".join(steps)])

    def terminal(
        self, command: str, user: str = "alice", cwd: str | None = None, node: str = CONTROLLER,
        size: tuple[int, int] = (24, 80),
    ) -> pexpect.spawn[str]:  # fmt: skip
        """Run a bash command on a new terminal of the given rows and columns."""
        if self.release < (21, 8) and command.startswith(("srun", "salloc", "bollard attach")):
            # srun --pty leaves the terminal's own output processing on there: lines would end in \r\r\n.
            command = f"stty -onlcr; {command}"
        program, *words = self.command(command, node, user, cwd)
        child = pexpect.spawn(
            program, words, timeout=PATIENCE, encoding="utf-8", dimensions=size, preexec_fn=_usual_signals
        )
        child.delaybeforesend = None
        self.terminals.append(child)
        return child

    def sbatch(self, script: str, work: Work, *options: str, env: dict[str, str] | None = None) -> int:
        """Submit `script` with its output in `job.out` of `work`; returns the job's number."""
        work.write("job.sh", script)
        done = self.exec(
            ["sbatch", "--parsable", f"--output={work.path}/job.out", *options, f"{work.path}/job.sh"],
            cwd=work.path, env=env,
        )  # fmt: skip
        job = int(good(done))
        self.jobs.append(job)
        return job

    def ended(self, job: int, seconds: float = PATIENCE) -> dict[str, str]:
        """Wait for the end of a job; returns its fields from `scontrol show job`."""

        def look() -> dict[str, str]:
            text = self.exec(["scontrol", "show", "job", "--oneliner", str(job)]).out
            fields = dict(word.split("=", 1) for word in text.split() if "=" in word)
            over = fields.get("JobState") in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
            return fields if over else {}

        return until(look, f"the end of job {job}", seconds)

    def batch(self, script: str, work: Work, *options: str, env: dict[str, str] | None = None) -> Result:
        """Submit a script and wait for its end; returns its exit status and its output with stderr in it."""
        job = self.ended(self.sbatch(script, work, *options, env=env))
        status, _, number = job["ExitCode"].partition(":")
        return Result(128 + int(number) if int(number) else int(status), work.read("job.out"), "")

    # What a node looks like.

    def path(self, node: str, name: str) -> Path:
        """The path on this machine of a file of a node."""
        return Path(f"/proc/{self.init(node)}/root/{name.lstrip('/')}")

    def processes(self, node: str) -> list[Process]:
        """All processes of a node: those in its process namespace."""
        here = os.stat(f"/proc/{self.init(node)}/ns/pid").st_ino
        found = []
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                with contextlib.suppress(OSError):
                    if os.stat(f"/proc/{entry}/ns/pid").st_ino == here:
                        process = read_process(int(entry), node)
                        if process is not None:
                            found.append(process)
        return found

    def named(self, node: str, *names: str) -> list[Process]:
        """The processes of a node that have one of these names."""
        return [process for process in self.processes(node) if process.name in names]

    def mount_points(self, node: str) -> list[str]:
        return sorted(
            line.split(" ")[4] for line in Path(f"/proc/{self.init(node)}/mountinfo").read_text().splitlines()
        )

    def sockets(self, node: str) -> list[str]:
        """bollard's socket addresses on a node: abstract ones and paths."""
        words = Path(f"/proc/{self.init(node)}/net/unix").read_text().split()
        return sorted({word for word in words if word.startswith(("@bollard", "/run/bollard"))})

    @contextlib.contextmanager
    def work(self, user: str = "alice", below: str = "") -> Iterator[Work]:
        """Yield a directory of `user`, shared by all nodes; it is removed afterwards."""
        path = f"{below or '/home/' + user}/test-{secrets.token_hex(4)}"
        good(self.exec(["mkdir", path], user=user))
        try:
            yield Work(self, path, user)
        finally:
            self.exec(f"chmod -R u+rwX {path}; rm -rf {path}", user="root")


class Work:
    """A directory that all nodes share."""

    def __init__(self, cluster: Cluster, path: str, user: str) -> None:
        self.cluster = cluster
        self.path = path
        self.user = user
        self.here = cluster.path(CONTROLLER, path)  # the path on this machine

    def write(self, name: str, text: str | bytes, mode: int = 0o755) -> str:
        """Make a file that belongs to the user; returns its path on the nodes."""
        file = self.here / name
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        file.chmod(mode)
        owner = self.here.stat()
        os.chown(file, owner.st_uid, owner.st_gid)
        return f"{self.path}/{name}"

    def read(self, name: str) -> str:
        return (self.here / name).read_text(errors="replace")

    def exists(self, name: str) -> bool:
        return (self.here / name).exists()

    def pause(self, name: str) -> str:
        """Shell code that makes the file `name` and waits for `name`.go, or for the end of the test."""
        return (
            f"echo > {self.path}/{name}; while test -d {self.path} -a ! -e {self.path}/{name}.go; do sleep 0.05; done"
        )

    def go_on(self, name: str) -> None:
        self.write(f"{name}.go", "")

    def wait_for(self, name: str, seconds: float = PATIENCE) -> None:
        until(lambda: self.exists(name), f"{self.path}/{name}", seconds)


class Images:
    """Images in /images, which all nodes share. Each is made at first use, and made again when its tree has changed."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.known: set[str] = set()

    def tree(self, suite: str, kind: str) -> Path:
        """The path on this machine of an image's root tree."""
        done = subprocess.run(
            [*IMAGES_COMMAND, "build", "--suite", suite, "--kind", kind],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return Path(done.stdout.strip())

    def sif(self, suite: str, kind: str) -> str:
        """The path of a SIF file on the nodes; makes the file when needed."""
        from bollard.runtime.image.pack import build

        path = f"/images/{suite}-{kind}.sif"
        if path in self.known:
            return path
        tree = self.tree(suite, kind)
        here = self.cluster.path(CONTROLLER, path)
        if not here.exists() or here.stat().st_mtime < tree.with_name(f"{tree.name}.stamp").stat().st_mtime:
            fresh = here.with_name(f".{here.name}.new")
            build(str(fresh), str(tree), force=True)
            fresh.chmod(0o755)  # an image is a program
            fresh.rename(here)  # a container that uses the old file keeps it
        self.known.add(path)
        return path

    @property
    def small(self) -> str:
        """A small image of another release than the nodes', so that tests can tell inside from outside."""
        return self.sif("bookworm" if self.cluster.suite == "bullseye" else "bullseye", "small")

    @property
    def small_tree(self) -> Path:
        return self.tree("bookworm" if self.cluster.suite == "bullseye" else "bullseye", "small")

    @property
    def mpi(self) -> str:
        """An image with Open MPI, MPICH, Python and Slurm's commands, of the nodes' release."""
        return self.sif(self.cluster.suite, "mpi")


def srun(cluster: Cluster, images: Images, *words: str, env: dict[str, str] | None = None, cwd: str = "") -> Result:
    """Run one task of alice's in the small image."""
    return cluster.srun("-N1", "-n1", f"--container={images.small}", *words, env=env, cwd=cwd or None)


def quoted(*words: str) -> str:
    return shlex.join(words)


# Shell code that prints whether it runs in a container.
WHERE = "if test -d /.singularity.d; then echo inside; else echo outside; fi"
