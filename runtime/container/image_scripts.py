# SPDX-License-Identifier: BSD-3-Clause
"""Small files of the image that say how its tasks start: environment scripts, locales, enroot's files."""

from __future__ import annotations

import os

from bollard.runtime.container import enroot, locales
from bollard.runtime.errors import BollardError
from bollard.runtime.request import plan_records
from bollard.runtime.system import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bollard.runtime.container.container import Container

# The directory of the image's environment scripts, and the largest number of scripts.
SCRIPTS = "/.singularity.d/env"
SCRIPTS_MAX = 64
# The largest size in bytes of an environment script, of /etc/passwd and of /etc/group.
FILE_MAX = 1 << 20
# How many mounts of an image's fstab one line names.
_TOLD_TARGETS = 5
_S_IFMT = 0o170000  # sys/stat.h
_S_IFREG = 0o100000


def read(root: int, path: str) -> bytes:
    """Return the content of a small file of the image; b"" if it is missing or not a regular file.

    Raises:
        BollardError: the file has more than FILE_MAX bytes.
    """
    try:
        fd = linux.open_in_root(root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        if linux.is_missing(error) or not _is_file(root, path):
            return b""
        raise
    try:
        info = os.fstat(fd)
        if info.st_mode & _S_IFMT != _S_IFREG:
            return b""
        if info.st_size > FILE_MAX:
            raise BollardError(
                f"{path} in the image has {info.st_size} bytes, over {FILE_MAX}", "is it what it should be?"
            )
        return os.read(fd, FILE_MAX)
    finally:
        os.close(fd)


def _is_file(root: int, path: str) -> bool:
    """Return whether `path` is a regular file. Opens it with O_PATH: a socket or a device cannot be opened to read."""
    fd = linux.open_in_root(root, path)
    try:
        return os.fstat(fd).st_mode & _S_IFMT == _S_IFREG
    finally:
        os.close(fd)


def available_locales() -> frozenset[bytes] | None:
    """Return the locales of the container (locales.available). "/" must be the container's root."""
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return locales.available(root)
    finally:
        os.close(root)


def scripts() -> list[tuple[str, bytes]]:
    """Return the image's environment scripts as (file name, text), sorted by name. "/" must be the container's root.

    Raises:
        BollardError: there are more than SCRIPTS_MAX scripts, or one has more than FILE_MAX bytes.
    """
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        names = sorted(name for name in os.listdir(SCRIPTS) if name.endswith(".sh"))
        if len(names) > SCRIPTS_MAX:
            raise BollardError(
                f"the image has {len(names)} environment scripts, over {SCRIPTS_MAX}", f"look at {SCRIPTS}"
            )
        return [(name, read(root, f"{SCRIPTS}/{name}")) for name in names]
    except OSError as error:
        if not linux.is_missing(error):
            raise
        old = read(root, "/environment")  # Singularity before 2.3
        if not old and enroot.is_layout(read(root, enroot.RC)):
            old = enroot.script(read(root, enroot.ENVIRONMENT))
        return [("environment", old)] if old else []
    finally:
        os.close(root)


def enroot_rc() -> bytes:
    """Return the text of /etc/rc of an image in enroot's layout, else b"". "/" must be the container's root.

    Raises:
        BollardError: the file has more than FILE_MAX bytes.
    """
    if os.path.isdir("/.singularity.d"):
        return b""
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        text = read(root, enroot.RC)
    finally:
        os.close(root)
    return text if enroot.is_layout(text) else b""


def unmade_mounts(container: Container) -> list[str]:
    """Return the warning about mounts in the fstab of an image in enroot's layout, if the container lacks them.

    Raises:
        BollardError: the fstab has more than FILE_MAX bytes.
    """
    if not container.rc:
        return []
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        targets = enroot.mount_targets(read(root, enroot.FSTAB))
    finally:
        os.close(root)
    there = {mount.target for mount in container.plan.mounts}
    lacking = [target for target in targets if plan_records.tidy(target) not in there]
    if not lacking:
        return []
    names = ", ".join(lacking[:_TOLD_TARGETS]) + (", ..." if len(lacking) > _TOLD_TARGETS else "")
    return [f"{container.spec.asked}: mounts of its {enroot.FSTAB} are not made: {names}; use --container-mounts"]
