# SPDX-License-Identifier: BSD-3-Clause
"""Carry out a plan's mounts: find or make a place for each in the image, then attach.

The image is read-only and may lack a mount point: covers.py makes it without a change of the image.
Targets are resolved beneath the container's root, whatever symlinks the image holds.
"""

from __future__ import annotations

import os
from errno import EINVAL, ENXIO

from bollard.runtime import causes
from bollard.runtime.container import covers
from bollard.runtime.errors import BollardError
from bollard.runtime.request import plan, plan_records
from bollard.runtime.system import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bollard.runtime.request.plan_records import Mount

_FILE_MAX = 1 << 20  # bytes of a file that is copied; a larger one is mounted
# The reason for which a mount with `if_free` is left out. It is not a warning, as nothing is missing.
_TAKEN = "an earlier mount is there"


class Place:
    """A mount of the plan whose source has been found."""

    __slots__ = ("directory", "folder", "mount", "tree")

    def __init__(self, mount: Mount, tree: int, directory: bool, folder: str = "") -> None:
        self.mount = mount
        self.tree = tree  # detached copy of the source's mounts; -1 for a link
        self.directory = directory
        self.folder = folder  # path where the container's own filesystem is also mounted, to be filled; "" for a bind


class Report:
    """The results of a plan's mounts, as text for the user."""

    __slots__ = ("chosen", "covers", "left_out", "warnings")

    def __init__(self) -> None:
        self.chosen: list[str] = []  # what the image brings in the place of something of the host's
        self.covers: list[str] = []  # directories of the image that were covered, and for what
        self.left_out: list[str] = []  # mounts that were left out, and why
        self.warnings: list[str] = []  # the left-out mounts that the user must know of

    def lines(self) -> list[str]:
        """Return one line for each cover and for each mount that was left out."""
        told = (("used", self.chosen), ("covered", self.covers), ("left out", self.left_out))
        return [f"{word}: {line}" for word, lines in told for line in lines]


def is_directory(fd: int) -> bool:
    """Return whether a descriptor is of a directory."""
    return os.fstat(fd).st_mode & 0o170000 == covers.IS_DIRECTORY


def clone_sources(
    wanted: tuple[Mount, ...], files: dict[str, int], session: str, proc: int, report: Report
) -> list[Place]:
    """Clone the source of every mount, and make the container's own filesystems. Returns the mounts that can be made.

    wanted    the plan's mounts
    files     {name: descriptor of the cloned tree} of the files that the keeper writes; entries that are used go away
    session   path of the session tmpfs
    proc      descriptor of the tree of the container's own /proc, -1 without one
    report    gets the mounts that are left out because their source is missing

    Raises:
        BollardError: a source is missing and its mount may not be left out.
    """
    places: list[Place] = []
    for mount in wanted:
        if mount.kind == plan_records.LINK:
            places.append(Place(mount, -1, False))
        elif mount.kind == plan_records.PROC:
            places.append(Place(mount, proc, True))
        elif mount.kind in (plan_records.TMPFS, plan_records.DEVPTS, plan_records.MQUEUE):
            places.append(_own_filesystem(mount, f"{session}/own{len(places)}"))
        elif mount.kind == plan_records.FILE:
            linux.set_mount_flags(files[mount.source], _attributes(mount))
            places.append(Place(mount, files.pop(mount.source), False))
        else:
            try:
                tree = _clone(mount.source, mount.shallow)
            except OSError as error:
                _leave_out(mount, error, report)
                continue
            linux.set_mount_flags(tree, _attributes(mount))
            places.append(Place(mount, tree, is_directory(tree)))
    for number, place in enumerate(places):
        _make_place_in_own(place, places[:number])
    return places


def _clone(path: str, shallow: bool) -> int:
    if shallow:
        try:
            return linux.clone_tree(path, recursive=False)
        except OSError as error:
            # EINVAL: mounts of the host's namespace below `path` are locked and must be cloned too
            # (mount_namespaces(7), "Restrictions on mount namespaces").
            if error.errno != EINVAL:
                raise
    return linux.clone_tree(path)


def _leave_out(mount: Mount, error: OSError, report: Report) -> None:
    """Leave out a mount whose source cannot be cloned. Raises if the mount may not be left out."""
    if mount.if_missing == plan_records.REFUSE:
        raise causes.of(
            error, f"bind {mount.what()}", mount.source, "does it exist on this node, and may you read it?"
        ) from None
    reason = f"{mount.source}: {error.strerror}"
    report.left_out.append(f"{mount.target}: {reason}")
    if mount.if_missing == plan_records.WARN or not linux.is_missing(error):
        report.warnings.append(f"{reason}; the container starts without it")


def _attributes(mount: Mount) -> int:
    attributes = linux.MOUNT_ATTR_NOSUID
    attributes |= 0 if mount.devices else linux.MOUNT_ATTR_NODEV
    attributes |= linux.MOUNT_ATTR_RDONLY if mount.read_only else 0
    attributes |= linux.MOUNT_ATTR_NOEXEC if mount.noexec else 0
    return attributes


