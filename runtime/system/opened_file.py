# SPDX-License-Identifier: BSD-3-Clause
"""Where an opened file lies: its path, and the mount that it is on. For the site's rules about places and owners.

This module runs on the node path if a site has such rules. It imports nothing but `os`.
"""

from __future__ import annotations

import os


def path_of(fd: int) -> str:
    """Return the path of an opened file, without symlinks; "" if the file has no place in this mount namespace.

    The kernel shows a file of an unmounted filesystem with a path that begins at the root of that filesystem. So a user
    who unmounts a FUSE filesystem of his, with `fusermount -uz`, could choose the path. A mount that is listed after
    the path was read was there before, too: an open file keeps the number of its mount from being used again.
    """
    path = os.readlink(f"/proc/self/fd/{fd}")
    return path if _mount_line(fd) else ""


def is_served_by_user(fd: int) -> bool:
    """Return whether a file is on a FUSE filesystem that another user than root has mounted; True for an unknown mount.

    Such a user can show any owner and mode, and change the content at any time.
    """
    return is_fuse_of_user(_mount_line(fd))


def is_fuse_of_user(line: bytes) -> bool:
    """Return whether a line of /proc/PID/mountinfo is that of a user's FUSE filesystem; True for an empty line."""
    words = line.split(b" ")
    if b"-" not in words[6:]:
        return True
    kind, _, options = words[words.index(b"-", 6) + 1 :][:3]
    users = [option for option in options.split(b",") if option.startswith(b"user_id=")]
    return kind.startswith(b"fuse") and kind != b"fusectl" and users != [b"user_id=0"]


def mount_line(mountinfo: bytes, number: bytes) -> bytes:
    """Return the line of /proc/PID/mountinfo (proc(5)) about the mount with this number; b"" if there is none."""
    found = [line for line in mountinfo.split(b"\n") if number and line.split(b" ", 1)[0] == number]
    return found[0] if found else b""


def _mount_line(fd: int) -> bytes:
    number = b""
    with open(f"/proc/self/fdinfo/{fd}", "rb") as file:
        for line in file:
            if line.startswith(b"mnt_id:"):
                number = line[7:].strip()
    with open("/proc/self/mountinfo", "rb") as file:
        return mount_line(file.read(), number)
