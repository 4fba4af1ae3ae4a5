# SPDX-License-Identifier: BSD-3-Clause
"""Make a user without root uid 0 for a build. The first of these kinds that works is used.

    root       the user is root of the machine: nothing to do
    subids     a user namespace with the ids of /etc/subuid and /etc/subgid, mapped by newuidmap and newgidmap
    mapped     a user namespace that maps only the user, to uid 0; a seccomp filter lets chown, setuid and mknod succeed
               without effect
    preloaded  the same user namespace; the host's fakeroot command takes the place of the seccomp filter

The library of fakeroot is preloaded. It works for programs whose C library, the image's, is not much older than the
host's.

The work is done in a child that is process 1 of a process namespace. The kernel ends everything that it has started
when it ends.

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
# With fewer subordinate ids than this, a distribution's packages cannot be installed.
_ENOUGH = 65536


class Way(NamedTuple):
    """How a build becomes root: ROOT, SUBIDS, MAPPED or PRELOADED, and the subordinate ids for SUBIDS."""

    kind: str
    uids: tuple[int, int] = (0, 0)  # first and count of the subordinate ids
    gids: tuple[int, int] = (0, 0)


def choose(ignore_subuid: bool = False, ignore_seccomp: bool = False) -> Way:
    """Return how this user can become root for a build on this machine.

    ignore_subuid   do not use subordinate ids
    ignore_seccomp  do not use a seccomp filter

    Raises:
        BollardError: none of the kinds is possible.
    """
    if os.geteuid() == 0 and _mapped_ids() >= _ENOUGH:
        return Way(ROOT)  # uid 0 in a namespace that maps a single id has no privileges here
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
    """Return the paths of the host's fakeroot: its script, its daemon and its library; None if one is missing."""
    for kind in ("sysv", "tcp"):
        script = shutil.which(f"fakeroot-{kind}") or shutil.which("fakeroot")
        daemon = shutil.which(f"faked-{kind}")
        places = ("/usr/lib/*/libfakeroot", "/usr/lib64/libfakeroot", "/usr/lib/libfakeroot")
        libraries = [path for place in places for path in sorted(glob.glob(f"{place}/libfakeroot-{kind}.so"))]
        if script and daemon and libraries:
            return os.path.realpath(script), os.path.realpath(daemon), libraries[0]
    return None


def run(way: Way, work: Callable[[], None]) -> None:
    """Call `work` in a child that is root by `way`, in its own mount, process and IPC namespaces.

    Raises:
        BollardError: `work` raised an exception, the child was killed, or the machine refuses namespaces.
        Interrupted: SIGINT, SIGTERM or SIGHUP has ended `work` and everything that it has started.
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
        told, status = _read_all(reader), 1  # the child has failed; it tells why by the other pipe
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
    """Let SIGINT, SIGTERM and SIGHUP raise Interrupted in the block, so that unfinished files can be removed."""
    held = {number: signal.signal(number, _interrupt) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, action in held.items():
            signal.signal(number, action)


@contextlib.contextmanager
def ending_by_signals() -> Iterator[None]:
    """Let a signal end the block first, with its clean-up, and then this process by that signal."""
    try:
        with interruptible():
            yield
    except Interrupted as interrupted:
        end_by(interrupted.number)


def end_by(number: int) -> NoReturn:
    """End this process by the signal `number`, with its default action."""
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
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to all processes; the parent handles it
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
    except BaseException as error:  # noqa: BLE001 - the parent shows it to the user
        _tell(writer, error)
    finally:
        os._exit(code)


def _inner(way: Way, work: Callable[[], None], writer: int) -> NoReturn:
    """In process 1 of the namespace: do the work. Does not return."""
    code = 1
    try:
        # getppid() is 0 here, as the parent is outside this process namespace. So die_with_parent cannot see whether
        # the parent has already ended.
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
    """Let calls that only root of the machine may make succeed without effect, as `way` needs it."""
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
            os._exit(1)  # the parent reports why newuidmap or newgidmap failed
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
    """Return first id and count of the user's largest range in `path`: subuid(5) or subgid(5)."""
    names = {str(os.getuid())}
    try:
        names.add(pwd.getpwuid(os.getuid()).pw_name)
    except KeyError:
        pass  # a user without a name has a range by number at most
    best = (0, 0)
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                parts = line.strip().split(":")
                if len(parts) == 3 and parts[0] in names and parts[1].isdigit() and parts[2].isdigit():
                    best = max(best, (int(parts[1]), int(parts[2])), key=lambda pair: pair[1])
    except OSError:
        pass  # newuidmap could not read it either; what needs more than one id says so
    return best[0], min(best[1], 1 << 20)


def _mapped_ids() -> int:
    try:
        with open("/proc/self/uid_map", encoding="ascii") as file:
            return sum(int(line.split()[2]) for line in file)
    except OSError:
        return 0  # no /proc: root counts as one without powers, and another way is looked for


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
