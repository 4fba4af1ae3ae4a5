# SPDX-License-Identifier: BSD-3-Clause
"""Carry out a plan's mounts: find or make a place for each in the image, then attach.

The image is read-only and may lack a mount point. A missing one appears without touching the image: its
deepest existing parent directory is covered by a copy that has it too:

    an empty directory     a small tmpfs
    the image's "/"        a tmpfs in which every top-level entry is bound or linked again
    any other directory    a kernel overlay of that one directory

so that programs and libraries are read straight from the image's filesystem. Targets are resolved beneath the
container's root, whatever symlinks the image holds.
"""

from __future__ import annotations

import os

from bollard.runtime import linux, plan
from bollard.runtime.errors import BollardError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bollard.runtime.plan import Op

_IS_DIRECTORY = 0o040000
_IS_LINK = 0o120000


class Place:
    """Where a tree goes."""

    __slots__ = ("directory", "flags", "source", "target", "tree")

    def __init__(self, source: str, target: str, flags: int, tree: int, directory: bool) -> None:
        self.source = source
        self.target = target
        self.flags = flags
        self.tree = tree  # detached copy of the source's mounts
        self.directory = directory


def _is_directory(fd: int) -> bool:
    return os.fstat(fd).st_mode & 0o170000 == _IS_DIRECTORY


def clone_sources(ops: list[Op], files: dict[str, str]) -> list[Place]:
    """Detach a copy of every source of the host. `files` names those the keeper wrote itself."""
    places = []
    for source, target, flags in ops:
        path = files.get(source, source)
        if not path:
            continue
        try:
            tree = _clone_shallow(path) if flags & plan.SHALLOW else linux.clone_tree(path)
        except OSError as error:
            if flags & plan.OPTIONAL:
                continue
            raise BollardError(
                f"bind {source}: {error.strerror}", "does it exist on this node, and may you read it?"
            ) from None
        attributes = linux.MOUNT_ATTR_NOSUID
        attributes |= 0 if flags & plan.DEVICES else linux.MOUNT_ATTR_NODEV
        attributes |= linux.MOUNT_ATTR_RDONLY if flags & plan.READ_ONLY else 0
        linux.set_mount_flags(tree, attributes)
        places.append(Place(source, target, flags, tree, _is_directory(tree)))
    return places


def _clone_shallow(path: str) -> int:
    try:
        return linux.clone_tree(path, recursive=False)
    except OSError:  # mounts below it that came with the host's namespace cannot be left behind
        return linux.clone_tree(path)


def bind_directory(fd: int, target: str) -> None:
    """Put the directory open at `fd` on `target`, read-only: a sandbox as image."""
    tree = linux.clone_tree_at(fd)
    linux.set_mount_flags(tree, linux.MOUNT_ATTR_RDONLY | linux.MOUNT_ATTR_NODEV | linux.MOUNT_ATTR_NOSUID)
    place = os.open(target, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    linux.attach(tree, place)
    os.close(place)
    os.close(tree)


def _exists(root: int, path: str) -> bool:
    try:
        os.close(linux.open_in_root(root, path))
    except OSError:
        return False
    return True


def _wanted(root: int, places: list[Place]) -> list[Place]:
    slurm = _exists(root, plan.SLURM_MARK)
    wanted = []
    for place in places:
        if (place.flags & plan.IF_IN_IMAGE and not _exists(root, place.target)) or (
            place.flags & plan.IF_SLURM and not slurm
        ):
            os.close(place.tree)
        else:
            wanted.append(place)
    return wanted


def _deepest(root: int, path: str) -> tuple[str, list[str]]:
    """The longest part of `path` that is a directory of the image, and the components after it."""
    parts = [part for part in path.split("/") if part]
    for count in range(len(parts) - 1, 0, -1):
        parent = "/" + "/".join(parts[:count])
        try:
            fd = linux.open_in_root(root, parent, os.O_PATH | os.O_DIRECTORY)
        except OSError:
            continue
        os.close(fd)
        return parent, parts[count:]
    return "/", parts


def _missing(root: int, places: list[Place]) -> dict[str, list[tuple[list[str], bool]]]:
    """{existing parent: [(components to make, last is a directory)]} for all targets the image lacks."""
    found: dict[str, list[tuple[list[str], bool]]] = {}
    for number, place in enumerate(places):
        # A place inside an earlier bind is that bind's affair.
        inside = any(plan.below(place.target, other.target) for other in places[:number])
        if not inside and not _exists(root, place.target):
            parent, parts = _deepest(root, place.target)
            found.setdefault(parent, []).append((parts, place.directory))
    return found


def _make(base: str, wanted: list[tuple[list[str], bool]]) -> None:
    """Make the `wanted` entries, (components, last is a directory), in a directory of ours."""
    for parts, directory in wanted:
        path = base
        for part in parts[:-1]:
            path += "/" + part
            if not os.path.isdir(path):
                os.mkdir(path, 0o755)
        path += "/" + parts[-1]
        if directory and not os.path.isdir(path):
            os.mkdir(path, 0o755)
        elif not directory:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))


