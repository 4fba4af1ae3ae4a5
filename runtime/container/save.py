# SPDX-License-Identifier: BSD-3-Clause
"""--container-save: write a container's filesystem to an image file.

The keeper itself is inside the container and no longer sees the host's mounts. So it forks the saver before it enters.
The saver keeps the host's mounts, and the container's root without the mounts above it. It writes the file when the
last task on the node has ended.

The saver runs no program that the user can read: the user could trace it and so enter the saver's namespaces. So it
runs the installation's copy of mksquashfs, and bollard-cat in the place of the shell.
"""

from __future__ import annotations

import os
from _signal import SIG_DFL, SIGCHLD, signal

from bollard.runtime import causes
from bollard.runtime.causes import one_line
from bollard.runtime.container import imports
from bollard.runtime.errors import BollardError
from bollard.runtime.installed import CAT, MKSQUASHFS
from bollard.runtime.system import linux

_SIGKILL = 9
_ENDED = "the process that writes the container ended"


class Saver:
    """The keeper's side of the saver: one descriptor for requests, one for answers. One file at a time."""

    __slots__ = ("ask", "answer")

    def __init__(self, ask: int, answer: int) -> None:
        self.ask = ask
        self.answer = answer  # readable when the file is written or has failed

    def start(self, target: str) -> None:
        """Ask the saver to write the file `target`."""
        try:
            os.write(self.ask, os.fsencode(target) + b"\0")
        except BrokenPipeError:
            pass  # the saver has ended; `result` reports it

    def result(self) -> str:
        """Return "" if the file was written, else one line for the user."""
        text = os.read(self.answer, 4096)
        return text[1:].decode("utf-8", "replace") if text else _ENDED


def start(root: str) -> Saver:
    """Fork the saver. `root` is the path of the container's root directory."""
    ask_read, ask_write = os.pipe()
    answer_read, answer_write = os.pipe()
    parent = os.getpid()
    if os.fork():
        os.close(ask_read)
        os.close(answer_write)
        os.read(answer_read, 1)  # wait: pivot_root(2) also moves other processes of this mount namespace
        return Saver(ask_write, answer_read)
    try:
        linux.die_with_parent(_SIGKILL, parent)
        linux.name_process("bollard-saver")
        linux.close_others((ask_read, answer_write))
        linux.new_mount_namespace()
        os.write(answer_write, b"+")
        _prepare()
        while target := _asked(ask_read):
            os.write(answer_write, b"=" + write(root, target).encode("utf-8", "replace")[:4000])
    finally:
        os._exit(0)


def _asked(fd: int) -> str:
    """Return the next file to write; "" when the keeper has ended."""
    path = b""
    while not path.endswith(b"\0"):
        part = os.read(fd, 4096)
        if not part:
            return ""
        path += part
    return os.fsdecode(path[:-1])


def _prepare() -> None:
    """Import what `write` needs, mount bollard-cat on /bin/sh for mksquashfs, and give up all capabilities."""
    import atexit  # noqa: F401  # weakref, for tempfile
    import hashlib  # noqa: F401
    import subprocess  # noqa: F401
    import tempfile  # noqa: F401
    import time  # noqa: F401

    from bollard.runtime.image import pack  # noqa: F401

    imports.end(programs=True)
    signal(SIGCHLD, SIG_DFL)  # the keeper ignores SIGCHLD; subprocess needs the exit status
    if os.path.exists(CAT) and os.path.exists("/bin/sh"):
        tree = linux.clone_tree(CAT, recursive=False)
        place = os.open("/bin/sh", os.O_PATH | os.O_CLOEXEC)
        linux.attach(tree, place)
        os.close(place)
        os.close(tree)
    linux.drop_capabilities()


def _processors() -> int:
    """Return how many CPUs this step may use. By default mksquashfs would start a thread for each CPU of the node."""
    return len(os.sched_getaffinity(0))


def write(root: str, target: str) -> str:
    """Write the tree `root` to `target`: SIF if its name ends with .sif, else squashfs. Returns "" or the error."""
    try:
        if not os.path.exists(MKSQUASHFS):
            raise BollardError(
                f"container-save: {MKSQUASHFS} is missing on this node",
                "its administrator should install squashfs-tools, then bollard again",
            )
        if target.endswith(".sif"):
            from bollard.runtime.image import pack

            pack.build(target, root, force=True, program=MKSQUASHFS, processors=_processors())
        else:
            _squashfs(root, target)
        return ""
    except Exception as error:  # the task that waits shows every error
        return one_line(error)


def refuse(target: str) -> None:
    """Raise if `target` cannot be written. Called before the program starts, which may run for hours.

    Raises:
        BollardError: `target` is a directory, its directory is missing, or the user may not write there.
    """
    folder = os.path.dirname(target) or "/"
    if os.path.isdir(target) or target.endswith(("/", "/.", "/..")):
        raise BollardError(f"container-save {target}: is a directory", "name a file: NAME.sqsh or NAME.sif")
    for path in (folder, target):
        try:
            os.stat(path)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            pass  # the questions below have better words
        except OSError as error:  # a loop of links, a name that is too long
            raise causes.of(error, f"container-save {target}: cannot be written", path, "name another place") from None
    if not os.path.isdir(folder):
        raise BollardError(
            f"container-save {target}: {folder} does not exist on this node", "make it, or name another place"
        )
    causes.refuse_read_only(folder, f"container-save {target}: cannot be written")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise BollardError(f"container-save {target}: you may not write to {folder}", "name another place")
    causes.refuse_file_of_another(target, f"container-save {target}: cannot be written")


def _squashfs(root: str, target: str) -> None:
    import subprocess
    import tempfile

    folder = os.path.dirname(target)
    try:
        fd, fresh = tempfile.mkstemp(prefix=".bollard-", suffix=".tmp", dir=folder)
    except OSError as error:
        raise causes.of(error, f"container-save {target}: cannot be written", folder, "name another place") from None
    # Not by name: who may write to the directory could put a link to another file of the user's there.
    command = [MKSQUASHFS, root, f"/proc/self/fd/{fd}", "-comp", "zstd", "-Xcompression-level", "3", "-all-root",
               "-noappend", "-no-progress", "-quiet", "-exit-on-error", "-processors", str(_processors())]  # fmt: skip
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, env={}, pass_fds=(fd,))
        if done.returncode:
            said, doing = done.stderr.decode("utf-8", "replace"), f"container-save {target}"
            raise causes.of_program("mksquashfs", done.returncode, said, doing, folder, "may you write there?")
        mask = os.umask(0o022)
        os.umask(mask)
        os.fchmod(fd, 0o644 & ~mask)
        os.rename(fresh, target)
    finally:
        os.close(fd)
        if os.path.exists(fresh):
            os.unlink(fresh)
