# SPDX-License-Identifier: BSD-3-Clause
"""Be root for a build, without being root: the first of these that works.

    root      root of the machine: nothing to do
    subids    a user namespace with the ids of /etc/subuid and /etc/subgid, mapped by newuidmap and newgidmap
    mapped,   a user namespace where root is the user and there is no one else; a seccomp filter lets chown, setuid
    preloaded and mknod succeed without doing anything; without filters, the fakeroot command does that

Where there is no seccomp filter, the host's fakeroot command takes its place: its library is preloaded, which helps
programs that use the C library of an image that is not much older than the host's.

The work is done in a child, process 1 of a process namespace: whatever it started is gone when it ends.

    bollard build ── fork ──► keeper of the namespaces ── fork ──► the work, process 1
"""

from __future__ import annotations

import contextlib
import glob
import os
import pwd
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple, NoReturn

from bollard.runtime import causes
from bollard.runtime.causes import one_line
from bollard.runtime.errors import BollardError
from bollard.runtime.system import identity, linux

ROOT, SUBIDS, MAPPED, PRELOADED = "root", "subids", "mapped", "preloaded"
# Fewer subordinate ids than a distribution uses are as good as none.
_ENOUGH = 65536


class Way(NamedTuple):
    kind: str
    uids: tuple[int, int] = (0, 0)  # first and count of the subordinate ids
    gids: tuple[int, int] = (0, 0)


def choose(ignore_subuid: bool = False, ignore_seccomp: bool = False) -> Way:
    """The way for this user on this machine."""
    if os.geteuid() == 0 and _mapped_ids() >= _ENOUGH:
        return Way(ROOT)  # root of somebody else's namespace with one id is no root
    if not ignore_subuid and shutil.which("newuidmap") and shutil.which("newgidmap"):
        uids, gids = _subordinate("/etc/subuid"), _subordinate("/etc/subgid")
        if uids[1] >= _ENOUGH and gids[1] >= _ENOUGH:
            return Way(SUBIDS, uids, gids)
    if not ignore_seccomp and linux.can_fake_ownership():
        return Way(MAPPED)
    if not fakeroot_files():
        raise BollardError(
            "this machine has neither subordinate ids for you nor seccomp filters", "install the package fakeroot"
        )
    return Way(PRELOADED)


def fakeroot_files() -> tuple[str, str, str] | None:
    """The host's fakeroot: its script, its daemon, its library."""
    for kind in ("sysv", "tcp"):
        script = shutil.which(f"fakeroot-{kind}") or shutil.which("fakeroot")
        daemon = shutil.which(f"faked-{kind}")
        places = ("/usr/lib/*/libfakeroot", "/usr/lib64/libfakeroot", "/usr/lib/libfakeroot")
        libraries = [path for place in places for path in sorted(glob.glob(f"{place}/libfakeroot-{kind}.so"))]
        if script and daemon and libraries:
            return os.path.realpath(script), os.path.realpath(daemon), libraries[0]
    return None


def run(way: Way, work: Callable[[], None]) -> None:
    """Do `work` in a child that is root in this way, in mount and process namespaces of its own.

    What `work` raises is raised here as a BollardError. SIGINT, SIGTERM and SIGHUP end it and everything it has
    started, and are raised as Interrupted.
    """
    reader, writer = os.pipe()
    ask, answer = os.pipe(), os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    parent, child = os.getpid(), os.fork()
    if child == 0:
        _outer(way, work, parent, writer, ask[1], answer[0])
    for fd in (writer, ask[1], answer[0]):
        os.close(fd)
    try:
        with interruptible():
            if os.read(ask[0], 1):
                _write_maps(way, child)
                os.write(answer[1], b"+")
            told = _read_all(reader)
            _, status = os.waitpid(child, 0)
            child = 0
    except BrokenPipeError:
        told, status = _read_all(reader), 1
    finally:
        for fd in (reader, ask[0], answer[1]):
            os.close(fd)
        if child:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    if told:
        code, message, hint = (told.split("\0") + ["", ""])[:3]
        raise BollardError(message, hint, int(code))
    if status:
        raise BollardError("the build's process was killed", "did it run out of memory?")


