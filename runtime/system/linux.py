# SPDX-License-Identifier: BSD-3-Clause
"""The kernel, called in this file only (past what `os` has): one function per call.

A failure is an `OSError` that carries errno and the path or the call. Needs Linux 5.12 (mount_setattr(2)).
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
# How long a look-up is tried again while mounts and renames on the machine disturb it.
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
    """The result of the look-up `call`, which is repeated while the kernel's answer means "try again".

    openat2(2) returns EAGAIN when a mount or a rename anywhere on the machine races with a ".." below a root.
    Raises: OSError as `_check` does; with EAGAIN, and the reason in words, after DISTURBED_SECONDS.
    """
    end = 0.0
    while (result := call()) < 0 and ffi.errno in (EAGAIN, EINTR):
        end = end or time.monotonic() + DISTURBED_SECONDS
        if time.monotonic() > end:
            reason = f"mounts or renames on this machine disturbed the look-up for {DISTURBED_SECONDS:.0f} s; try again"
            raise OSError(EAGAIN, reason, what)
    return _check(result, what)


def is_missing(error: OSError) -> bool:
    """Whether a look-up failed because nothing has that name. A link that leads round in a circle names nothing."""
    return error.errno in (ENOENT, ENOTDIR, ELOOP)


def new_user_namespace() -> None:
    _check(lib.unshare(lib.CLONE_NEWUSER), "unshare(CLONE_NEWUSER)")


def new_namespaces(names: tuple[str, ...]) -> None:
    """Namespaces of our own besides the mount namespace: "net", "ipc", "uts"."""
    flags = {"net": lib.CLONE_NEWNET, "ipc": lib.CLONE_NEWIPC, "uts": lib.CLONE_NEWUTS}
    for name in names:
        _check(lib.unshare(flags[name]), f"unshare(CLONE_NEW{name.upper()})")


def start_first(proc: str) -> int:
    """Start the first process of a new PID namespace, which ends with this process; a descriptor of the namespace.
    The namespace's /proc is then mounted on the directory `proc`.

    The first process opens the descriptor: a keeper that is not dumpable may not look into /proc/PID/ns of a child.
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
    """Set a network interface of our own network namespace up (netdevice(7))."""
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
    """A mount namespace of our own that hears of the host's new mounts (autofs) and tells it of none."""
    _check(lib.unshare(lib.CLONE_NEWNS), "unshare(CLONE_NEWNS)")
    _check(lib.mount(ffi.NULL, b"/", ffi.NULL, lib.MS_REC | lib.MS_SLAVE, ffi.NULL), "mount(MS_SLAVE)")


def new_process_namespaces() -> None:
    """Children of this process get process ids and System V IPC of their own; the first is process 1."""
    _check(lib.unshare(lib.CLONE_NEWPID | lib.CLONE_NEWIPC), "unshare(CLONE_NEWPID)")


def no_new_privileges() -> None:
    """No program started from here on gains anything by its setuid bit or file capabilities."""
    _check(lib.b_prctl(lib.PR_SET_NO_NEW_PRIVS, 1), "prctl(PR_SET_NO_NEW_PRIVS)")


def fake_ownership(devices_only: bool = False) -> None:
    """From here on chown, setuid and their kin, and mknod of devices succeed without doing anything: in a
    namespace that knows one id they would fail. For good, and for every program started from here."""
    _check(lib.b_fake_ownership(devices_only, ffi.NULL, 0), "prctl(PR_SET_SECCOMP)")


def can_fake_ownership() -> bool:
    """Whether the kernel has seccomp filters, and this program one for the machine."""
    return bool(lib.b_can_fake_ownership())


def leave_mount_namespace() -> None:
    """A copy of the mount namespace as it stands: a pivot_root in the old one does not move this process. A FUSE
    server inside of what it serves would wait for itself when it opens a file there."""
    _check(lib.unshare(lib.CLONE_NEWNS), "unshare(CLONE_NEWNS)")


def mount(kind: str, target: str, options: str, flags: int = 0) -> None:
    """A new filesystem of type `kind` on the directory `target`."""
    fs = kind.encode()
    _check(lib.mount(fs, os.fsencode(target), fs, flags, os.fsencode(options)), f"mount of {kind} on {target}")


def remount_readonly(target: str, flags: int = 0) -> None:
    """Make the one mount at `target` read-only; the flags it was mounted with must be given again."""
    flags |= lib.MS_REMOUNT | lib.MS_BIND | lib.MS_RDONLY
    _check(lib.mount(ffi.NULL, os.fsencode(target), ffi.NULL, flags, ffi.NULL), f"remount of {target}")


def set_bindable(target: str, on: bool) -> None:
    """Let recursive clones of what is around the mount at `target` have it and all below it, or leave it out."""
    flags = lib.MS_PRIVATE if on else lib.MS_UNBINDABLE
    _check(lib.mount(ffi.NULL, os.fsencode(target), ffi.NULL, flags, ffi.NULL), f"propagation of {target}")


