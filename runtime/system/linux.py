# SPDX-License-Identifier: BSD-3-Clause
"""System calls that Python's `os` lacks: one function per call. No other module makes system calls by cffi.

Every function raises OSError, with errno and the path or the call, if the kernel refuses. Needs Linux 5.12
(mount_setattr(2)).
"""

from __future__ import annotations

import os
import sys
import time
from errno import EAGAIN, EINTR, ELOOP, ENOENT, ENOTDIR

from bollard.runtime.system._linux import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# linux/mount.h, linux/openat2.h, linux/fcntl.h
OPEN_TREE_CLONE = 1
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
MOUNT_ATTR_RDONLY = 0x01
MOUNT_ATTR_NOSUID = 0x02
MOUNT_ATTR_NODEV = 0x04
MOUNT_ATTR_NOEXEC = 0x08
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_IN_ROOT = 0x10
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
# How long a look-up is repeated while mounts and renames on the machine disturb it.
DISTURBED_SECONDS = 10.0

MS_NOSUID: int = lib.MS_NOSUID
MS_NODEV: int = lib.MS_NODEV
MS_NOEXEC: int = lib.MS_NOEXEC
MS_RDONLY: int = lib.MS_RDONLY
MS_REMOUNT: int = lib.MS_REMOUNT


def _check(result: int, what: str) -> int:
    if result < 0:
        raise OSError(ffi.errno, os.strerror(ffi.errno), what)
    return result


def _tried_again(call: Callable[[], int], what: str) -> int:
    """Return the result of the look-up `call`. Repeats it while it fails with EAGAIN or EINTR.

    openat2(2) returns EAGAIN when a mount or a rename anywhere on the machine races with a ".." below a root.

    Raises:
        OSError: as `_check`; with EAGAIN and the reason in words after DISTURBED_SECONDS.
    """
    end = 0.0
    while (result := call()) < 0 and ffi.errno in (EAGAIN, EINTR):
        end = end or time.monotonic() + DISTURBED_SECONDS
        if time.monotonic() > end:
            reason = f"mounts or renames on this machine disturbed the look-up for {DISTURBED_SECONDS:.0f} s; try again"
            raise OSError(EAGAIN, reason, what)
    return _check(result, what)


def is_missing(error: OSError) -> bool:
    """Return whether a look-up failed because the path does not exist. A loop of symlinks counts as missing."""
    return error.errno in (ENOENT, ENOTDIR, ELOOP)


def new_user_namespace() -> None:
    """Move this process into a new user namespace, without id maps."""
    _check(lib.unshare(lib.CLONE_NEWUSER), "unshare(CLONE_NEWUSER)")


def join_user_namespace(fd: int) -> None:
    """Move this process into the user namespace `fd`, with all capabilities in it. The namespace must be its user's."""
    _check(lib.setns(fd, lib.CLONE_NEWUSER), "setns(CLONE_NEWUSER)")


def new_namespaces(names: tuple[str, ...]) -> None:
    """Move this process into new namespaces. `names` can be "net", "ipc" and "uts"."""
    flags = {"net": lib.CLONE_NEWNET, "ipc": lib.CLONE_NEWIPC, "uts": lib.CLONE_NEWUTS}
    for name in names:
        _check(lib.unshare(flags[name]), f"unshare(CLONE_NEW{name.upper()})")


def start_first(proc: str) -> int:
    """Start the first process of a new process namespace. Returns a descriptor of the namespace.

    The first process ends with this process. The namespace's /proc is mounted on the directory `proc`. The first
    process opens the descriptor, as a keeper that is not dumpable may not read /proc/PID/ns of a child (proc(5)).

    Raises:
        OSError: no namespace, or its /proc cannot be mounted.
    """
    from _socket import CMSG_SPACE, socketpair

    ours, its = socketpair()
    try:
        _check(lib.b_start_first(os.fsencode(proc), its.fileno()), "clone(CLONE_NEWPID)")
        its.close()
        answer, rights, _, _ = ours.recvmsg(1, CMSG_SPACE(4))
    finally:
        its.close()
        ours.close()
    if answer != b"\0" or not rights:
        number = answer[0] if answer else 0
        raise OSError(number, os.strerror(number) if number else "it ended", "a private /proc")
    fd = int.from_bytes(rights[0][2][:4], sys.byteorder)
    os.set_inheritable(fd, False)
    return fd


def bring_up(interface: str) -> None:
    """Set a network interface of this process's network namespace up (netdevice(7))."""
    from _socket import AF_INET, SOCK_DGRAM, socket
    from fcntl import ioctl

    up, get_flags, set_flags = 0x1, 0x8913, 0x8914
    handle = socket(AF_INET, SOCK_DGRAM)
    request = interface.encode().ljust(16, b"\0")
    now = ioctl(handle.fileno(), get_flags, request + bytes(24))
    flags = int.from_bytes(now[16:18], sys.byteorder) | up
    ioctl(handle.fileno(), set_flags, request + flags.to_bytes(2, sys.byteorder) + bytes(22))
    handle.close()