def _own_filesystem(mount: Mount, folder: str) -> Place:
    """Mount a tmpfs, devpts or mqueue of the container's own. It stays mounted at `folder` too, to be filled."""
    os.mkdir(folder, 0o755)
    flags = linux.MS_NOSUID | (linux.MS_NOEXEC if mount.noexec else 0)
    if mount.kind == plan_records.DEVPTS:
        linux.mount("devpts", folder, "newinstance,ptmxmode=0666,mode=0620", flags)
    elif mount.kind == plan_records.MQUEUE:
        linux.mount("mqueue", folder, "", flags | linux.MS_NODEV)
    else:
        try:
            linux.mount("tmpfs", folder, mount.source, flags | linux.MS_NODEV)
        except OSError as error:
            raise BollardError(f"tmpfs {mount.target}: {mount.source}: {error.strerror}", "check its flags") from None
    return Place(mount, linux.clone_tree(folder), True, folder)


def _make_place_in_own(place: Place, earlier: list[Place]) -> None:
    """Make the mount point or link of `place` in the container's own tmpfs, if the last mount around it is one."""
    target = place.mount.target
    around = [
        other for other in earlier if plan_records.below(target, other.mount.target) and target != other.mount.target
    ]
    if not around or around[-1].mount.kind != plan_records.TMPFS:
        return
    parts = [part for part in target[len(around[-1].mount.target) :].split("/") if part]
    if place.mount.kind == plan_records.LINK:
        covers.make(around[-1].folder, [(parts[:-1], True)] if parts[:-1] else [])
        os.symlink(place.mount.source, f"{around[-1].folder}/{'/'.join(parts)}")
    else:
        covers.make(around[-1].folder, [(parts, place.directory)])