def clone_tree(path: str, recursive: bool = True) -> int:
    """A detached copy of the mounts at `path` of the host, symlinks followed, as a descriptor."""
    flags = OPEN_TREE_CLONE | os.O_CLOEXEC | (AT_RECURSIVE if recursive else 0)
    return _tried_again(lambda: lib.b_open_tree(-100, os.fsencode(path), flags), path)


def clone_tree_at(fd: int) -> int:
    """The same for an open descriptor (O_PATH will do)."""
    return _check(lib.b_open_tree(fd, b"", OPEN_TREE_CLONE | os.O_CLOEXEC | AT_EMPTY_PATH), "open_tree")


def set_mount_flags(tree: int, attributes: int, recursive: bool = True) -> None:
    """Add MOUNT_ATTR_* to a detached tree. What the host set stays set: such flags are locked."""
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    _check(lib.b_mount_setattr(tree, flags, attributes), "mount_setattr")


def attach(tree: int, target: int) -> None:
    """Put a detached tree on the file or directory open at `target` (O_PATH)."""
    _check(lib.b_move_mount(tree, target), "move_mount")


def open_in_root(root: int, path: str, flags: int = os.O_PATH) -> int:
    """Open `path` as if `root` were "/": no symlink and no ".." leads out of it (openat2(2)).

    Raises: OSError; `is_missing` tells whether there is nothing at `path`.
    """
    name, resolve = os.fsencode(path), RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
    return _tried_again(lambda: lib.b_openat2(root, name, flags | os.O_CLOEXEC, resolve), path)


def lock_file(fd: int, exclusive: bool) -> None:
    """Lock the open file for as long as a copy of this descriptor is open.

    Raises: BlockingIOError where another has it.

    flock(2) lets anybody who can read a file keep its owner's readers from it. For this lock (fcntl(2), "Open file
    description locks") a file has to be open for writing to be locked by one process alone.
    """
    import fcntl

    kind = fcntl.F_WRLCK if exclusive else fcntl.F_RDLCK
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, kind.to_bytes(2, sys.byteorder) + bytes(30))  # struct flock: the whole file
    except PermissionError as error:  # POSIX allows this answer too
        raise BlockingIOError(*error.args) from None


def exchange(one: str, other: str) -> None:
    """Give two files or directories each other's name, at one moment (renameat2(2))."""
    _check(lib.b_exchange(os.fsencode(one), os.fsencode(other)), f"exchange of {one} and {other}")


def change_root(new_root: str) -> None:
    """Make the mount at `new_root` the root of this mount namespace and let go of the old one."""
    os.chdir(new_root)
    _check(lib.b_pivot_root(b".", b"."), f"pivot_root({new_root})")
    _check(lib.umount2(b".", lib.MNT_DETACH), "umount of the host's root")
    os.chdir("/")


def name_process(name: str) -> None:
    _check(lib.b_prctl_text(lib.PR_SET_NAME, name.encode()), "prctl(PR_SET_NAME)")


def own_proc_files() -> None:
    """Make /proc/self ours again, which the kernel gives to root when a process changes its user."""
    _check(lib.b_prctl(lib.PR_SET_DUMPABLE, 1), "prctl(PR_SET_DUMPABLE)")


def die_with_parent(signal: int, parent: int) -> None:
    """Ask for `signal` when the process `parent`, which forked us, ends; it may have ended already."""
    _check(lib.b_prctl(lib.PR_SET_PDEATHSIG, signal), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        os._exit(1)


def close_others(keep: tuple[int, ...]) -> None:
    """Standard streams become /dev/null; every other descriptor but `keep` is closed."""
    null = os.open("/dev/null", os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    for fd in [int(name) for name in os.listdir("/proc/self/fd")]:
        if fd > 2 and fd not in keep:
            try:
                os.close(fd)
            except OSError:
                pass  # the one that read the directory


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends (PR_SET_CHILD_SUBREAPER)."""
    _check(lib.b_prctl(PR_SET_CHILD_SUBREAPER, 1), "prctl(PR_SET_CHILD_SUBREAPER)")


def use_capabilities(on: bool) -> None:
    """Use those we have over our own namespaces, or do without for a while: they would also open files that
    belong to the user but are closed to him."""
    _check(lib.b_use_capabilities(on), "capset")


def drop_capabilities() -> None:
    """Give up every capability, also those over our own namespaces."""
    _check(lib.b_drop_capabilities(), "capset")


def be_no_root() -> None:
    """The programs that this process becomes get no capability for their user being 0 in our namespace."""
    _check(lib.b_prctl(lib.PR_SET_SECUREBITS, lib.SECBIT_NOROOT), "prctl(PR_SET_SECUREBITS)")
