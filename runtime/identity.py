# SPDX-License-Identifier: BSD-3-Clause
"""The user's lines in the container's /etc/passwd and /etc/group: the image's files, with who is running.

The host's name services are asked once per node and container, not once per task.
"""

from __future__ import annotations

import grp
import os
import pwd


def lines(home: str) -> dict[str, list[bytes]]:
    """{"passwd": [line], "group": [lines]} for this process's user; `home` "" means the host's word."""
    uid, gid = os.getuid(), os.getgid()
    try:
        user = pwd.getpwuid(uid)
        name, gecos, shell = user.pw_name, user.pw_gecos, user.pw_shell
        home = home or user.pw_dir
    except KeyError:
        name, gecos, shell = str(uid), "", "/bin/sh"
    groups = []
    for number in dict.fromkeys([gid, *os.getgroups()]):
        try:
            group = grp.getgrgid(number).gr_name
        except KeyError:
            continue
        groups.append(os.fsencode(f"{group}:x:{number}:{name}"))
    return {"passwd": [os.fsencode(f"{name}:x:{uid}:{gid}:{gecos}:{home or '/'}:{shell}")], "group": groups}


def merged(text: bytes, ours: list[bytes]) -> bytes:
    """The image's file with `ours` in place of its own lines of the same numbers."""
    numbers = {line.split(b":")[2] for line in ours}
    kept = [line for line in text.split(b"\n") if line and (line.split(b":") + [b""] * 3)[2] not in numbers]
    return b"\n".join([*kept, *ours]) + b"\n"
