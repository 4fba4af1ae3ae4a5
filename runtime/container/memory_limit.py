# SPDX-License-Identifier: BSD-3-Clause
"""Whether the kernel has ended a process of the container for want of memory in its control group.

The kernel counts that in a file of the control group before it sends the signal (mm/oom_kill.c). The keeper opens the
file before it enters the container.
"""

from __future__ import annotations

import os

_COUNT = b"oom_kill "
_CURE = "ask for more memory (--mem, --mem-per-cpu)"
# The file, and what it counted when it was opened.
_events, _before = -1, 0


def watch(own: str = "/proc/self/cgroup", mounts: str = "/proc/self/mountinfo") -> None:
    """Open the control group's file with the `oom_kill` counter, for `told`.

    A process outside of a job's control group has no such file. Then `told` gives no reason.

    own     this process's control groups (cgroups(7))
    mounts  this process's mounts (proc(5))
    """
    global _events, _before
    path = _path(_read(own), mounts)
    if path and _events < 0:
        try:
            _events = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return  # a kernel without the file: the reason is not told
        _before = _count()


def told(hint: str = "") -> tuple[str, str]:
    """Return (reason, hint): how to say that a process has ended. The reason is "" unless the limit has ended one.

    hint  the hint where the limit is not the reason
    """
    return ("by the job's memory limit", _CURE) if _count() > _before else ("", hint)


def _count() -> int:
    try:
        text = os.pread(_events, 4096, 0) if _events >= 0 else b""
        lines = [line for line in text.split(b"\n") if line.startswith(_COUNT)]
        return int(lines[0][len(_COUNT) :]) if lines else 0
    except (OSError, ValueError):
        return 0  # the control group has been removed: the job is over


def _read(path: str) -> bytes:
    try:
        with open(path, "rb", 0) as file:
            return file.read()
    except OSError:
        return b""  # no such control group: then no limit of it has ended a process


def _path(own: bytes, mounts: str) -> bytes:
    """Return the path of the file that counts for the control groups `own`; b"" for none."""
    below = {}
    for line in own.split(b"\n"):
        _, _, rest = line.partition(b":")
        controllers, _, path = rest.partition(b":")
        if b"/job_" in path and (b"memory" in controllers.split(b",") or not controllers):
            below[not controllers] = path
    if not below:
        return b""  # outside Slurm, or a site that limits no memory
    for line in _read(mounts).split(b"\n"):
        left, _, right = line.partition(b" - cgroup")
        unified = right.startswith(b"2 ")
        if not right or unified not in below or not (unified or b"memory" in right.split(b" ")[-1].split(b",")):
            continue
        root, point = left.split(b" ")[3:5]
        path = below[unified]
        if root != b"/":
            if not path.startswith(root + b"/"):
                continue
            path = path[len(root) :]
        return point + path + (b"/memory.events.local" if unified else b"/memory.oom_control")
    return b""
