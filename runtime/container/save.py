# SPDX-License-Identifier: BSD-3-Clause
"""--container-save: write a container's filesystem to an image file.

The keeper itself lives in the container. So a child of it, forked before it goes in, keeps the host's view and the
container's root without the mounts above it, and waits: it saves when the last task on the node has ended.

No program that the user can read runs there: he could trace it, and enter the saver's namespaces by it. So mksquashfs
is the installation's copy, and so is what it has for a shell.
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
    """The keeper's side: a descriptor to ask by and to hear the answer from. One file at a time."""

    __slots__ = ("ask", "answer")

    def __init__(self, ask: int, answer: int) -> None:
        self.ask = ask
        self.answer = answer  # readable when the work is done or has failed

    def start(self, target: str) -> None:
        """Have `target` written."""
        try:
            os.write(self.ask, os.fsencode(target) + b"\0")
        except BrokenPipeError:
            pass  # `result` tells

    def result(self) -> str:
        """ "" for a file that has been written, else one line for the user."""
        text = os.read(self.answer, 4096)
        return text[1:].decode("utf-8", "replace") if text else _ENDED


def start(root: str) -> Saver:
    """Fork the process that waits. `root`: the container's root directory."""
    ask_read, ask_write = os.pipe()
    answer_read, answer_write = os.pipe()
    parent = os.getpid()
    if os.fork():
        os.close(ask_read)
        os.close(answer_write)
        os.read(answer_read, 1)  # pivot_root would take along whoever is in our mount namespace still
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
    """The next file to write; "" when the keeper has gone."""
    path = b""
    while not path.endswith(b"\0"):
        part = os.read(fd, 4096)
        if not part:
            return ""
        path += part
    return os.fsdecode(path[:-1])


def _prepare() -> None:
    """Import what `write` needs, have mksquashfs find bollard-cat as /bin/sh, and give up every capability."""
    import atexit  # noqa: F401  # weakref, for tempfile
    import hashlib  # noqa: F401
    import subprocess  # noqa: F401
    import time  # noqa: F401

    from bollard.runtime.image import pack  # noqa: F401

    imports.end(programs=True)
    signal(SIGCHLD, SIG_DFL)  # the keeper's is another: it reaps nobody
    if os.path.exists(CAT) and os.path.exists("/bin/sh"):
        tree = linux.clone_tree(CAT, recursive=False)
        place = os.open("/bin/sh", os.O_PATH | os.O_CLOEXEC)
        linux.attach(tree, place)
        os.close(place)
        os.close(tree)
    linux.drop_capabilities()


def _processors() -> int:
    """How many CPUs this step may use: mksquashfs would start a thread for each of the node's."""
    return len(os.sched_getaffinity(0))


def write(root: str, target: str) -> str:
    """Write the tree `root` to `target`: SIF where its name ends so, else bare squashfs. "" or what went wrong."""
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
    except Exception as error:  # the task that waits for it hears every reason
        return one_line(error)


def refuse(target: str) -> None:
    """Say no to a file that cannot be written, before a program has run for hours."""
    folder = os.path.dirname(target) or "/"
    if os.path.isdir(target) or target.endswith(("/", "/.", "/..")):
        raise BollardError(f"container-save {target}: is a directory", "name a file: NAME.sqsh or NAME.sif")
    if not os.path.isdir(folder):
        raise BollardError(
            f"container-save {target}: {folder} does not exist on this node", "make it, or name another place"
        )
    causes.refuse_read_only(folder, f"container-save {target}: cannot be written")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise BollardError(f"container-save {target}: you may not write to {folder}", "name another place")


def _squashfs(root: str, target: str) -> None:
    import subprocess

    folder, name = os.path.split(target)
    fresh = os.path.join(folder, f".{name}.{os.getpid()}")
    command = [MKSQUASHFS, root, fresh, "-comp", "zstd", "-Xcompression-level", "3", "-all-root", "-noappend",
               "-no-progress", "-quiet", "-exit-on-error", "-processors", str(_processors())]  # fmt: skip
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, env={})
        if done.returncode:
            said, doing = done.stderr.decode("utf-8", "replace"), f"container-save {target}"
            raise causes.of_program("mksquashfs", done.returncode, said, doing, folder, "may you write there?")
        os.rename(fresh, target)
    finally:
        if os.path.exists(fresh):
            os.unlink(fresh)
