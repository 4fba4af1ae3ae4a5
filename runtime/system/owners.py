# SPDX-License-Identifier: BSD-3-Clause
"""Check that only root can change what root runs: owner and mode of a path, of its parents, and of symlinks in it.

The plugin makes the same check at each step (`owned_by_root` in spank_plugin/root_owned.c). This module
also says how to repair a fault.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from bollard.runtime.system import identity

# How many symlinks the kernel follows: path_resolution(7).
_LINKS_MAX = 40


class Fault(NamedTuple):
    """A path that another user could change: the path, the fault, and the repair, usually a command."""

    path: str
    text: str
    fix: str


def faults(paths: Iterable[str], owner: int = 0, top: str = "/") -> list[Fault]:
    """Return the faults of `paths` and of every component that leads to them, each fault once.

    paths  absolute paths
    owner  uid that must own all of them
    top    directory from which on components are checked
    """
    found: dict[str, Fault] = {}
    looked: set[str] = set()
    for path in paths:
        for part in way(path, top):
            if part not in looked:
                looked.add(part)
                fault = _fault(part, owner)
                if fault:
                    found[part] = fault
    return list(found.values())


def tree(top: str) -> Iterator[str]:
    """Yield the directory `top` and everything below it. Does not follow symlinks."""
    yield top
    for folder, folders, files in os.walk(top):
        for name in sorted((*folders, *files)):
            yield f"{folder}/{name}"


def way(path: str, top: str = "/") -> Iterator[str]:
    """Yield every directory, symlink and file that the kernel passes from `top` to `path`, in that order."""
    yield top
    done, rest, links = top.rstrip("/"), [part for part in os.path.relpath(path, top).split("/") if part != "."], 0
    while rest:
        part = rest.pop(0)
        if part == "..":
            done = os.path.dirname(done)
            continue
        step = f"{done}/{part}"
        yield step
        try:
            target = os.readlink(step)
        except OSError:
            done = step  # no link; what is missing is told by the caller, who looks at each step
            continue
        links += 1
        if links > _LINKS_MAX:
            return
        if target.startswith("/"):
            done = ""
        rest = [part for part in target.split("/") if part not in ("", ".")] + rest


def _fault(path: str, owner: int) -> Fault | None:
    try:
        info = os.lstat(path)
    except OSError as error:
        return Fault(path, f"{path}: {error.strerror}", "bollard site install")
    if info.st_uid != owner:
        who = "root" if owner == 0 else str(owner)
        return Fault(path, f"{path} belongs to {identity.user_name(info.st_uid)}", f"chown -h {who} {path}")
    if not stat.S_ISLNK(info.st_mode) and info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        whom = "everybody" if info.st_mode & stat.S_IWOTH else f"group {_group(info.st_gid)}"
        mode = stat.S_IMODE(info.st_mode)
        shared = mode & stat.S_IWOTH and mode & stat.S_ISVTX  # as /tmp; chmod go-w would be wrong
        fix = f"keep what root runs out of {path}" if shared else f"chmod go-w {path}"
        return Fault(path, f"{path} can be written by {whom} (mode {mode:04o})", fix)
    return None


def _group(gid: int) -> str:
    import grp

    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def package(path: str) -> str:
    """The package to which the file `path` belongs; "" for none, or where no package manager is known."""
    import subprocess

    for command in (("dpkg-query", "-S"), ("rpm", "-qf")):
        try:
            done = subprocess.run(
                [*command, path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False
            )
        except FileNotFoundError:  # another distribution's
            continue
        if done.returncode == 0:
            return done.stdout.partition(":")[0].strip()
    return ""
