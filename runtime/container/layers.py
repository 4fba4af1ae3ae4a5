# SPDX-License-Identifier: BSD-3-Clause
"""Layers above the image. The last layer can be writable; it takes everything that the container writes to its root.

    --writable-tmpfs    a layer in memory; it ends with the container
    --overlay DIR       DIR/upper, with DIR/work for the kernel's own use (Apptainer's layout); DIR:ro is read-only
    --overlay FILE      the same in an ext3 file, served by fuse2fs; a squashfs file is read-only, served by squashfuse
    --writable          the ext3 layer in a SIF file; without --writable that layer is read-only

The layers are merged by the kernel's overlayfs, which stores its marks in user.* attributes (Linux 5.11; on a tmpfs
Linux 6.6). overlayfs cannot write to an ext3 file served by FUSE, nor to some network file systems. fuse-overlayfs
merges the layers then. The plan lists the layers; this module is imported only if there is one.
"""

from __future__ import annotations

import os
from _signal import pidfd_send_signal
from errno import EACCES, EBUSY, EDQUOT, EMFILE, ENFILE, ENOMEM, ENOSPC, EPERM, EROFS
from select import POLLIN, poll

from bollard.runtime import causes
from bollard.runtime.container import fuse, mounts, renewal
from bollard.runtime.errors import BollardError
from bollard.runtime.image import image, sif
from bollard.runtime.installed import EXT, EXT_2, EXT_OFFSET_IN_NAME, OVERLAY
from bollard.runtime.request import plan_records
from bollard.runtime.system import linux

_EXT_MAGIC = (0x438, b"\x53\xef")  # offset in bytes, and s_magic of struct ext2_super_block
# How often a lock is tried, and the pause in seconds. A container that has the file open may be about to end.
_MAKE = "make it with `bollard overlay create`, or check its permissions"
_LOCK_TRIES = 100
_LOCK_PAUSE = 0.1
_UNLOCKED = "its filesystem has no locks; use it in one container at a time, on one node, or it is damaged"
_SIGKILL, _SIGTERM, _SIGCONT = 9, 15, 18
# How long a FUSE server may take to write its data and end, in ms.
_END_MS = 60000


class Layer:
    """An open layer of the plan.

    `fd` is the directory, or the file that holds the filesystem. `warning` is for the first task, or "".
    """

    __slots__ = ("fd", "overlay", "warning")

    def __init__(self, overlay: plan_records.Overlay, fd: int, warning: str = "") -> None:
        self.overlay = overlay
        self.fd = fd
        self.warning = warning


class Servers:
    """The FUSE servers that write to the user's files.

    They must end before the container does, so that the files are clean. They run as the user, so the user can stop
    them (SIGSTOP).
    """

    __slots__ = ("pids",)

    def __init__(self, pids: list[int]) -> None:
        self.pids = pids

    def end(self) -> None:
        """End the servers, the topmost first, so that each leaves its file clean.

        A server that does not end within _END_MS ends with the keeper. One that is stopped is killed with SIGKILL: no
        other signal ends a stopped process, so it would stay on the node.
        """
        while self.pids:
            self._go_on()  # all of them: a server waits for the servers below it
            pid = self.pids.pop()
            try:
                handle = os.pidfd_open(pid)
                os.kill(pid, _SIGTERM)
            except OSError:
                continue  # it has ended
            ended = poll()
            ended.register(handle, POLLIN)
            if not ended.poll(_END_MS) and _is_stopped(handle):
                pidfd_send_signal(handle, _SIGKILL)
            os.close(handle)

    def _go_on(self) -> None:
        for pid in self.pids:
            try:
                os.kill(pid, _SIGCONT)
            except OSError:
                pass  # it has ended


