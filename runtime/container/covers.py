# SPDX-License-Identifier: BSD-3-Clause
"""Make the mount points that an image lacks, without a change of the image.

A cover hides the deepest parent directory that exists. What it is depends on that directory:

    an empty directory     a small tmpfs
    the image's "/"        a tmpfs in which every top-level entry is bound or linked again
    any other directory    a kernel overlay of that one directory

All other directories are not covered: programs and libraries in them are read directly from the image's filesystem.
"""

from __future__ import annotations

import os

from bollard.runtime.request import plan_records
from bollard.runtime.system import linux

IS_DIRECTORY = 0o040000
_IS_LINK = 0o120000
_LINKS_MAX = 40  # as the kernel follows (path_resolution(7))


def exists(root: int, path: str, flags: int = os.O_PATH) -> bool:
    """Return whether `path` beneath the directory `root` can be opened with `flags`."""
    try:
        os.close(linux.open_in_root(root, path, flags))
    except OSError as error:
        if not linux.is_missing(error):
            raise
        return False
    return True


def deepest(root: int, path: str) -> tuple[str, list[str]]:
    """Return the longest leading part of `path` that is a directory in the image, and the components after it."""
    parts = [part for part in path.split("/") if part]
    for count in range(len(parts) - 1, 0, -1):
        parent = "/" + "/".join(parts[:count])
        try:
            fd = linux.open_in_root(root, parent, os.O_PATH | os.O_DIRECTORY)
        except OSError as error:
            if not linux.is_missing(error):
                raise
            continue
        os.close(fd)
        return parent, parts[count:]
    return "/", parts


def behind(root: int, path: str) -> str:
    """Return the path beneath `root` that the symlinks at `path` lead to, if it does not exist; else `path`."""
    found = path
    for _ in range(_LINKS_MAX):
        try:
            fd = linux.open_in_root(root, found, os.O_PATH | os.O_NOFOLLOW)
        except OSError as error:
            if not linux.is_missing(error):
                raise
            parent, parts = deepest(root, found)
            # ".." behind a directory that is to be made could lead anywhere.
            return path if ".." in parts else f"{_beneath(root, parent)}/{'/'.join(parts)}"
        try:
            link = os.readlink("", dir_fd=fd)
        except OSError:
            return path  # no link
        finally:
            os.close(fd)
        found = link if link.startswith("/") else f"{found.rpartition('/')[0]}/{link}"
    return path


def _beneath(root: int, path: str) -> str:
    """Return the path of a directory beneath `root`, without symlinks and ".."; "" for the root itself."""
    fd = linux.open_in_root(root, path, os.O_PATH | os.O_DIRECTORY)
    try:
        return os.readlink(fd_path(fd))[len(os.readlink(fd_path(root)).rstrip("/")) :].rstrip("/")
    finally:
        os.close(fd)


