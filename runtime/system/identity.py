# SPDX-License-Identifier: BSD-3-Clause
"""The user's identity in the container: the user namespace, the lines of /etc/passwd and /etc/group. Names of users.

The keeper asks the host's name services once per node and container, not once per task.
"""

from __future__ import annotations

import grp
import os
import pwd

# The user's groups. They are read before the user namespace, which does not map them, is made.
_groups: list[int] = []


def new_namespace(as_root: bool) -> None:
    """Enter a new user namespace that maps only this process's uid and gid: to themselves, or to 0 with `as_root`.

    The kernel allows a user no more without help (user_namespaces(7)).

    Raises:
        OSError: the kernel allows the user no user namespace.
    """
    from bollard.runtime.system import linux

    uid, gid = os.getuid(), os.getgid()
    _groups[:] = os.getgroups()
    linux.new_user_namespace()
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{0 if as_root else uid} {uid} 1\n")
    _write("/proc/self/gid_map", f"{0 if as_root else gid} {gid} 1\n")


def join_namespace(fd: int) -> None:
    """Enter the user namespace `fd`, which `new_namespace` has made for another process of this user.

    Raises:
        OSError: the namespace is another user's.
    """
    from bollard.runtime.system import linux

    groups = os.getgroups()
    linux.join_user_namespace(fd)
    _groups[:] = groups


def is_host_root() -> bool:
    """Return whether this process's user is root outside its user namespace too."""
    with open("/proc/self/uid_map", "rb") as file:
        return any(line.split()[:2] == [b"%d" % os.getuid(), b"0"] for line in file)


def become(user: pwd.struct_passwd) -> None:
    """Change from root to a user with the user's groups, for good.

    Raises:
        OSError: this process is not root's.
    """
    os.setgroups(os.getgrouplist(user.pw_name, user.pw_gid))
    os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
    os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)


def login(uid: int) -> str:
    """Return the name of a user; the number as text if no name service knows the user."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def user_name(uid: int) -> str:
    """Return the name of a user for a sentence; "user 1000" if no name service knows the user."""
    name = login(uid)
    return f"user {uid}" if name == str(uid) else name


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def lines(home: str) -> dict[str, list[bytes]]:
    """Return {"passwd": [line], "group": [lines]} of this process's user. `home` "" means the home on the host."""
    uid, gid = os.getuid(), os.getgid()
    if uid == 0:
        root = f"root:x:0:{gid}:root:{home or '/root'}:/bin/sh"
        return {"passwd": [os.fsencode(root)], "group": [os.fsencode(f"root:x:{gid}:")]}
    try:
        user = pwd.getpwuid(uid)
        name, gecos, shell = user.pw_name, user.pw_gecos, user.pw_shell
        home = home or user.pw_dir
    except KeyError:
        name, gecos, shell = str(uid), "", "/bin/sh"
    groups = []
    for number in dict.fromkeys([gid, *(_groups or os.getgroups())]):
        try:
            group = grp.getgrgid(number).gr_name
        except KeyError:
            continue
        groups.append(os.fsencode(f"{group}:x:{number}:{name}"))
    return {"passwd": [os.fsencode(f"{name}:x:{uid}:{gid}:{gecos}:{home or '/'}:{shell}")], "group": groups}


def merged(text: bytes, ours: list[bytes]) -> bytes:
    """Return the text of the image's passwd or group with the lines `ours` added.

    The new lines replace lines with the same number. Only for number 0 the image's line is kept.
    """
    if any(line.split(b":")[2:3] == [b"0"] for line in text.split(b"\n")):
        ours = [line for line in ours if line.split(b":")[2] != b"0"]
    numbers = {line.split(b":")[2] for line in ours}
    kept = [line for line in text.split(b"\n") if line and (line.split(b":") + [b""] * 3)[2] not in numbers]
    return b"\n".join([*kept, *ours]) + b"\n"
