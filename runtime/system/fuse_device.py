# SPDX-License-Identifier: BSD-3-Clause
"""Mount the kernel's side of a FUSE filesystem. A server then gets the descriptor as "/dev/fd/N".

This needs neither fusermount nor a privilege of the host, only a user namespace.
"""

from __future__ import annotations

import os
from errno import EACCES, EISDIR, ELOOP, EPERM

from bollard.runtime import causes
from bollard.runtime.errors import BollardError
from bollard.runtime.system import linux

_DEVICE = (10, 229)  # Documentation/admin-guide/devices.txt of the kernel
_LOAD = "the site's administrator should load the kernel module fuse"
_MAKE = "the site's administrator should make it again: `rm -r /dev/fuse; mknod -m 666 /dev/fuse c 10 229`"
_CURES = {
    EACCES: "the site's administrator should give it the mode 0666",
    EPERM: "the job's device control group does not allow it; the site's administrator should see cgroup.conf",
}


def mount(kind: str, target: str, flags: int) -> int:
    """Mount a FUSE filesystem on `target`. Returns the descriptor of /dev/fuse for its server.

    kind    name of the server, which /proc/self/mountinfo shows as fuse.KIND
    target  a directory
    flags   MS_* besides nosuid and nodev

    Raises:
        BollardError: /dev/fuse cannot be used.
        OSError: the kernel refuses the mount.
    """
    try:
        device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (EISDIR, ELOOP):
            raise BollardError("/dev/fuse is not the FUSE device, 10:229", _MAKE) from None
        raise causes.of(error, "/dev/fuse", "", _CURES.get(error.errno or 0, _LOAD)) from None
    number = os.fstat(device).st_rdev
    if (os.major(number), os.minor(number)) != _DEVICE:
        raise BollardError("/dev/fuse is not the FUSE device, 10:229", _MAKE)
    options = f"fd={device},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}"
    linux.mount(f"fuse.{kind}", target, options, linux.MS_NOSUID | linux.MS_NODEV | flags)
    return device