def make(base: str, wanted: list[tuple[list[str], bool]]) -> None:
    """Make the `wanted` entries, (components, last is a directory), in the directory `base`. Follows no symlink."""
    for parts, directory in wanted:
        fd = os.open(base, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        for part in parts if directory else parts[:-1]:
            try:
                os.mkdir(part, 0o755, dir_fd=fd)
            except FileExistsError:
                pass
            deeper = os.open(part, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
            os.close(fd)
            fd = deeper
        if not directory:
            flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            os.close(os.open(parts[-1], flags, 0o644, dir_fd=fd))
        os.close(fd)


def fd_path(fd: int) -> str:
    """Return the path of an open descriptor in /proc."""
    return f"/proc/self/fd/{fd}"


class Shadows:
    """Makes covers for directories of the image. Their files are on the session tmpfs."""

    __slots__ = ("count", "made", "session")

    def __init__(self, session: str) -> None:
        self.session = session
        self.count = 0
        self.made: list[str] = []

    def folder(self) -> str:
        """Make a new directory on the session tmpfs and return its path."""
        self.count += 1
        path = f"{self.session}/{self.count}"
        os.mkdir(path, 0o755)
        return path

    def cover(self, root: int, parent: str, wanted: list[tuple[list[str], bool]]) -> None:
        """Cover a directory of the image so that the wanted entries exist in it.

        root    descriptor of the container's root
        parent  path of the directory; for "/" use `mirror`
        wanted  the entries, as for `make`
        """
        target = linux.open_in_root(root, parent, os.O_PATH | os.O_DIRECTORY)
        empty = not os.listdir(fd_path(target))
        folder = self.folder()
        if empty:
            make(folder, wanted)
            tree = linux.clone_tree(folder, recursive=False)
        else:
            upper, work, merged = folder + "/upper", folder + "/work", folder + "/merged"
            for path in (upper, work, merged):
                os.mkdir(path, 0o755)
            make(upper, wanted)
            options = f"lowerdir={fd_path(target)},upperdir={upper},workdir={work},userxattr"
            linux.mount("overlay", merged, options, linux.MS_NOSUID | linux.MS_NODEV)
            tree = linux.clone_tree(merged, recursive=False)
        linux.set_mount_flags(tree, linux.MOUNT_ATTR_RDONLY | linux.MOUNT_ATTR_NODEV | linux.MOUNT_ATTR_NOSUID)
        linux.attach(tree, target)
        os.close(tree)
        os.close(target)

    def mirror(self, image: str, wanted: list[tuple[list[str], bool]]) -> str:
        """Make a new "/" with all entries of the image's "/" and the `wanted` entries. Returns its path."""
        folder = self.folder()
        make(folder, wanted)  # first: mkdir through a symlink of the image would reach the host
        for name in os.listdir(image):
            if os.path.lexists(f"{folder}/{name}"):
                continue  # for example a dangling symlink of the image with the name of a wanted entry
            path, mode = f"{image}/{name}", os.lstat(f"{image}/{name}").st_mode & 0o170000
            if mode == _IS_LINK:
                os.symlink(os.readlink(path), f"{folder}/{name}")
                continue
            make(folder, [([name], mode == IS_DIRECTORY)])
            self.made.append(name)
        return folder


def make_in(root: int, missing: dict[str, list[tuple[list[str], bool]]]) -> dict[str, str]:
    """Make mount points in a writable root. Returns {target: reason} for those that cannot be made."""
    refused = {}
    for parent, wanted in missing.items():
        fd = linux.open_in_root(root, parent, os.O_PATH | os.O_DIRECTORY)
        for parts, directory in wanted:
            try:
                make(fd_path(fd), [(parts, directory)])
            except OSError as error:
                refused[plan_records.tidy("/".join([parent, *parts]))] = str(error.strerror)
        os.close(fd)
    return refused


def cover_all(image: str, session: str, root: int, missing: dict[str, list[tuple[list[str], bool]]]) -> str:
    """Cover the directories of the read-only `image` that lack a mount point. Returns the path of the root.

    image    path of the image's root
    session  path of the session tmpfs
    root     descriptor of the image's root directory
    missing  {directory: its missing entries, each as components of a path and whether it is a directory}
    """
    shadows = Shadows(session)
    path = image
    at_top = missing.pop("/", None)
    if at_top:
        path = shadows.mirror(image, at_top)
        tree = linux.clone_tree(path, recursive=False)
        target = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        linux.attach(tree, target)  # pivot_root(2) requires that the new root is a mount point
        os.close(tree)
        os.close(target)
        for name in shadows.made:
            bound = linux.clone_tree(f"{image}/{name}", recursive=False)
            target = os.open(f"{path}/{name}", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
            linux.attach(bound, target)
            os.close(bound)
            os.close(target)
        root = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    for parent in sorted(missing, key=len):
        shadows.cover(root, parent, missing[parent])
    if at_top:
        os.close(root)
    return path
