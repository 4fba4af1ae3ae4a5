# SPDX-License-Identifier: BSD-3-Clause
"""bollard-enter, the real program, with a keeper that is this test: odd surroundings of a task, and odd programs."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import threading

import pytest

from bollard.runtime import constants
from bollard.runtime.container import entry, image_shell, wire
from bollard.spank_plugin import build

PATH = b"PATH=/usr/bin:/bin"
LARGE = [b"A%d=" % number + b"x" * 100_000 for number in range(10)]  # a pipe holds 64 KiB


@pytest.fixture(scope="module")
def launcher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("enter")
    build.build_launcher(folder)
    return folder / "bollard-enter"


@pytest.fixture(scope="module")
def ways():
    """Descriptors of namespaces that this user may join, as often as they are asked for."""
    holder = subprocess.Popen(
        ["unshare", "--user", "--map-current-user", "--mount", "--ipc", "sh", "-c", "echo; exec sleep 1000"],
        stdout=subprocess.PIPE,
    )
    assert holder.stdout and holder.stdout.readline() == b"\n"
    fds = [os.open(f"/proc/{holder.pid}/ns/{name}", os.O_RDONLY) for name in ("user", "mnt", "ipc")]
    yield tuple(fds)
    for fd in fds:
        os.close(fd)
    holder.kill()
    holder.wait()
    holder.stdout.close()


class Keeper:
    """Lets one task in, in the words of `entry.py`."""

    def __init__(self, answer):
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind("\0bollard-test-" + os.urandom(8).hex())
        self.listener.listen(1)
        self.listener.settimeout(20)
        self.failures: list[BaseException] = []
        self.thread = threading.Thread(target=self._serve, args=(answer,))
        self.thread.start()

    def _serve(self, answer):
        try:
            peer, _ = self.listener.accept()
            with peer:
                peer.settimeout(20)
                assert wire.receive(peer, 1) == wire.TASK
                answer(peer, wire.receive_frame(peer))
        except BaseException as error:  # noqa: BLE001 - the test shows it
            self.failures.append(error)

    def __enter__(self):
        return self.listener.getsockname()[1:].decode()

    def __exit__(self, *_):
        self.thread.join()
        self.listener.close()
        assert self.failures == []


def started(launcher, address, *command, prepare=None, more=()):
    kept = {name: value for name, value in os.environ.items() if name == "ASAN_OPTIONS"}  # make sanitize
    env = {"SLURM_BOLLARD_ENTRY": address, "PATH": "/usr/bin:/bin", **kept, **dict(more)}
    return subprocess.run([launcher, *command], env=env, preexec_fn=prepare, capture_output=True, timeout=30)


def program(mode, *command):
    return entry.reply(list(command), [PATH], b"/", b"", mode)


def test_the_program_takes_the_place_of_the_launcher(launcher, ways):
    def answer(peer, request):
        argv, env, cwd, _ = entry.parse_request(request)
        assert (argv, cwd) == ([b"anything", b"at all"], os.fsencode(os.getcwd())) and PATH in env
        wire.send(peer, wire.OK, program(b"", b"sh", b"-c", b"exit 3"), ways)

    with Keeper(answer) as address:
        assert started(launcher, address, "anything", "at all").returncode == 3


def test_a_directory_that_was_removed_is_no_directory(launcher, ways, tmp_path):
    """The keeper chooses another one and says so."""

    def answer(peer, request):
        assert entry.parse_request(request)[2] == b""
        wire.send(peer, wire.OK, program(b"", b"true"), ways)

    def leave():
        os.chdir(tmp_path)
        os.rmdir(tmp_path)

    with Keeper(answer) as address:
        assert started(launcher, address, "x", prepare=leave).returncode == 0


def test_no_variable_of_a_task_makes_it_a_fusermount(launcher, ways):
    """It would end with 0, and the program would not have been there."""
    more = [("BOLLARD_FUSE_FD", "3"), ("_FUSE_COMMFD", "4")]
    with Keeper(lambda peer, _: wire.send(peer, wire.OK, program(b"", b"sh", b"-c", b"exit 3"), ways)) as address:
        assert started(launcher, address, "x", more=more[:1]).returncode == 3
    with Keeper(lambda peer, _: wire.send(peer, wire.OK, program(b"", b"sh", b"-c", b"exit 3"), ways)) as address:
        assert started(launcher, address, "x", more=more).returncode == 3


def test_no_room_for_all_namespaces_is_no_container(launcher, ways):
    """Else the program would run in those that there was room for."""

    def answer(peer, _):
        with contextlib.suppress(BrokenPipeError):  # the launcher may have gone by the end of the frame
            wire.send(peer, wire.OK, program(b"", b"echo", b"here"), ways)

    with Keeper(answer) as address:
        limit = (3 + 1 + len(ways) - 1,) * 2  # standard streams, the connection, all ways but one
        done = started(launcher, address, "x", prepare=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, limit))

    assert (done.returncode, done.stdout) == (255, b"")
    assert b"too many open files; raise `ulimit -n`" in done.stderr


@pytest.mark.parametrize("chosen", [signal.SIG_DFL, signal.SIG_IGN])
def test_whoever_ignores_its_children_learns_how_a_program_ended(launcher, ways, chosen):
    """A process that ignores SIGCHLD hands that down, and is told nothing of its own children then."""
    fails = program(b"wait", b"grep", b"-hs", b"SigIgn", b"/proc/self/status", b"/no/such")
    with Keeper(lambda peer, _: wire.send(peer, wire.OK, fails, ways)) as address:
        done = started(launcher, address, "x", prepare=lambda: signal.signal(signal.SIGCHLD, chosen))

    ignored = bool(int(done.stdout.split()[1], 16) & 1 << signal.SIGCHLD - 1)
    assert (done.returncode, ignored) == (2, chosen == signal.SIG_IGN)


def test_what_a_signal_does_to_the_program_it_does_to_the_launcher(launcher, ways):
    dies = program(b"wait", b"sh", b"-c", b"kill -USR1 $$")
    with Keeper(lambda peer, _: wire.send(peer, wire.OK, dies, ways)) as address:
        assert started(launcher, address, "x").returncode == -signal.SIGUSR1


# Ids that this process's namespace may not know, and a group that it has.
CHANGES = """
import os, stat, sys
path, other, own = sys.argv[1], 4321, int(sys.argv[2])
for call in (
    lambda: os.chown(path, other, other), lambda: os.lchown(path, 0, other), lambda: os.chown(path, other, own),
    lambda: os.setgroups([other]), lambda: os.setresgid(other, other, other), lambda: os.setresuid(other, other, other),
    lambda: os.mknod(path + ".node", stat.S_IFCHR | 0o600, os.makedev(1, 3)),
):
    call()