def new_mount_namespace() -> None:
    """Move this process into a new mount namespace.

    It gets new mounts of the host (autofs); the host gets none back (MS_SLAVE of mount_namespaces(7)).
    """
    _check(lib.unshare(lib.CLONE_NEWNS), "unshare(CLONE_NEWNS)")
    _check(lib.mount(ffi.NULL, b"/", ffi.NULL, lib.MS_REC | lib.MS_SLAVE, ffi.NULL), "mount(MS_SLAVE)")
    if root_is_initramfs():
        _cover_root()


def root_is_initramfs() -> bool:
    """Return whether "/" is the kernel's first root filesystem: a node that was booted with its image as initramfs.

    That mount alone is its own parent in /proc/self/mountinfo (proc(5)), and the first one there.
    """
    fd = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
    try:
        words = os.read(fd, 64).split(b" ", 2)
    finally:
        os.close(fd)
    return words[0] == words[1]


def _cover_root() -> None:
    """Mount a copy of the initramfs over it, and make that the root of this process.

    pivot_root(2) fails with EINVAL where the root is not mounted on anything, which is so of the initramfs alone. The
    copy must be recursive: the kernel does not show a user what mounts cover.
    """
    tree = clone_tree("/")
    try:
        root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            attach(tree, root)
        finally:
            os.close(root)
        os.fchdir(tree)
        os.chroot(".")
    finally:
        os.close(tree)


def new_process_namespaces() -> None:
    """Make new process and IPC namespaces.

    This process enters the IPC namespace. Its next child is process 1 of the process namespace (pid_namespaces(7)).
    """
    _check(lib.unshare(lib.CLONE_NEWPID | lib.CLONE_NEWIPC), "unshare(CLONE_NEWPID)")


def no_new_privileges() -> None:
    """Make setuid bits and file capabilities have no effect for all programs started from here on."""
    _check(lib.b_prctl(lib.PR_SET_NO_NEW_PRIVS, 1), "prctl(PR_SET_NO_NEW_PRIVS)")


def fake_ownership(devices_only: bool = False) -> None:
    """Let chown, setuid and similar calls, and mknod of devices, succeed without effect (seccomp(2), ownership.h).

    In a user namespace that maps one id they would fail. The filter cannot be removed, and every program started from
    here on has it. `devices_only` limits it to mknod of devices.
    """
    _check(lib.b_fake_ownership(devices_only, ffi.NULL, 0), "prctl(PR_SET_SECCOMP)")


def can_fake_ownership() -> bool:
    """Return whether the kernel has seccomp filters and ownership.h has a filter for this architecture."""
    return bool(lib.b_can_fake_ownership())


def leave_mount_namespace() -> None:
    """Move this process into a copy of its mount namespace. A pivot_root(2) in the old one then does not move it.

    A FUSE server needs this: if its own filesystem became its root, it would wait for itself when it opens a file.
    """
    _check(lib.unshare(lib.CLONE_NEWNS), "unshare(CLONE_NEWNS)")


def mount(kind: str, target: str, options: str, flags: int = 0) -> None:
    """Mount a new filesystem.

    kind     its type, for example tmpfs
    target   directory to mount it on
    options  its mount options
    flags    MS_* of mount(2)
    """
    fs = kind.encode()
    _check(lib.mount(fs, os.fsencode(target), fs, flags, os.fsencode(options)), f"mount of {kind} on {target}")


def remount_readonly(target: str, flags: int = 0) -> None:
    """Make the mount at `target` read-only, without the mounts below it. `flags` must repeat its MS_* flags."""
    flags |= lib.MS_REMOUNT | lib.MS_BIND | lib.MS_RDONLY
    _check(lib.mount(ffi.NULL, os.fsencode(target), ffi.NULL, flags, ffi.NULL), f"remount of {target}")


def set_bindable(target: str, on: bool) -> None:
    """Set whether a recursive clone of a parent mount contains the mount at `target` (MS_PRIVATE or MS_UNBINDABLE)."""
    flags = lib.MS_PRIVATE if on else lib.MS_UNBINDABLE
    _check(lib.mount(ffi.NULL, os.fsencode(target), ffi.NULL, flags, ffi.NULL), f"propagation of {target}")


def clone_tree(path: str, recursive: bool = True) -> int:
    """Return a descriptor of a detached copy of the mount at `path` (open_tree(2)). Follows symlinks.

    With `recursive`, the mounts below it are copied too.
    """
    flags = OPEN_TREE_CLONE | os.O_CLOEXEC | (AT_RECURSIVE if recursive else 0)
    return _tried_again(lambda: lib.b_open_tree(-100, os.fsencode(path), flags), path)


def clone_tree_at(fd: int) -> int:
    """Return a descriptor of a detached copy of the mount at the open descriptor `fd` (O_PATH is enough)."""
    return _check(lib.b_open_tree(fd, b"", OPEN_TREE_CLONE | os.O_CLOEXEC | AT_EMPTY_PATH), "open_tree")


