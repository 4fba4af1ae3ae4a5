# SPDX-License-Identifier: BSD-3-Clause
"""The pre-flight's verdict on an image, as the text that srun's plugin reads, and its place in the cache.

    bollard-preflight 2
    usual pmi2                            MPICH's libraries are all where the launcher looks (spank_plugin/ranks.c)
    use SUBJECT TYPE...                   the types of `--mpi` that connect the ranks, the best first
    bad SUBJECT TYPE apart|fails TEXT     what a type would do, and the library in words
    program FAMILY|-|? NAME               a program that was looked at; ? for one that the image does not have
    unread REASON                         the image could not be looked into

SUBJECT is a program's family (pmi2, pmix or abi), or `any` for a program that names no MPI library: a script, Python.
`spank_plugin/verdict.c` reads the text in srun without an interpreter. The file's name is the image's identity, so a
rebuilt image has another one.
"""

from __future__ import annotations

import os
from errno import EPERM

from bollard.runtime import constants
from bollard.runtime.preflight import wireup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from bollard.runtime.preflight.contents import Contents

HEAD = constants.PREFLIGHT_HEAD
MISSING = "?"  # in the place of a program's family
FOLDER = "bollard-preflight"  # beside the cache of images: `bollard cache clean` does not change a verdict
_SIZE_MAX = 64 << 10  # bytes
_PROGRAMS_MAX = 100
_FILES_MAX = 500
_S_IFMT, _S_IFREG = 0o170000, 0o100000  # sys/stat.h


def text(found: Contents, programs: dict[str, str]) -> str:
    """Return the verdict as text.

    found     what contents.read returned
    programs  families of programs: of `found`, and those that the cached verdict had
    """
    lines = [HEAD]
    subjects = {name: [mpi for mpi in found["mpi"] if wireup.family(mpi) == name] for name in wireup.FAMILIES}
    folders = {os.path.dirname(mpi["path"]) for mpi in subjects["pmi2"]}
    if folders and folders.issubset(constants.USUAL_LIBRARIES.split(":")):
        lines.append(constants.PREFLIGHT_USUAL)
    for name, mpis in (*subjects.items(), ("any", found["mpi"])):
        use = wireup.fitting(mpis)
        if use:
            lines.append(" ".join(["use", name, *use]))
        for how in wireup.TYPES:
            outcome, what = wireup.judged(mpis, how)
            # With none, the user most likely starts no MPI program: only one that names a library is worth a warning.
            if outcome != wireup.OK and (name, how) != ("any", "none"):
                lines.append(f"bad {name} {how} {outcome} {what}")
    for word, family in list(programs.items())[-_PROGRAMS_MAX:]:
        lines.append(f"program {family or '-'} {word}")
    return "\n".join(lines) + "\n"


def programs(verdict: str) -> dict[str, str]:
    """Return {program: family} of the programs in a verdict; "" for no MPI library, MISSING for no such program."""
    found = {}
    for line in verdict.splitlines():
        words = line.split(" ", 2)
        if words[0] == "program" and len(words) == 3:
            found[words[2]] = words[1].strip("-")
    return found


def place(identity: tuple[int, int, int], environ: Mapping[str, str]) -> str:
    """Return the path of an image's verdict; "" without a home. spank_plugin/verdict.c has the same rule.

    identity  inode, size and time of change (ns), as in image.Image
    environ   environment variables
    """
    cache = environ.get("XDG_CACHE_HOME", "")
    if not cache.startswith("/"):
        cache = environ["HOME"] + "/.cache" if environ.get("HOME", "").startswith("/") else ""
    return f"{cache}/{FOLDER}/{'.'.join(map(str, identity))}" if cache else ""


def cached(path: str) -> str:
    """Return the verdict at `path`; "" without one of this release, or if others may have written it."""
    above, name = os.path.split(path)
    try:
        folder = _opened(above)
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY, dir_fd=folder)
        finally:
            os.close(folder)
        with open(fd, encoding="utf-8", errors="surrogateescape") as file:
            info = os.fstat(fd)
            found = file.read(_SIZE_MAX) if _is_ours(info) and info.st_mode & _S_IFMT == _S_IFREG else ""
    except OSError:
        return ""  # there is none yet, or this user has no home to keep it in
    return found if found.startswith(HEAD + "\n") else ""


def keep(path: str, verdict: str) -> None:
    """Write a verdict into the cache; remove the oldest ones if there are many.

    Without a writable home, do nothing. The same if others may write to the directory: they could steer `--mpi`.
    """
    above, name = os.path.split(path)
    new = f"{name}.{int.from_bytes(os.urandom(6), 'little')}"
    try:
        os.makedirs(above, mode=0o700, exist_ok=True)
        folder = _opened(above)
    except OSError:
        return  # a read-only home, or a directory that is not ours alone: the image is looked into at every srun
    try:
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=folder)
        try:
            with open(fd, "w", encoding="utf-8", errors="surrogateescape") as file:
                file.write(verdict)
            os.replace(new, name, src_dir_fd=folder, dst_dir_fd=folder)
        except OSError:
            os.unlink(new, dir_fd=folder)
            raise
        _remove_oldest(folder)
    except OSError:
        return  # a full disk: the image is looked into again at the next srun
    finally:
        os.close(folder)


def _opened(folder: str) -> int:
    """Return a descriptor of the cache's directory.

    Raises:
        OSError: there is none, or it is a link, or another user owns it or may write to it.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    if _is_ours(os.fstat(fd)):
        return fd
    os.close(fd)
    raise PermissionError(EPERM, os.strerror(EPERM), folder)


def _is_ours(info: os.stat_result) -> bool:
    """Return whether this user owns a file and nobody else may write to it. verdict.c has the same rule."""
    return info.st_uid == os.geteuid() and not info.st_mode & 0o022


def _remove_oldest(folder: int) -> None:
    names = [name for name in os.listdir(folder) if name.replace(".", "").isdigit()]  # verdicts, and nothing else
    if len(names) <= _FILES_MAX:
        return
    ages = []
    for name in names:
        try:
            ages.append((os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime, name))
        except OSError:
            continue  # another process has removed it
    for _, name in sorted(ages)[: -_FILES_MAX // 2]:
        try:
            os.unlink(name, dir_fd=folder)
        except OSError:
            continue  # it stays until the next removal
