# SPDX-License-Identifier: BSD-3-Clause
"""Test by trying what the kernel lets an unprivileged user do. Each test runs in a child, in namespaces of its own."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable

from bollard.runtime.causes import one_line
from bollard.runtime.errors import BollardError
from bollard.runtime.system import identity, linux

# The child mounts a tmpfs here, in its own mount namespace.
_PLACE = "/tmp"
_SECONDS = 20
# The user id that root takes on, so that the tests have no more rights than a user.
NOBODY = 65534


def attempt(probe: Callable[[], str], seconds: float = _SECONDS) -> tuple[bool, str]:
    """Run `probe` in a child that is not root. Returns (whether it succeeded, its result or the error).

    The child is killed after `seconds`.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            become_user()
            os.write(writer, b"+" + probe().encode())
        except BaseException as error:  # noqa: BLE001 - it is the result
            os.write(writer, b"-" + _words(error).encode("utf-8", "replace"))
        finally:
            os._exit(0)
    os.close(writer)
    ready = select.select([reader], [], [], seconds)[0]
    said = os.read(reader, 4096).decode() if ready else ""
    if not ready:
        os.kill(child, signal.SIGKILL)
    os.close(reader)
    os.waitpid(child, 0)
    if not said:
        return False, f"no answer within {seconds:.0f} s" if not ready else "the attempt was killed"
    return said[0] == "+", said[1:]


def _words(error: BaseException) -> str:
    if isinstance(error, OSError):
        return f"{error.filename or 'system call'}: {error.strerror}"
    return error.message if isinstance(error, BollardError) else one_line(error)  # the hint is the check's to give


def become_user() -> None:
    """Change from root to nobody, for good; does nothing for other users."""
    if os.geteuid() == 0:
        os.chdir("/")
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        linux.own_proc_files()


def user_namespace() -> str:
    """Move this process to a new user namespace. Returns the text of the finding."""
    identity.new_namespace(False)
    return "one was made"


def _enter() -> None:
    user_namespace()
    linux.new_mount_namespace()
    linux.mount("tmpfs", _PLACE, "mode=0755,size=1m", linux.MS_NOSUID | linux.MS_NODEV)


def mount_calls() -> str:
    """Try open_tree, mount_setattr, move_mount and openat2 as the keeper uses them; returns the finding's text.

    Raises:
        OSError: a call failed, or the mount is not read-only.
    """
    _enter()
    os.mkdir(f"{_PLACE}/etc")
    tree = linux.clone_tree("/etc")
    linux.set_mount_flags(tree, linux.MOUNT_ATTR_RDONLY | linux.MOUNT_ATTR_NOSUID | linux.MOUNT_ATTR_NODEV)
    root = os.open(_PLACE, os.O_PATH | os.O_DIRECTORY)
    linux.attach(tree, linux.open_in_root(root, "/etc"))
    if os.statvfs(f"{_PLACE}/etc").f_flag & os.ST_RDONLY == 0:
        raise OSError(0, "the mount is not read-only", "mount_setattr")
    return "a tree was cloned, made read-only and mounted"


def fuse() -> str:
    """Mount FUSE without a server; returns the finding's text. The check of a container has a server too."""
    _enter()
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)  # opened in this user namespace, as the kernel requires
    os.mkdir(f"{_PLACE}/fuse")
    options = f"fd={device},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}"
    linux.mount("fuse.bollard", f"{_PLACE}/fuse", options, linux.MS_NOSUID | linux.MS_NODEV)
    return "mounted in a namespace"


def overlay() -> str:
    """Mount an overlay with userxattr and write to it; returns the finding's text.

    Raises:
        OSError: the mount failed, or the written text did not arrive.
    """
    _enter()
    for name in ("lower", "upper", "work", "merged"):
        os.mkdir(f"{_PLACE}/{name}", 0o755)
    with open(f"{_PLACE}/lower/a", "w") as file:
        file.write("lower")
    options = f"lowerdir={_PLACE}/lower,upperdir={_PLACE}/upper,workdir={_PLACE}/work,userxattr"
    linux.mount("overlay", f"{_PLACE}/merged", options, linux.MS_NOSUID | linux.MS_NODEV)
    with open(f"{_PLACE}/merged/a", "a") as file:
        file.write(" upper")
    with open(f"{_PLACE}/upper/a") as file:
        if file.read() != "lower upper":
            raise OSError(0, "what was written did not arrive", "overlay")
    return "mounted and written to"
