# SPDX-License-Identifier: BSD-3-Clause
"""Checks of the node itself: kernel, namespaces, security modules, mounts, C library, control groups."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from pathlib import Path

from bollard.runtime.system import linux
from bollard.spank_plugin import probes
from bollard.spank_plugin.finding import FAILURE, OK, WARNING, Finding, Found
from bollard.spank_plugin.installation import Where

# The first release with mount_setattr(2).
KERNEL = (5, 12)
RESTRICTION = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"
_NAMESPACES = (
    "user.max_user_namespaces",
    "user.max_mnt_namespaces",
    "kernel.unprivileged_userns_clone",
    "kernel.apparmor_restrict_unprivileged_userns",
)


def numbers(text: str) -> tuple[int, ...]:
    """The first version number in `text`: (22, 5, 8) for "slurm 22.05.8"; () for none."""
    found = re.search(r"\d+(?:\.\d+)+", text)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def kernel(where: Where) -> Found:
    """Yield whether its release is new enough."""
    release = os.uname().release
    if numbers(release)[:2] < KERNEL:
        have = "EL 9, SUSE 15 SP4, Debian 12 and Ubuntu 22.04 have one"
        yield Finding("kernel", FAILURE, f"Linux {release}", f"run Linux {KERNEL[0]}.{KERNEL[1]} or later: {have}")
    else:
        yield Finding("kernel", OK, f"Linux {release}")


def attempt(what: str, probe: Callable[[], str], fix: str) -> Found:
    """Yield the finding of `probe`, a function that returns text or raises; `fix` for a failure."""
    worked, text = probes.attempt(probe)
    yield Finding(what, OK if worked else FAILURE, text, "" if worked else fix)


def root_filesystem(where: Where) -> Found:
    """Yield a warning if "/" is the initramfs, as on a stateless node that was booted without a switch of the root."""
    if linux.root_is_initramfs():
        text = "the initramfs, whose memory is never given back; containers are made on a copy of that mount"
        yield Finding("root filesystem", WARNING, text, "boot with a tmpfs: wwctl profile set default --root=tmpfs")


def user_namespaces(where: Where) -> Found:
    """Yield whether a user can make one."""
    settings = []
    for name in _NAMESPACES:
        path = Path("/proc/sys", *name.split("."))
        if path.exists():
            settings.append(f"{name}={path.read_text().strip()}")
    worked, text = probes.attempt(probes.user_namespace)
    if worked:
        yield Finding("user namespaces", OK, text)
        return
    yield Finding(
        "user namespaces",
        FAILURE,
        f"{text} ({', '.join(settings)})",
        "sysctl -w user.max_user_namespaces=65536, kernel.unprivileged_userns_clone=1 or "
        "kernel.apparmor_restrict_unprivileged_userns=0, whichever this kernel has",
    )


def restricting_apparmor(where: Where) -> Found:
    """Yield whether AppArmor takes the rights of a user's namespace away."""
    try:
        restricted = Path(RESTRICTION).read_text().strip() != "0"
    except OSError:
        return  # this kernel does not restrict
    # Ubuntu lets everybody make the namespace, and takes all rights in it.
    finding = apparmor(restricted, probes.attempt(probes.mount_calls)[0])
    if finding:
        yield finding


def apparmor(restricted: bool, worked: bool) -> Finding:
    """The finding on AppArmor.

    restricted: whether kernel.apparmor_restrict_unprivileged_userns is set.
    worked: whether a mount in a user namespace was possible: a profile allows it then.
    """
    if not restricted:
        return Finding("AppArmor", OK, "does not restrict user namespaces")
    if worked:
        return Finding("AppArmor", OK, "restricts user namespaces, and a profile allows them here")
    text = "kernel.apparmor_restrict_unprivileged_userns=1: a user's namespace has no rights"
    fix = "install contrib/apparmor/bollard as /etc/apparmor.d/bollard, and run apparmor_parser -r on it"
    return Finding("AppArmor", FAILURE, text, fix)


def selinux(where: Where) -> Found:
    """Yield whether it is enforcing."""
    try:
        enforcing = Path("/sys/fs/selinux/enforce").read_text().strip() == "1"
    except OSError:
        return  # no SELinux
    yield Finding("SELinux", OK, "enforcing" if enforcing else "permissive")


def mounts(where: Where) -> Found:
    """Yield the calls that a container needs."""
    if numbers(os.uname().release)[:2] < KERNEL:
        return  # one line tells that the kernel is too old
    yield from attempt("mounts", probes.mount_calls, f"run Linux {KERNEL[0]}.{KERNEL[1]} or later, and see above")
    yield from attempt("FUSE", probes.fuse, fuse_fix("/dev/fuse"))
    yield from attempt("overlay", probes.overlay, "modprobe overlay; run Linux 5.11 or later")


def fuse_fix(path: str) -> str:
    """The command that mends the device of FUSE at `path`."""
    try:
        found = os.stat(path)
    except OSError:
        return "modprobe fuse"
    if not stat.S_ISCHR(found.st_mode) or found.st_rdev != os.makedev(10, 229):
        return f"rm {path}; mknod -m 666 {path} c 10 229"
    return "modprobe fuse" if found.st_mode & 0o666 == 0o666 else f"chmod 666 {path}"


def c_library(where: Where) -> Found:
    """Yield its version."""
    try:
        yield Finding("C library", OK, os.confstr("CS_GNU_LIBC_VERSION") or "unknown")
    except ValueError:
        yield Finding("C library", WARNING, "not glibc", "nothing: but nobody has tested this one")


def cgroups(where: Where) -> Found:
    """Yield which are mounted."""
    top = Path("/sys/fs/cgroup")
    if (top / "cgroup.controllers").exists():
        yield Finding("cgroups", OK, "version 2")
    elif top.is_dir() and (found := sorted(path.name for path in top.iterdir())):
        yield Finding("cgroups", OK, f"version 1 ({', '.join(found)})")
    else:
        yield Finding("cgroups", WARNING, "none are mounted", "mount them, so that Slurm can end all of a job")


CHECKS: tuple[Callable[[Where], Found], ...] = (
    kernel,
    root_filesystem,
    user_namespaces,
    restricting_apparmor,
    selinux,
    mounts,
    c_library,
    cgroups,
)