assert os.stat(path).st_gid != own
os.chown(path, -1, own)
assert os.stat(path).st_gid == own
os.mkfifo(path + ".fifo")
print(os.getuid(), os.path.exists(path + ".node"), os.path.exists(path + ".fifo"))
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give itself another group")
@pytest.mark.parametrize("mode", [b"", b"wait"])
def test_a_program_that_believes_to_be_root(launcher, ways, tmp_path, mode):
    """Changes of owner succeed without being done, but for one that the user may make."""
    path = tmp_path / "file"
    path.write_text("")
    words = [sys.executable, "-c", CHANGES, str(path), "4711"]
    answer = entry.reply([os.fsencode(word) for word in words], [PATH], b"/", b"", mode, entry.AS_ROOT)
    here = ways[1:]  # the user namespace of the others knows no such group
    with Keeper(lambda peer, _: wire.send(peer, wire.OK, answer, here)) as address:
        done = started(launcher, address, "x", prepare=lambda: os.setgroups([4711]))

    assert (done.returncode, done.stdout, done.stderr) == (0, b"0 False True\n", b"")


def test_a_container_that_is_not_saved_is_a_failure(launcher, ways):
    def answer(peer, _):
        wire.send(peer, wire.OK, program(b"save", b"true"), ways)
        assert wire.receive(peer, 1) == wire.DONE
        wire.send(peer, wire.ERROR, b"the disk is full; make room\0")

    with Keeper(answer) as address:
        done = started(launcher, address, "x")

    assert (done.returncode, done.stderr) == (255, b"bollard: the disk is full; make room\n")


@pytest.mark.parametrize("chosen", [signal.SIG_DFL, signal.SIG_IGN])
@pytest.mark.parametrize(
    ("script", "told"),
    [
        (b"exec " + image_shell.PRINTER, b"\0".join([*LARGE, b"PWD=/", b""])),
        (b"exit 1", b""),
        (b"echo; sleep 3 &", b"\n"),
    ],
)
def test_a_script_of_the_image(launcher, ways, chosen, script, told):
    """Its environment may be larger than a pipe; where it fails there is none."""

    def answer(peer, _):
        wire.send(peer, wire.SCRIPT, wire.texts(LARGE, script, b""), ways)
        found = [entry for entry in wire.receive_frame(peer).split(b"\0") if not entry.startswith((b"SHLVL=", b"_="))]
        assert sorted(found) == sorted(told.split(b"\0"))
        wire.send(peer, wire.OK, program(b"", b"true"), ways)

    with Keeper(answer) as address:
        done = started(launcher, address, "x", prepare=lambda: signal.signal(signal.SIGCHLD, chosen))
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.fixture(scope="module")
def hasty(tmp_path_factory):
    """The launcher with less patience."""
    folder = tmp_path_factory.mktemp("hasty")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENTRY_TOLD_MS", 200)
        patch.setattr(constants, "ENTRY_MS", 1500)
        build.build_launcher(folder)
    return folder / "bollard-enter"


@pytest.mark.parametrize(("local", "lines"), [("0", 2), ("1", 1)])
def test_a_keeper_that_does_not_answer(hasty, local, lines):
    """The first task of the node says that it waits. All end."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("\0bollard-test-" + os.urandom(8).hex())
    listener.listen(1)
    with listener:
        address = listener.getsockname()[1:].decode()
        done = started(hasty, address, "x", more=[("SLURM_LOCALID", local)])
    told = done.stderr.splitlines()
    assert done.returncode == 255 and len(told) == lines, done
    assert b"has not answered for 1 s; submit again" in told[-1]
    assert lines == 1 or told[0].endswith(b"still waiting"), done


def test_a_keeper_that_accepts_nobody(hasty):
    """Its queue is full: the task ends with a reason."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("\0bollard-test-" + os.urandom(8).hex())
    listener.listen(0)
    with listener, contextlib.ExitStack() as others:
        with pytest.raises(BlockingIOError):
            for _ in range(10):
                other = others.enter_context(socket.socket(socket.AF_UNIX))
                other.setblocking(False)
                other.connect(listener.getsockname())
        done = started(hasty, listener.getsockname()[1:].decode(), "x")
    assert done.returncode == 255 and b"lets no task in for 1 s" in done.stderr, done