def set_mount_flags(tree: int, attributes: int, recursive: bool = True) -> None:
    """Add MOUNT_ATTR_* to a detached tree. Flags that the host has set stay set, as the kernel locks them.

    tree        descriptor of the tree
    attributes  MOUNT_ATTR_* of mount_setattr(2)
    recursive   also for the mounts below it
    """
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    _check(lib.b_mount_setattr(tree, flags, attributes), "mount_setattr")


def attach(tree: int, target: int) -> None:
    """Mount a detached tree on the file or directory that is open at `target` (O_PATH)."""
    _check(lib.b_move_mount(tree, target), "move_mount")


def open_in_root(root: int, path: str, flags: int = os.O_PATH) -> int:
    """Return a descriptor of `path`, opened as if `root` were "/". No symlink and no ".." leads out (openat2(2)).

    root   descriptor of a directory
    path   path beneath it
    flags  O_* of open(2); O_CLOEXEC is added

    Raises:
        OSError: `path` cannot be opened; `is_missing` tells whether it does not exist.
    """
    name, resolve = os.fsencode(path), RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
    return _tried_again(lambda: lib.b_openat2(root, name, flags | os.O_CLOEXEC, resolve), path)


def lock_file(fd: int, exclusive: bool) -> None:
    """Lock the open file for as long as a copy of this descriptor is open.

    flock(2) lets anybody who can read a file keep its owner's readers from it. For this lock (fcntl(2), "Open file
    description locks") a file has to be open for writing to be locked by one process alone.

    Raises:
        BlockingIOError: another process has the lock.
    """
    import fcntl

    kind = fcntl.F_WRLCK if exclusive else fcntl.F_RDLCK
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, kind.to_bytes(2, sys.byteorder) + bytes(30))  # struct flock: the whole file
    except PermissionError as error:  # POSIX allows this answer too
        raise BlockingIOError(*error.args) from None


def exchange(one: str, other: str) -> None:
    """Exchange the names of two files or directories atomically (RENAME_EXCHANGE of renameat2(2))."""
    _check(lib.b_exchange(os.fsencode(one), os.fsencode(other)), f"exchange of {one} and {other}")


def change_root(new_root: str) -> None:
    """Make the mount at `new_root` the root of this mount namespace, and unmount the old root (pivot_root(2))."""
    os.chdir(new_root)
    _check(lib.b_pivot_root(b".", b"."), f"pivot_root({new_root})")
    _check(lib.umount2(b".", lib.MNT_DETACH), "umount of the host's root")
    os.chdir("/")


def unmount(path: str) -> None:
    """Take the mount at `path` out of this mount namespace. It ends when nobody uses it any more (MNT_DETACH)."""
    _check(lib.umount2(os.fsencode(path), lib.MNT_DETACH), f"umount of {path}")


def name_process(name: str) -> None:
    """Set the name of this process that ps(1) shows; the kernel keeps 15 bytes."""
    _check(lib.b_prctl_text(lib.PR_SET_NAME, name.encode()), "prctl(PR_SET_NAME)")


def own_proc_files() -> None:
    """Make the user the owner of /proc/self again. The kernel gives it to root when a process changes its user."""
    _check(lib.b_prctl(lib.PR_SET_DUMPABLE, 1), "prctl(PR_SET_DUMPABLE)")


def die_with_parent(signal: int, parent: int) -> None:
    """Let the kernel send `signal` to this process when its parent ends. Exits if `parent` has ended already."""
    _check(lib.b_prctl(lib.PR_SET_PDEATHSIG, signal), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        os._exit(1)


def close_others(keep: tuple[int, ...]) -> None:
    """Replace the standard streams by /dev/null, and close every other descriptor except `keep`."""
    null = os.open("/dev/null", os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    for fd in [int(name) for name in os.listdir("/proc/self/fd")]:
        if fd > 2 and fd not in keep:
            try:
                os.close(fd)
            except OSError:
                pass  # the descriptor by which os.listdir has read the directory


def adopt_orphans() -> None:
    """Make this process the parent of descendants whose parent ends (PR_SET_CHILD_SUBREAPER)."""
    _check(lib.b_prctl(PR_SET_CHILD_SUBREAPER, 1), "prctl(PR_SET_CHILD_SUBREAPER)")


def user_keyring() -> int:
    """Return the number of this user's keyring (user-keyring(7)): random, and told to this user and root alone."""
    return _check(lib.b_user_keyring(), "keyctl(KEYCTL_GET_KEYRING_ID)")


def use_capabilities(on: bool) -> None:
    """Turn this process's capabilities on or off.

    They are turned off before the keeper opens files of the user: with them it could open files whose mode denies
    access to the user.
    """
    _check(lib.b_use_capabilities(on), "capset")


def drop_capabilities() -> None:
    """Give up all capabilities for good, also those in this process's user namespace."""
    _check(lib.b_drop_capabilities(), "capset")


def be_no_root() -> None:
    """Keep capabilities from programs that this process executes as uid 0 (SECBIT_NOROOT of capabilities(7))."""
    _check(lib.b_prctl(lib.PR_SET_SECUREBITS, lib.SECBIT_NOROOT), "prctl(PR_SET_SECUREBITS)")
