# SPDX-License-Identifier: BSD-3-Clause
"""Carry out a plan's mounts: find or make a place for each in the image, then attach.

The image is read-only and may lack a mount point. The keeper makes a missing mount point without a change of the image:
it covers the deepest parent directory that exists. What the cover is depends on that directory:

    an empty directory     a small tmpfs
    the image's "/"        a tmpfs in which every top-level entry is bound or linked again
    any other directory    a kernel overlay of that one directory

All other directories are not covered: programs and libraries in them are read directly from the image's filesystem.
Targets are resolved beneath the container's root, whatever symlinks the image holds.
"""

from __future__ import annotations

import os
from errno import EINVAL, ENXIO

from bollard.runtime import causes
from bollard.runtime.errors import BollardError
from bollard.runtime.request import plan
from bollard.runtime.system import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bollard.runtime.request.plan import Mount

_IS_DIRECTORY = 0o040000
_IS_LINK = 0o120000
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
    return os.fstat(fd).st_mode & 0o170000 == _IS_DIRECTORY


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
        if mount.kind == plan.LINK:
            places.append(Place(mount, -1, False))
        elif mount.kind == plan.PROC:
            places.append(Place(mount, proc, True))
        elif mount.kind in (plan.TMPFS, plan.DEVPTS, plan.MQUEUE):
            places.append(_own_filesystem(mount, f"{session}/own{len(places)}"))
        elif mount.kind == plan.FILE:
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
    if mount.if_missing == plan.REFUSE:
        raise causes.of(
            error, f"bind {mount.what()}", mount.source, "does it exist on this node, and may you read it?"
        ) from None
    reason = f"{mount.source}: {error.strerror}"
    report.left_out.append(f"{mount.target}: {reason}")
    if mount.if_missing == plan.WARN or not linux.is_missing(error):
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
    if mount.kind == plan.DEVPTS:
        linux.mount("devpts", folder, "newinstance,ptmxmode=0666,mode=0620", flags)
    elif mount.kind == plan.MQUEUE:
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
    around = [other for other in earlier if plan.below(target, other.mount.target) and target != other.mount.target]
    if not around or around[-1].mount.kind != plan.TMPFS:
        return
    parts = [part for part in target[len(around[-1].mount.target) :].split("/") if part]
    if place.mount.kind == plan.LINK:
        _make(around[-1].folder, [(parts[:-1], True)] if parts[:-1] else [])
        os.symlink(place.mount.source, f"{around[-1].folder}/{'/'.join(parts)}")
    else:
        _make(around[-1].folder, [(parts, place.directory)])


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


def _exists(root: int, path: str, flags: int = os.O_PATH) -> bool:
    try:
        os.close(linux.open_in_root(root, path, flags))
    except OSError as error:
        if not linux.is_missing(error):
            raise
        return False
    return True


def _wanted(root: int, places: list[Place], report: Report) -> list[Place]:
    """Return the mounts whose condition (`only`) this image meets. Reports the others."""
    slurm = _exists(root, plan.SLURM_MARK)
    wanted = []
    for place in places:
        mount = place.mount
        lacking = ""
        if mount.only == plan.HAS_TARGET and not _exists(root, mount.target, _flags(place)):
            lacking = mount.target
        elif mount.only == plan.HAS_SLURM and not slurm:
            lacking = plan.SLURM_MARK
        if lacking:
            os.close(place.tree)  # a mount with a condition is always a bind, so it has a tree
            report.left_out.append(f"{mount.target}: no {lacking} in the image")
        else:
            wanted.append(place)
    return wanted


def _deepest(root: int, path: str) -> tuple[str, list[str]]:
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


def _missing(root: int, places: list[Place]) -> dict[str, list[tuple[list[str], bool]]]:
    """Return {existing parent: [(components to make, last is a directory)]} for all targets that the image lacks."""
    found: dict[str, list[tuple[list[str], bool]]] = {}
    for number, place in enumerate(places):
        # A target inside an earlier bind must exist in that bind's source.
        inside = any(plan.below(place.mount.target, other.mount.target) for other in places[:number])
        if not inside and not _exists(root, place.mount.target, _flags(place)):
            parent, parts = _deepest(root, place.mount.target)
            found.setdefault(parent, []).append((parts, place.directory))
    return found


def _make(base: str, wanted: list[tuple[list[str], bool]]) -> None:
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


def _fd_path(fd: int) -> str:
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
        parent  path of the directory; not "/", for which `mirror` is
        wanted  the entries, as for `_make`
        """
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
        """Make a new "/" with all entries of the image's "/" and the `wanted` entries. Returns its path."""
        folder = self.folder()
        _make(folder, wanted)  # first: mkdir through a symlink of the image would reach the host
        for name in os.listdir(image):
            if os.path.lexists(f"{folder}/{name}"):
                continue  # for example a dangling symlink of the image with the name of a wanted entry
            path, mode = f"{image}/{name}", os.lstat(f"{image}/{name}").st_mode & 0o170000
            if mode == _IS_LINK:
                os.symlink(os.readlink(path), f"{folder}/{name}")
                continue
            _make(folder, [([name], mode == _IS_DIRECTORY)])
            self.made.append(name)
        return folder


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
    missing = _missing(root, places)
    path, refused = image, {}
    if writable:
        refused = _make_in(root, missing)
    elif missing:
        for parent, wanted in missing.items():
            report.covers.append(f"{parent}  to hold  {' '.join('/'.join(parts) for parts, _ in wanted)}")
        path = _cover(image, session, root, missing)
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
    parent, parts = (path, []) if _exists(root, path) else _deepest(root, path)
    fd = linux.open_in_root(root, parent)
    try:
        return "/".join([os.readlink(_fd_path(fd)), *parts])
    finally:
        os.close(fd)


def make_points(image: str, folder: str, places: list[Place]) -> None:
    """Make the mount points of `places` that the root at `image` lacks. Makes them in the empty directory `folder`."""
    root = os.open(image, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    for parent, wanted in _missing(root, [place for place in places if place.tree >= 0]).items():
        above = [part for part in parent.split("/") if part]
        _make(folder, [(above + parts, directory) for parts, directory in wanted])
    os.close(root)


def _make_in(root: int, missing: dict[str, list[tuple[list[str], bool]]]) -> dict[str, str]:
    """Make mount points in a writable root. Returns {target: reason} for those that cannot be made."""
    refused = {}
    for parent, wanted in missing.items():
        fd = linux.open_in_root(root, parent, os.O_PATH | os.O_DIRECTORY)
        for parts, directory in wanted:
            try:
                _make(_fd_path(fd), [(parts, directory)])
            except OSError as error:
                refused[plan.tidy("/".join([parent, *parts]))] = str(error.strerror)
        os.close(fd)
    return refused


def _cover(image: str, session: str, root: int, missing: dict[str, list[tuple[list[str], bool]]]) -> str:
    """Cover the directories of the read-only `image` that lack a mount point. Returns the path of the root."""
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


def _attach(root: int, place: Place, refused: dict[str, str], taken: set[str]) -> str:
    """Attach a tree at its target. Returns "", or the reason for which it was left out.

    root      descriptor of the container's root
    place     the mount
    refused   what `_make_in` returned
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
        resolved = os.readlink(_fd_path(target))
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
    if mount.if_missing == plan.REFUSE:
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
        data = _read(_fd_path(place.tree))
        parent = linux.open_in_root(root, folder or "/", os.O_PATH | os.O_DIRECTORY)
        try:
            if _read(f"{_fd_path(parent)}/{name}", os.O_NOFOLLOW) != data:
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
        return b""
    finally:
        os.close(fd)