class Interrupted(BaseException):
    """A signal has ended the build."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGINT, SIGTERM and SIGHUP raise Interrupted, so that what was begun can be removed."""
    held = {number: signal.signal(number, _interrupt) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, action in held.items():
            signal.signal(number, action)


def end_by(number: int) -> NoReturn:
    """End as the signal would have ended us."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    raise SystemExit(128 + number)


def _interrupt(number: int, frame: object) -> NoReturn:
    raise Interrupted(number)


def _outer(way: Way, work: Callable[[], None], parent: int, writer: int, ask: int, answer: int) -> NoReturn:
    """In the child: make the namespaces, start the work in them, wait for it."""
    code = 1
    try:
        linux.die_with_parent(signal.SIGKILL, parent)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to us as well; our parent decides
        try:
            _enter(way, ask, answer)
            linux.new_mount_namespace()
            linux.new_process_namespaces()
        except OSError as error:
            raise _no_namespaces(error) from None
        pid = os.fork()
        if pid == 0:
            _inner(way, work, writer)
        os.close(writer)
        _, status = os.waitpid(pid, 0)
        code = 1 if status else 0
    except BaseException as error:  # noqa: BLE001 - it becomes the line the user sees
        _tell(writer, error)
    finally:
        os._exit(code)


def _inner(way: Way, work: Callable[[], None], writer: int) -> NoReturn:
    """Process 1 of the namespace."""
    code = 1
    try:
        # The pipe's other end, not our parent's number, tells whether he lives: we cannot see that number here.
        linux.die_with_parent(signal.SIGKILL, os.getppid())
        signal.signal(signal.SIGINT, signal.default_int_handler)
        fake(way)
        work()
        code = 0
    except BaseException as error:  # noqa: BLE001
        _tell(writer, error)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def fake(way: Way) -> None:
    """Let what only root of the machine may do succeed without doing it."""
    if way.kind == ROOT:
        return
    linux.no_new_privileges()
    if way.kind == PRELOADED:
        return
    linux.fake_ownership(devices_only=way.kind == SUBIDS)


def _enter(way: Way, ask: int, answer: int) -> None:
    if way.kind == ROOT or os.geteuid() == 0:
        os.close(ask)
        return
    if way.kind == SUBIDS:
        linux.new_user_namespace()
        os.write(ask, b"?")
        os.close(ask)
        if not os.read(answer, 1):
            os._exit(1)  # the parent says why
        os.setgroups([])
    else:
        os.close(ask)
        identity.new_namespace(True)
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)


def _write_maps(way: Way, child: int) -> None:
    for program, own, (first, count) in (
        ("newuidmap", os.getuid(), way.uids),
        ("newgidmap", os.getgid(), way.gids),
    ):
        argv = [program, str(child), "0", str(own), "1", "1", str(first), str(count)]
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BollardError(
                f"{program} failed: {done.stderr.strip() or 'no reason given'}",
                "look at /etc/subuid and /etc/subgid, or build with --ignore-subuid",
            )


def _subordinate(path: str) -> tuple[int, int]:
    """First and count of the largest range of ours in /etc/subuid or /etc/subgid."""
    names = {str(os.getuid())}
    try:
        names.add(pwd.getpwuid(os.getuid()).pw_name)
    except KeyError:
        pass
    best = (0, 0)
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                parts = line.strip().split(":")
                if len(parts) == 3 and parts[0] in names and parts[1].isdigit() and parts[2].isdigit():
                    best = max(best, (int(parts[1]), int(parts[2])), key=lambda pair: pair[1])
    except OSError:
        pass
    return best[0], min(best[1], 1 << 20)


def _mapped_ids() -> int:
    try:
        with open("/proc/self/uid_map", encoding="ascii") as file:
            return sum(int(line.split()[2]) for line in file)
    except OSError:
        return 0


def _no_namespaces(error: OSError) -> BollardError:
    return causes.no_namespaces(error, f"a build needs namespaces, and this machine refuses: {error.filename}")


def _tell(writer: int, error: BaseException) -> None:
    if isinstance(error, BollardError):
        words = (str(error.code), error.message, error.hint)
    else:
        words = ("255", one_line(error), "")
    data = "\0".join(words).encode("utf-8", "surrogateescape")
    os.write(writer, data[:65000])


def _read_all(fd: int) -> str:
    data = b""
    while True:
        part = os.read(fd, 65536)
        if not part:
            return data.decode("utf-8", "replace")
        data += part