def bind_directory(fd: int, target: str, writable: bool = False) -> None:
    """Bind the directory that is open at `fd` to the path `target`, read-only unless `writable`.

    The image is a directory then.
    """
    tree = linux.clone_tree_at(fd)
    attributes = linux.MOUNT_ATTR_NOSUID | linux.MOUNT_ATTR_NODEV | (0 if writable else linux.MOUNT_ATTR_RDONLY)
    linux.set_mount_flags(tree, attributes)
    place = os.open(target, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    linux.attach(tree, place)
    os.close(place)
    os.close(tree)


def _flags(place: Place) -> int:
    """Return the open flags for a target. With O_NOFOLLOW the kernel mounts on the link itself."""
    return os.O_PATH | (os.O_NOFOLLOW if place.mount.over_link else 0)


def _wanted(root: int, places: list[Place], report: Report) -> list[Place]:
    """Return the mounts whose condition (`only`) this image meets. Reports the others."""
    slurm = covers.exists(root, plan.SLURM_MARK)
    wanted = []
    for place in places:
        mount = place.mount
        lacking = ""
        if mount.only == plan_records.HAS_TARGET and not covers.exists(root, mount.target, _flags(place)):
            lacking = mount.target
        elif mount.only == plan_records.HAS_SLURM and not slurm:
            lacking = plan.SLURM_MARK
        if lacking:
            os.close(place.tree)  # a mount with a condition is always a bind, so it has a tree
            report.left_out.append(f"{mount.target}: no {lacking} in the image")
        else:
            wanted.append(place)
    return wanted


def _missing(root: int, places: list[Place], through: bool = False) -> dict[str, list[tuple[list[str], bool]]]:
    """Return {existing parent: [(components to make, last is a directory)]} for all targets that the image lacks.

    root     descriptor of the root
    places   the mounts
    through  of a target that is a symlink to nothing, what it leads to is made, and the link stays
    """
    found: dict[str, list[tuple[list[str], bool]]] = {}
    for number, place in enumerate(places):
        # A target inside an earlier bind must exist in that bind's source.
        inside = any(plan_records.below(place.mount.target, other.mount.target) for other in places[:number])
        if not inside and not covers.exists(root, place.mount.target, _flags(place)):
            target = place.mount.target
            if through and not place.mount.over_link:
                target = covers.behind(root, target)
            parent, parts = covers.deepest(root, target)
            found.setdefault(parent, []).append((parts, place.directory))
    return found


def make_root(image: str, session: str, places: list[Place], report: Report, writable: bool = False) -> str:
    """Attach every mount of the plan above the root at `image`. Returns the path of the container's root.

    All missing mount points are found before the first cover, and parents are covered before children. So no cover
    hides an earlier mount.

    image     path where the image's root is mounted
    session   path of the session tmpfs
    places    what `clone_sources` returned
    report    gets the covers and the mounts that are left out
    writable  the root takes writes: make mount points in it, without covers

    Raises:
        BollardError: a mount has no place in the container and may not be left out.
    """
    root = os.open(image, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    places = _wanted(root, [place for place in places if place.tree >= 0], report)
    missing = _missing(root, places, through=writable)
    path, refused = image, {}
    if writable:
        refused = covers.make_in(root, missing)
    elif missing:
        for parent, wanted in missing.items():
            report.covers.append(f"{parent}  to hold  {' '.join('/'.join(parts) for parts, _ in wanted)}")
        path = covers.cover_all(image, session, root, missing)
        os.close(root)
        root = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    places = _outer_first(root, places)
    taken: set[str] = set()
    no_place = []
    for place in places:
        reason = _attach(root, place, refused, taken)
        if reason:
            report.left_out.append(f"{place.mount.target}: {reason}")
            if reason != _TAKEN:
                no_place.append(f"{place.mount.target} ({reason})")
    if no_place:
        report.warnings.append(f"no place in the container for {', '.join(no_place)}; it starts without")
    os.close(root)
    if path != image:
        linux.remount_readonly(path, linux.MS_NOSUID | linux.MS_NODEV)
    return path


def _outer_first(root: int, places: list[Place]) -> list[Place]:
    """Return `places`; the mounts that the user asked for are sorted by the depth of their resolved targets."""
    asked = [place for place in places if place.mount.asked]
    if len(asked) < 2:
        return places
    ordered = iter(sorted(asked, key=lambda place: _resolved(root, place.mount.target).count("/")))
    return [next(ordered) if place.mount.asked else place for place in places]


def _resolved(root: int, path: str) -> str:
    """Return where `path` leads beneath the root. Components that do not exist are kept as they are."""
    parent, parts = (path, []) if covers.exists(root, path) else covers.deepest(root, path)
    fd = linux.open_in_root(root, parent)
    try:
        return "/".join([os.readlink(covers.fd_path(fd)), *parts])
    finally:
        os.close(fd)


def make_points(image: str, folder: str, places: list[Place]) -> None:
    """Make the mount points of `places` that the root at `image` lacks. Makes them in the empty directory `folder`."""
    root = os.open(image, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    for parent, wanted in _missing(root, [place for place in places if place.tree >= 0], through=True).items():
        above = [part for part in parent.split("/") if part]
        covers.make(folder, [(above + parts, directory) for parts, directory in wanted])
    os.close(root)


def _attach(root: int, place: Place, refused: dict[str, str], taken: set[str]) -> str:
    """Attach a tree at its target. Returns "", or the reason for which it was left out.

    root      descriptor of the container's root
    place     the mount
    refused   what `covers.make_in` returned
    taken     resolved paths of the mounts so far; gets this one

    Raises:
        BollardError: the mount has no place and may not be left out.
    """
    mount = place.mount
    if mount.copied and not place.directory and os.fstat(place.tree).st_size <= _FILE_MAX:
        return _copy(root, place)
    try:
        target = linux.open_in_root(root, mount.target, _flags(place))
        fits = is_directory(target) == place.directory
        resolved = os.readlink(covers.fd_path(target))
        free = not (mount.if_free and resolved in taken)
        if fits and free:
            linux.attach(place.tree, target)
            taken.add(resolved)
        os.close(target)
    except OSError as error:
        reason = refused.get(mount.target, str(error.strerror))
        what = f"no place for it at {mount.target} ({reason})"
        hint = "a mount point inside another bind must exist in that bind's source"
    else:
        if fits:
            return "" if free else _TAKEN
        kinds = ("a directory", "a file") if place.directory else ("a file", "a directory")
        reason = f"{kinds[1]} is there"
        what = f"it is {kinds[0]}, but {mount.target} in the image is {kinds[1]}"
        hint = "name another place for it"
    finally:
        os.close(place.tree)
    if mount.if_missing == plan_records.REFUSE:
        raise BollardError(f"bind {mount.what()}: {what}", hint)
    return reason


def _copy(root: int, place: Place) -> str:
    """Copy a file into the root, unless the same content is there. Returns "", or the reason for which it failed.

    A symlink at the target is replaced; the file that it leads to is not changed. A copied file is not a mount point,
    so programs can rename or remove it.
    """
    folder, _, name = place.mount.target.rpartition("/")
    fresh = f".{name}.{os.urandom(6).hex()}.bollard"  # other nodes may write into the same directory
    try:
        data = _read(covers.fd_path(place.tree))
        parent = linux.open_in_root(root, folder or "/", os.O_PATH | os.O_DIRECTORY)
        try:
            if _read(f"{covers.fd_path(parent)}/{name}", os.O_NOFOLLOW) != data:
                fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=parent)
                try:
                    _write_all(fd, data)
                    os.rename(fresh, name, src_dir_fd=parent, dst_dir_fd=parent)
                except OSError:
                    os.unlink(fresh, dir_fd=parent)
                    raise
        finally:
            os.close(parent)
    except OSError as error:
        return str(error.strerror)
    finally:
        os.close(place.tree)
    return ""


def _write_all(fd: int, data: bytes) -> None:
    """Write `data` and close `fd`."""
    try:
        while data:
            data = data[os.write(fd, data) :]
    finally:
        os.close(fd)


def _read(path: str, flags: int = 0) -> bytes:
    """Return the content of a small file; b"" if it is missing, a link that is not followed, or not a file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | flags)
    except OSError as error:
        if linux.is_missing(error) or error.errno == ENXIO:  # ENXIO: a socket
            return b""
        raise
    try:
        return os.read(fd, _FILE_MAX)
    except IsADirectoryError:
        return b""  # a directory differs from any file
    finally:
        os.close(fd)
