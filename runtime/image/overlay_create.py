# SPDX-License-Identifier: BSD-3-Clause
"""`bollard overlay create`: make a writable ext3 filesystem with the directories `upper` and `work`, without root.

The layout is Apptainer's. mkfs.ext3 copies the directories into the filesystem (option -d), so nothing is mounted.
The filesystem becomes an object of a SIF file, or a file of its own. After an error the SIF file is unchanged, and no
new file is left.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile

from bollard.runtime import causes
from bollard.runtime.errors import BollardError
from bollard.runtime.image import image, sif, sif_edit
from bollard.runtime.system import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_LEAST: Final = 64  # MiB
_MOST: Final = 16 << 20
_EXT_MAGIC: Final = b"\x53\xef"


def run(given: list[tuple[str, str]], words: list[str]) -> int:
    """Run `bollard overlay create`; return the exit status.

    given: the parsed options, name and value.
    words: the arguments; exactly one, the path of the SIF file or of the new overlay.

    Raises:
        BollardError: the number of arguments is wrong, --size is not a number of MiB in range, or `create` fails.
    """
    if len(words) != 1:
        raise BollardError(f"overlay create takes one name, not {len(words)}", "write `bollard overlay create IMAGE`")
    asked = dict(given)
    size = asked.get("size", str(_LEAST))
    if not (size.isascii() and size.isdigit() and len(size) < 12 and _LEAST <= int(size) <= _MOST):
        raise BollardError(f"--size {size!r} is not a size", f"give MiB, from {_LEAST} to {_MOST}")
    folders = [name for option, value in given if option == "create-dir" for name in value.split(",") if name]
    create(words[0], int(size), folders, sparse="sparse" in asked, fakeroot="fakeroot" in asked)
    return 0


def create(target: str, size: int, folders: list[str], *, sparse: bool = False, fakeroot: bool = False) -> None:
    """Make a writable ext3 overlay.

    target: an existing SIF file, which gets the overlay as a new object; else the path of the new overlay file.
    size: MiB.
    folders: paths of directories to make in the overlay's `upper`.
    sparse: blocks of zeros become holes in the file.
    fakeroot: the directories belong to root; without it, to the user.

    Raises:
        BollardError: `target` cannot take an overlay, a file cannot be written, or mkfs.ext3 fails.
    """
    inside = os.path.lexists(target)
    arch = _check(target) if inside else ""
    place = os.path.dirname(target) or "."
    try:
        fd, path = tempfile.mkstemp(prefix=".bollard-", suffix=".ext3", dir=place)
    except OSError as error:
        raise causes.of(
            error, f"{image.shown(target)}: cannot be written", place, "choose a directory you can write to"
        ) from None
    try:
        if sparse or inside:  # the copy into the SIF file takes the space
            os.ftruncate(fd, size << 20)
        else:
            os.posix_fallocate(fd, 0, size << 20)
        _make_filesystem(path, folders, sparse, fakeroot)
        if inside:
            _add(target, fd, arch, sparse)
        else:
            os.fsync(fd)
            os.link(path, target)
    except OSError as error:
        raise causes.of(
            error, f"{image.shown(target)}: cannot be written", place, "choose a directory you can write to"
        ) from None
    finally:
        os.close(fd)
        os.unlink(path)


def _check(target: str) -> str:
    """Return the architecture of the SIF file `target`; raise BollardError if it cannot take a writable overlay."""
    name = image.shown(target)
    if os.path.isfile(target) and os.access(target, os.R_OK):
        with open(target, "rb") as file:
            if file.read(1082)[1080:] == _EXT_MAGIC:
                raise BollardError(f"{name}: is an ext3 filesystem already", "choose another name, or remove it")
    fd, found = image.open_sif(target)
    os.close(fd)
    sif.primary(found)
    if any(item.datatype == sif.SIGNATURE for item in found.descriptors):
        raise BollardError(
            f"{name}: is signed, which a writable overlay would break", "make the overlay a file of its own"
        )
    for item in sif.overlays(found):
        if item.fstype == sif.FS_EXT3:
            raise BollardError(
                f"{name}: has a writable overlay already, object {item.id}",
                f"delete it first with `bollard sif del {item.id} {name}`",
            )
    return found.header.arch or sif.arch_name(os.uname().machine)


def _make_filesystem(path: str, folders: list[str], sparse: bool, fakeroot: bool) -> None:
    program = shutil.which("mkfs.ext3", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if not program:
        raise BollardError("mkfs.ext3: no such program", "install the package e2fsprogs")
    # As Apptainer does: a uid or gid over 65535 does not fit the owner field, so every user may write.
    mode = 0o777 if max(os.getuid(), os.getgid()) > 65535 else 0o755
    with tempfile.TemporaryDirectory(prefix="bollard-overlay-") as layout:
        for name in ("upper", "work", *(f"upper/{_relative(folder)}" for folder in folders)):
            place = layout
            for part in name.split("/"):
                place = os.path.join(place, part)
                if not os.path.isdir(place):
                    os.mkdir(place)
                    os.chmod(place, mode)
        try:
            done = _run([program, "-q", "-F", "-E", "discard" if sparse else "nodiscard", "-d", layout, path], fakeroot)
        except subprocess.SubprocessError:
            raise BollardError("this machine does not let users make namespaces", "leave out --fakeroot") from None
    if done.returncode:
        doing = "the overlay cannot be made"
        raise causes.of_program("mkfs.ext3", done.returncode, done.stderr, doing, path, "check its directory")


def _run(command: list[str], fakeroot: bool) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        preexec_fn=_as_root if fakeroot and os.getuid() else None,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="backslashreplace",
        check=False,
    )


def _relative(folder: str) -> str:
    parts = [part for part in folder.split("/") if part not in ("", ".")]
    if not parts or ".." in parts:
        raise BollardError(f"--create-dir {folder!r} is not a directory in the overlay", "give a path without ..")
    return "/".join(parts)


def _as_root() -> None:
    """Enter a new user namespace that maps the user to root: mkfs.ext3 then records root as the owner."""
    maps = {"setgroups": "deny", "uid_map": f"0 {os.getuid()} 1", "gid_map": f"0 {os.getgid()} 1"}
    linux.new_user_namespace()
    for name, text in maps.items():
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def _add(target: str, fd: int, arch: str, sparse: bool) -> None:
    extra = sif.FS_EXT3.to_bytes(4, "little") + sif.PART_OVERLAY.to_bytes(4, "little") + sif.arch_code(arch)
    os.lseek(fd, 0, os.SEEK_SET)
    sif_edit.add(target, sif_edit.New(sif.PARTITION, extra, sparse=sparse), fd)
