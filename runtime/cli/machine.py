# SPDX-License-Identifier: BSD-3-Clause
"""The checks of `bollard doctor`: what this machine lacks for containers that are started by hand.

What the kernel allows is tried, as a user without privileges. Each cure is a command for the distribution of this
machine; where the distribution is unknown, there is one for each family.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING, NamedTuple

from bollard.runtime import installed
from bollard.runtime.system import identity
from bollard.spank_plugin import host_check, probes
from bollard.spank_plugin.finding import FAILURE, OK, WARNING, Finding

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

DEBIAN, FEDORA, SUSE = "debian", "fedora", "suse"
_SECONDS = 30
# With fewer subordinate ids, a distribution's packages cannot be installed in a build.
_ENOUGH_IDS = 65536
_INSTALL = {DEBIAN: "apt-get install", FEDORA: "dnf install", SUSE: "zypper install"}
_FUSE = "modprobe fuse; chmod 666 /dev/fuse; echo fuse > /etc/modules-load.d/fuse.conf"
_EPEL = " (from EPEL on EL: first `dnf install epel-release`)"


class Program(NamedTuple):
    """A program of the host: its check, its names, its packages by family, what does not work without it."""

    check: str
    names: tuple[str, ...]
    packages: dict[str, str]
    without: str


_PROGRAMS = (
    Program(
        "mksquashfs",
        ("mksquashfs",),
        {DEBIAN: "squashfs-tools", FEDORA: "squashfs-tools", SUSE: "squashfs"},
        "no image can be built, and none of docker:// be converted",
    ),
    Program(
        "skopeo",
        ("skopeo",),
        dict.fromkeys((DEBIAN, FEDORA, SUSE), "skopeo"),
        "images of docker:// and of OCI archives cannot be fetched",
    ),
    Program(
        "newuidmap",
        ("newuidmap", "newgidmap"),
        {DEBIAN: "uidmap", FEDORA: "shadow-utils", SUSE: "shadow"},
        "builds cannot have more than one user id; packages that change owners are built by a filter of system calls",
    ),
    Program(
        "fuse2fs",
        ("fuse2fs",),
        dict.fromkeys((DEBIAN, FEDORA, SUSE), "fuse2fs"),
        "overlay files and ext3 images cannot be mounted",
    ),
    Program(
        "gpgv",
        ("gpgv",),
        {DEBIAN: "gpgv gpg", FEDORA: "gnupg2", SUSE: "gpg2"},
        "PGP signatures cannot be verified",
    ),
    Program(
        "gocryptfs",
        ("gocryptfs",),
        {DEBIAN: "gocryptfs", FEDORA: f"gocryptfs{_EPEL}", SUSE: "gocryptfs"},
        "encrypted images cannot be built or run",
    ),
)


def family(release: Mapping[str, str]) -> str:
    """Return DEBIAN, FEDORA or SUSE, or "" for another distribution. `release` has the keys of os-release(5)."""
    words = [release.get("ID", ""), *release.get("ID_LIKE", "").split()]
    for known, names in (
        (DEBIAN, ("debian", "ubuntu")),
        (FEDORA, ("fedora", "rhel", "centos", "rocky", "almalinux")),
        (SUSE, ("suse", "opensuse", "sles", "opensuse-leap", "opensuse-tumbleweed")),
    ):
        if set(words).intersection(names):
            return known
    return ""


def os_release(text: str) -> dict[str, str]:
    """Return the variables of an os-release(5) file, without quotes."""
    pairs = (line.partition("=") for line in text.splitlines() if not line.startswith("#"))
    return {name.strip(): value.strip().strip("\"'") for name, equals, value in pairs if equals}


def install(packages: Mapping[str, str], kind: str) -> str:
    """Return the command that installs a package, for the family `kind`; for all families if it is ""."""
    return " or ".join(f"`{_INSTALL[name]} {packages[name]}`" for name in _INSTALL if kind in ("", name))


def findings() -> Iterator[Finding]:
    """Yield every finding about this machine. A cause comes before its effects."""
    kind = _kind()
    yield from _kernel(kind)
    yield from _namespaces()
    squashfuse = _squashfuse(kind)
    yield squashfuse
    yield from map(_program, _PROGRAMS, [kind] * len(_PROGRAMS))
    yield _subordinate()
    if squashfuse.state == OK:
        yield from _container()


def _kind() -> str:
    for path in ("/etc/os-release", "/usr/lib/os-release"):
        try:
            with open(path, errors="replace") as file:
                return family(os_release(file.read(1 << 16)))
        except OSError:
            continue  # the second path is for when the first is missing; without both the family is unknown
    return ""


def _kernel(kind: str) -> Iterator[Finding]:
    release = os.uname().release
    if host_check.numbers(release)[:2] < host_check.KERNEL:
        cures = {
            DEBIAN: "upgrade to Debian 12 or Ubuntu 22.04, or on Debian 11 install linux-image-amd64 of backports",
            FEDORA: "upgrade to EL 9 or a supported Fedora",
            SUSE: "upgrade to SUSE 15 SP4",
        }
        least = ".".join(map(str, host_check.KERNEL))
        text = f"Linux {release} is older than {least}, which has mount_setattr(2)"
        yield Finding("kernel", FAILURE, text, cures.get(kind, "; ".join(cures.values())))
    else:
        yield Finding("kernel", OK, f"Linux {release}")


def _setting(name: str) -> str:
    """Return the value of a kernel setting; "" if this kernel does not have it."""
    try:
        with open(f"/proc/sys/{name.replace('.', '/')}") as file:
            return file.read().strip()
    except OSError:
        return ""  # most kernels lack most of these settings


def restriction(read: Mapping[str, str]) -> tuple[str, str]:
    """Return what restricts user namespaces, and the command that lifts it; ("", "") for no known cause.

    read: kernel setting -> value, "" for those that this kernel lacks.
    """
    for name in ("user.max_user_namespaces", "user.max_mnt_namespaces"):
        if read.get(name) == "0":
            return f"{name}=0", _sysctl(f"{name}=65536")
    if read.get("kernel.unprivileged_userns_clone") == "0":
        return "kernel.unprivileged_userns_clone=0", _sysctl("kernel.unprivileged_userns_clone=1")
    if read.get("kernel.apparmor_restrict_unprivileged_userns") == "1":
        return (
            "AppArmor takes the rights of users' namespaces away (kernel.apparmor_restrict_unprivileged_userns=1)",
            "install contrib/apparmor/bollard of the sources as /etc/apparmor.d/bollard, with the path of this command "
            f"added, then `apparmor_parser -r /etc/apparmor.d/bollard`; or, for all programs, "
            f"{_sysctl('kernel.apparmor_restrict_unprivileged_userns=0')}",
        )
    return "", ""


def _sysctl(setting: str) -> str:
    return f"`echo {setting} > /etc/sysctl.d/90-bollard.conf; sysctl -p /etc/sysctl.d/90-bollard.conf`"


def _namespaces() -> Iterator[Finding]:
    names = (
        "user.max_user_namespaces",
        "user.max_mnt_namespaces",
        "kernel.unprivileged_userns_clone",
        "kernel.apparmor_restrict_unprivileged_userns",
    )
    cause, cure = restriction({name: _setting(name) for name in names})
    unknown = "in a container of docker or podman, start that one with --privileged; else ask who runs this machine"
    made, text = probes.attempt(probes.user_namespace)
    if not made:
        yield Finding("user namespaces", FAILURE, f"{text}: {cause}" if cause else text, cure or unknown)
        return
    mounts, text = probes.attempt(probes.mount_calls)
    # Ubuntu lets everybody make the namespace, and takes all rights in it: then mounts fail.
    if not mounts and cause:
        yield Finding("user namespaces", FAILURE, cause, cure)
        return
    yield Finding("user namespaces", OK, "one was made")
    if not mounts:
        yield Finding("mounts", FAILURE, text, unknown)
        return
    yield Finding("mounts", OK, text)
    works, text = probes.attempt(probes.fuse)
    yield _result("FUSE", works, text, f"`{_FUSE}`")
    works, text = probes.attempt(probes.overlay)
    yield _result("overlay", works, text, "`modprobe overlay`; Linux 5.11 has it for users")


def _result(name: str, works: bool, text: str, cure: str) -> Finding:
    return Finding(name, OK if works else FAILURE, text, "" if works else cure)


def _squashfuse(kind: str) -> Finding:
    if installed.BY_PIP:
        from bollard.runtime.local import host_programs

        host_programs.use()
    servers = [path for path in (installed.SERVER, installed.SERVER_2) if path and os.path.exists(path)]
    if servers:
        return Finding("squashfuse", OK, servers[0])
    if not installed.BY_PIP:
        cure = "as root: `bollard site install`; `bollard site check` tells more"
        return Finding("squashfuse", FAILURE, installed.NO_SERVER[0], cure)
    packages = {DEBIAN: "squashfuse", FEDORA: f"squashfuse{_EPEL}", SUSE: "squashfuse"}
    return Finding("squashfuse", FAILURE, "it is missing: images cannot be mounted", install(packages, kind))


def _program(program: Program, kind: str) -> Finding:
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    found = [shutil.which(name, path=path) for name in program.names]
    missing = [name for name, place in zip(program.names, found) if not place]
    if missing:
        text = f"{' and '.join(missing)} missing: {program.without}"
        return Finding(program.check, WARNING, text, install(program.packages, kind))
    return Finding(program.check, OK, found[0] or "")


def subordinate_ids(text: str, user: str, number: int) -> int:
    """Return how many ids /etc/subuid or /etc/subgid gives to a user: those of the largest range.

    text: the content of the file.
    user: the user's name.
    number: the user's uid, which can stand in the place of the name.
    """
    best = 0
    for line in text.splitlines():
        fields = line.split(":")
        if len(fields) == 3 and fields[0] in (user, str(number)) and fields[2].isdigit():
            best = max(best, int(fields[2]))
    return best


def _subordinate() -> Finding:
    number = os.getuid()
    user = identity.login(number)
    if number == 0:
        return Finding("subordinate ids", OK, "root needs none")
    lacking = []
    for path in ("/etc/subuid", "/etc/subgid"):
        try:
            with open(path, errors="replace") as file:
                enough = subordinate_ids(file.read(), user, number) >= _ENOUGH_IDS
        except OSError:
            enough = False  # a file that is missing gives no ids
        if not enough:
            lacking.append(path)
    if not lacking:
        return Finding("subordinate ids", OK, f"{user} has {_ENOUGH_IDS} or more")
    text = f"{' and '.join(lacking)} have no {_ENOUGH_IDS} ids for {user}: a build can have one user id"
    first = 100000 + (number % 1000) * _ENOUGH_IDS
    ids = f"{first}-{first + _ENOUGH_IDS - 1}"
    cure = f"`usermod --add-subuids {ids} --add-subgids {ids} {user}`, where no other line of these files has these ids"
    return Finding("subordinate ids", WARNING, text, cure)


def _container() -> Iterator[Finding]:
    """Run the launcher as the only program of an image, in the way of `bollard exec`."""
    if not shutil.which("mksquashfs", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"):
        return  # one line has told that it is missing
    with tempfile.TemporaryDirectory(prefix="bollard-doctor-") as scratch:
        os.chmod(scratch, 0o755)
        if os.geteuid() == 0:  # `_command` runs as nobody then
            os.chown(scratch, probes.NOBODY, probes.NOBODY)
        for name in ("bin", "dev", "etc", "proc", "sys", "tmp"):
            os.makedirs(f"{scratch}/tree/{name}")
        if not os.path.exists(installed.LAUNCHER):
            yield Finding("container", FAILURE, f"{installed.LAUNCHER} is missing", "install bollard again")
            return
        shutil.copy(installed.LAUNCHER, f"{scratch}/tree/bin/probe")
        image = f"{scratch}/image.sqfs"
        made = _command(["mksquashfs", f"{scratch}/tree", image, "-all-root", "-no-progress", "-quiet"])
        if made.returncode != 0:
            yield Finding("container", FAILURE, f"mksquashfs fails: {_last(made.stderr)}", "install it again")
            return
        program = (
            f"import sys; sys.path[:0] = {[path for path in sys.path if path]!r}; "
            "from bollard.runtime.cli.main import main; sys.exit(main(sys.argv[1:]))"
        )
        words = ["exec", "--no-home", image, "/bin/probe", "--print-environment"]
        done = _command([sys.executable, "-ISXutf8", "-c", program, *words])
    if done.returncode != 0 or f"BOLLARD_CONTAINER={image}".encode() not in done.stdout.split(b"\0"):
        said = _last(done.stderr) or f"exit status {done.returncode}"
        yield Finding("container", FAILURE, said, "mend what the lines above report")
        return
    yield Finding("container", OK, "a program runs in an image")


def _command(command: list[str]) -> subprocess.CompletedProcess[bytes]:
    """Run a command in /, as this user; for root as nobody, because users need it to work."""

    def as_user() -> None:
        os.chdir("/")
        probes.become_user()

    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": "/"}
    try:
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=_SECONDS, env=environment,
            preexec_fn=as_user if os.geteuid() == 0 else None,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, b"", f"no end after {_SECONDS} s".encode())


def _last(output: bytes) -> str:
    lines = output.decode(errors="replace").replace("bollard: ", "").strip().splitlines()
    return lines[-1] if lines else ""
