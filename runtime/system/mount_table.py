# SPDX-License-Identifier: BSD-3-Clause
"""The mounts that this process sees, and where an opened file lies among them: proc(5), mountinfo and fdinfo."""

from __future__ import annotations

import os


def path_of(fd: int) -> str:
    """Return the path of an opened file, without links; "" if it lies on no mount of this process.

    The kernel shows a path of another mount namespace like one of this namespace. So a user could open his own file
    there, through /proc/PID/root, and it would seem to lie in a directory that only root can write to.
    """
    return os.readlink(f"/proc/self/fd/{fd}") if line_of(fd) else ""


def line_of(fd: int) -> list[bytes]:
    """Return the words of the mount of an opened file in /proc/self/mountinfo; [] if it is none of this process."""
    number = b""
    with open(f"/proc/self/fdinfo/{fd}", "rb") as file:
        for line in file:
            if line.startswith(b"mnt_id:"):
                number = line[7:].strip()
    with open("/proc/self/mountinfo", "rb") as file:
        return words(file.read(), number)


def words(mountinfo: bytes, number: bytes) -> list[bytes]:
    """Return the words of the mount with this number in the text of mountinfo; [] if it is not there."""
    for line in mountinfo.split(b"\n"):
        found = line.split(b" ")
        if found[0] == number and b"-" in found[6:]:
            return found
    return []