def _fd_path(fd: int) -> str:
    return f"/proc/self/fd/{fd}"


class Shadows:
    """Covers for directories of the image, and where their parts lie on the session tmpfs."""

    __slots__ = ("count", "made", "session")

    def __init__(self, session: str) -> None:
        self.session = session
        self.count = 0
        self.made: list[str] = []

    def folder(self) -> str:
        self.count += 1
        path = f"{self.session}/{self.count}"
        os.mkdir(path, 0o755)
        return path

    def cover(self, root: int, parent: str, wanted: list[tuple[list[str], bool]]) -> None:
        """Cover the directory `parent` (not "/") so that the `wanted` entries exist in it."""
        target = linux.open_in_root(root, parent, os.O_PATH | os.O_DIRECTORY)
        empty = not os.listdir(_fd_path(target))
        folder = self.folder()
        if empty:
            _make(folder, wanted)
            tree = linux.clone_tree(folder, recursive=False)
        else:
            upper, work, merged = folder + "/upper", folder + "/work", folder + "/merged"
            for path in (upper, work, merged):
                os.mkdir(path, 0o755)
            _make(upper, wanted)
            options = f"lowerdir={_fd_path(target)},upperdir={upper},workdir={work},userxattr"
            linux.mount("overlay", merged, options, linux.MS_NOSUID | linux.MS_NODEV)
            tree = linux.clone_tree(merged, recursive=False)
        linux.set_mount_flags(tree, linux.MOUNT_ATTR_RDONLY | linux.MOUNT_ATTR_NODEV | linux.MOUNT_ATTR_NOSUID)
        linux.attach(tree, target)
        os.close(tree)
        os.close(target)

    def mirror(self, image: str, wanted: list[tuple[list[str], bool]]) -> str:
        """A new "/" with all entries of the image's and the `wanted` ones; returns its path."""
        folder = self.folder()
        _make(folder, wanted)  # first: a link of the image, once it is here, would lead mkdir to the host
        for name in os.listdir(image):
            if os.path.lexists(f"{folder}/{name}"):
                continue  # a dangling link of the image, say, in the place of what is wanted
            path, mode = f"{image}/{name}", os.lstat(f"{image}/{name}").st_mode & 0o170000
            if mode == _IS_LINK:
                os.symlink(os.readlink(path), f"{folder}/{name}")
                continue
            _make(folder, [([name], mode == _IS_DIRECTORY)])
            self.made.append(name)
        return folder


def make_root(image: str, session: str, places: list[Place]) -> str:
    """Make every mount of the plan on top of the image mounted at `image`; returns the path of the root.

    `session` is a directory on a tmpfs of ours. What the image lacks is decided before anything is covered,
    parents before children, so no cover hides an earlier mount.
    """
    root = os.open(image, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    places = _wanted(root, places)
    missing = _missing(root, places)
    shadows = Shadows(session)
    path = image
    at_top = missing.pop("/", None)
    if at_top:
        path = shadows.mirror(image, at_top)
        tree = linux.clone_tree(path, recursive=False)
        target = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        linux.attach(tree, target)  # a mount of its own, so that it can become the root
        os.close(tree)
        os.close(target)
        for name in shadows.made:
            bound = linux.clone_tree(f"{image}/{name}", recursive=False)
            target = os.open(f"{path}/{name}", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
            linux.attach(bound, target)
            os.close(bound)
            os.close(target)
        os.close(root)
        root = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    for parent in sorted(missing, key=len):
        shadows.cover(root, parent, missing[parent])
    for place in places:
        _attach(root, place)
    os.close(root)
    if at_top:
        linux.remount_readonly(path, linux.MS_NOSUID | linux.MS_NODEV)
    return path


def _attach(root: int, place: Place) -> None:
    try:
        target = linux.open_in_root(root, place.target)
        if _is_directory(target) != place.directory:
            kinds = ("a directory", "a file") if place.directory else ("a file", "a directory")
            raise BollardError(
                f"bind {place.source}: it is {kinds[0]}, but {place.target} in the image is {kinds[1]}",
                "name another place for it",
            )
        linux.attach(place.tree, target)
        os.close(target)
    except (OSError, BollardError) as error:
        if not place.flags & plan.OPTIONAL:
            if isinstance(error, BollardError):
                raise
            raise BollardError(
                f"bind {place.source}: no place for it at {place.target} ({error.strerror})",
                "a mount point inside another bind must exist in that bind's source",
            ) from None
    finally:
        os.close(place.tree)