def _is_stopped(handle: int) -> bool:
    """Return whether the child is stopped, by waitid(2) with WSTOPPED."""
    try:
        return os.waitid(os.P_PIDFD, handle, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is not None
    except OSError:
        return False  # it has ended


def of_image(opened: image.Image, name: str) -> tuple[tuple[str, int], ...]:
    """Return (filesystem, offset in bytes) of each layer in the image file, lowest first. `name` is for messages.

    Raises:
        BollardError: a squashfs layer is damaged.
    """
    found = []
    for part in opened.overlays:
        kind = plan_records.EXT3 if part.fstype == sif.FS_EXT3 else plan_records.SQUASHFS
        if kind == plan_records.SQUASHFS:
            image.check_superblock(name, opened.fd, part.offset, part.size)
        found.append((kind, part.offset))
    return tuple(found)


def filesystem(path: str) -> str:
    """Return the kind of the overlay at `path`: DIRECTORY, EXT3 or SQUASHFS of plan_records.

    Reads with the caller's rights.

    Raises:
        BollardError: `path` does not exist, cannot be read, or is none of these kinds.
    """
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        raise causes.of(error, f"overlay {path}", path, _MAKE) from None
    directory = os.fstat(fd).st_mode & 0o170000 == 0o040000
    os.close(fd)
    if directory:
        return plan_records.DIRECTORY
    if _begins(path, image.SQUASHFS_MAGIC):
        return plan_records.SQUASHFS
    if _begins(path, _EXT_MAGIC[1], _EXT_MAGIC[0]):
        return plan_records.EXT3
    raise BollardError(
        f"overlay {path}: neither a directory nor an ext3 or squashfs file", "make one: mkdir DIR, --overlay DIR"
    )


def opened(overlays: tuple[plan_records.Overlay, ...], image_fd: int) -> list[Layer]:
    """Open the plan's layers, except the one in memory. `image_fd` is the image file. Call it without capabilities.

    Raises:
        BollardError: a layer cannot be opened, is in use by another container, or is not what the plan says.
    """
    found = []
    for overlay in overlays:
        if overlay.filesystem == plan_records.MEMORY:
            continue
        name, is_locked = overlay.source, True
        if overlay.filesystem == plan_records.DIRECTORY:
            try:
                fd = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError as error:
                raise causes.of(error, f"overlay {name}", name, _MAKE) from None
        elif overlay.offset:
            # Not by path: it could be another file.
            fd, is_locked = _open(name, f"/proc/self/fd/{image_fd}", overlay.read_only)
        else:
            fd, is_locked = _open(name, name, overlay.read_only)
            if overlay.filesystem == plan_records.SQUASHFS:
                image.check_superblock(f"overlay {name}", fd, 0, os.fstat(fd).st_size)
            elif os.pread(fd, 2, _EXT_MAGIC[0]) != _EXT_MAGIC[1]:
                raise BollardError(f"overlay {name}: was changed while it was opened", "start the container again")
        unlocked = "" if is_locked or overlay.read_only else f"overlay {name}: {_UNLOCKED}"
        found.append(Layer(overlay, fd, unlocked))
    return found


def _begins(path: str, magic: bytes, at: int = 0) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise causes.of(error, f"overlay {path}", path, "check its permissions") from None
    try:
        return os.pread(fd, len(magic), at) == magic
    except OSError:
        return False  # a pipe
    finally:
        os.close(fd)


def _open(name: str, path: str, read_only: bool) -> tuple[int, bool]:
    """Open a file that holds a filesystem, and lock it against those who write while others read or write.

    Returns the descriptor, and whether it is locked: some network filesystems have no locks.
    """
    from time import sleep

    try:
        fd = os.open(path, (os.O_RDONLY if read_only else os.O_RDWR) | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise causes.of(error, f"overlay {name}", name, "check its permissions; FILE:ro only reads") from None
    for _ in range(_LOCK_TRIES):
        try:
            linux.lock_file(fd, exclusive=not read_only)
            return fd, True
        except BlockingIOError:
            sleep(_LOCK_PAUSE)
        except OSError:
            return fd, False
    raise BollardError(
        f"overlay {name}: another container uses it, which an earlier step of this job may have left",
        "give steps of one job one --container-name, wait for the end of another job, or use FILE:ro in both",
    )


def mount(
    made: plan_records.Plan,
    base: str,
    session: str,
    layers: list[Layer],
    places: list[mounts.Place],
    kept: renewal.Layer,
) -> tuple[str, Servers | None]:
    """Mount the plan's layers above the image.

    Returns the path of the merged root, and the servers that must end before the container does (None if there are
    none).

    made      the plan
    base      path of the image's root
    session   path of the session tmpfs
    layers    the layers that `opened` returned
    places    the mounts that come above. Their missing mount points are made in a layer below the user's layers, so
              that these stay clean.
    kept      the layer in memory of the container that this one follows; gets this container's own

    Raises:
        BollardError: a layer cannot be mounted, or its file server does not start.
    """
    points = f"{session}/points"
    os.mkdir(points, 0o755)
    mounts.make_points(base, points, places)
    stack = _Stack([base, points], [layer.fd for layer in layers])
    for number, layer in enumerate(layers):
        _add(stack, layer, f"{session}/layer{number}", f"{session}/scratch", made.owned)
    in_memory = [overlay for overlay in made.layers if overlay.filesystem == plan_records.MEMORY]
    if in_memory:
        _add_memory(stack, f"{session}/written", in_memory[0].read_only, kept)
    merged = f"{session}/merged"
    os.mkdir(merged, 0o755)
    _merge(stack, merged, ", ".join(layer.overlay.source for layer in layers) or "memory")
    for fd in stack.fds:
        os.close(fd)
    return merged, Servers(stack.pids) if stack.pids else None


class _Stack:
    """The directories that an overlay merges, and what holds them."""

    __slots__ = ("fds", "lower", "pids", "upper", "work")

    def __init__(self, lower: list[str], fds: list[int]) -> None:
        self.lower = lower  # paths, the topmost first
        self.fds = fds  # descriptors that paths of the other fields name: layers, and their upper and work
        self.upper = ""  # where the container writes; "" for a container that writes nowhere
        self.work = ""
        self.pids: list[int] = []  # the file servers that write to the user's files, the lowest first

    def options(self) -> str:
        """Return the mount options that name the directories."""
        written = f",upperdir={self.upper},workdir={self.work}" if self.upper else ""
        return f"lowerdir={':'.join(self.lower)}{written}"


def _add(stack: _Stack, layer: Layer, target: str, scratch: str, own: bool) -> None:
    """Put a layer of the user on top of the stack.

    stack    the layers below; gets this one
    layer    a directory, or a file that holds a filesystem
    target   path where the file's filesystem is mounted
    scratch  path of the file servers' own directory
    own      files show as the user's
    """
    path, overlay = f"/proc/self/fd/{layer.fd}", layer.overlay
    if overlay.filesystem != plan_records.DIRECTORY:
        path, pid = _serve(layer, target, scratch, own)
        if not overlay.read_only:
            stack.pids.append(pid)
    if overlay.read_only:
        if overlay.filesystem != plan_records.SQUASHFS and os.path.lexists(f"{path}/upper"):
            stack.fds.append(_part(path, "upper", overlay.source))
            path = f"/proc/self/fd/{stack.fds[-1]}"
        stack.lower.insert(0, path)
        return
    _make(f"{path}/upper", overlay.source)
    _make(f"{path}/work", overlay.source)
    upper, work = _part(path, "upper", overlay.source), _part(path, "work", overlay.source)
    stack.fds += [upper, work]
    if overlay.filesystem == plan_records.EXT3:
        _refuse_others(upper, overlay.source)
    stack.upper, stack.work = f"/proc/self/fd/{upper}", f"/proc/self/fd/{work}"


def _add_memory(stack: _Stack, room: str, read_only: bool, kept: renewal.Layer) -> None:
    """Put the layer in memory on top of the stack: the one of the container that this one follows, or a new one.

    stack      the layers below; gets this one
    room       path where the layer is mounted
    read_only  the container only reads it
    kept       the layer in memory of the container that this one follows; gets this container's own
    """
    os.mkdir(room, 0o755)
    if kept.tree >= 0:
        target = os.open(room, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        linux.attach(kept.tree, target)
        os.close(target)
        os.close(kept.tree)
    else:
        linux.mount("tmpfs", room, "mode=0755", linux.MS_NOSUID | linux.MS_NODEV)
        os.mkdir(f"{room}/upper", 0o755)
        os.mkdir(f"{room}/work", 0o755)
    kept.tree = linux.clone_tree(room, recursive=False)
    if read_only:
        stack.lower.insert(0, f"{room}/upper")
    else:
        stack.upper, stack.work = f"{room}/upper", f"{room}/work"


def _merge(stack: _Stack, merged: str, where: str) -> None:
    """Mount the merged layers at `merged`: by the kernel's overlayfs, or by fuse-overlayfs where that cannot.

    `where` names the layers in messages. `stack.pids` gets the process id of fuse-overlayfs.
    """
    by_fuse = bool(stack.pids)
    try:
        if not by_fuse:
            _mount_overlay(merged, stack.options() + ",userxattr")
    except OSError as error:
        if error.errno in (ENOSPC, EDQUOT, EROFS, ENOMEM, EMFILE, ENFILE):  # not the kind of the filesystem
            raise causes.of(error, f"no writable layer possible in {where}", stack.upper or merged) from None
        if not os.path.exists(OVERLAY):
            raise BollardError(
                f"no writable layer possible in {where}: {error.strerror}",
                "a network file system takes none; on Linux before 6.6 use --overlay with a directory of a local disk",
            ) from None
        by_fuse = True
    if by_fuse:
        stack.pids.append(fuse.start(OVERLAY, stack.options(), [], merged, tuple(stack.fds), False))


def _mount_overlay(merged: str, options: str) -> None:
    """Mount the kernel's overlay at `merged`.

    The kernel can take a moment to unmount that of the container which this one follows; until then its upper layer is
    busy.
    """
    from time import sleep

    for left in range(_LOCK_TRIES, -1, -1):
        try:
            linux.mount("overlay", merged, options, linux.MS_NOSUID | linux.MS_NODEV)
            return
        except OSError as error:
            if error.errno != EBUSY or not left:
                raise
            sleep(_LOCK_PAUSE)


def _serve(layer: Layer, target: str, scratch: str, own: bool) -> tuple[str, int]:
    overlay = layer.overlay
    os.mkdir(target, 0o755)
    if overlay.filesystem == plan_records.SQUASHFS:
        pid, words = fuse.mount(layer.fd, overlay.offset, target, scratch, own)
        try:
            os.stat(target)  # waits for its first answer; overlayfs takes the mode it finds
        except OSError:
            raise fuse.failed(f"overlay {overlay.source}", words, pid, layer.fd, overlay.offset) from None
        os.close(words)
        return target, pid
    options, file = ("ro,fakeroot" if overlay.read_only else "fakeroot"), f"/proc/self/fd/{layer.fd}"
    if overlay.offset and os.path.exists(EXT_OFFSET_IN_NAME):
        file += f"?offset={overlay.offset}"  # ext2fs_open2() of libext2fs
    elif overlay.offset:
        options += f",offset={overlay.offset}"
    server, old = (EXT_2, scratch) if os.path.exists(EXT_2) else (EXT, "")
    try:
        pid = fuse.start(server, options, [file], target, (layer.fd,), overlay.read_only, old)
    except BollardError as error:
        raise BollardError(f"overlay {overlay.source}: {error}") from None
    try:
        os.stat(target)  # as above; without upper/ in the file, its top directory is merged
    except OSError as error:
        raise causes.of(error, f"overlay {overlay.source}", overlay.source, "is it damaged?") from None
    return target, pid


def _part(path: str, name: str, source: str) -> int:
    """Open the directory upper or work of a layer. Follows no symlink: it could lead to a directory of the host."""
    try:
        return os.open(f"{path}/{name}", os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except NotADirectoryError:
        raise BollardError(f"overlay {source}: its {name} is no directory", "make another one") from None
    except OSError as error:
        raise causes.of(error, f"overlay {source}: its {name}", source, "check its permissions") from None


def _refuse_others(upper: int, source: str) -> None:
    """Raise if the upper directory of an ext3 file belongs to an id that the container's user is not.

    The file has the numbers of its maker: root in the container (--fakeroot) and its user are two of them.
    """
    found = os.fstat(upper)
    if found.st_uid == os.getuid() or found.st_mode & 0o002:
        return
    if os.getuid() == 0:
        raise BollardError(
            f"overlay {source}: its files do not belong to root, which you are with --fakeroot",
            "leave --fakeroot out, or make one with `bollard overlay create --fakeroot FILE`",
        )
    raise BollardError(
        f"overlay {source}: its files do not belong to you, as those of `bollard overlay create --fakeroot`",
        "start the container with --fakeroot, or make one with `bollard overlay create FILE`",
    )


def _make(path: str, source: str) -> None:
    try:
        os.mkdir(path, 0o755)
    except FileExistsError:
        pass
    except OSError as error:
        owner = os.stat(os.path.dirname(path)).st_uid
        if error.errno in (EACCES, EPERM) and owner != os.getuid():
            raise BollardError(
                f"overlay {source}: its top directory belongs to another user, as mkfs.ext3 gives it to root",
                "`bollard overlay create FILE` makes one that belongs to you",
            ) from None
        raise causes.of(error, f"overlay {source}", source, "use one that you may write to") from None
