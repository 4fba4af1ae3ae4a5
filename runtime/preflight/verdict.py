# SPDX-License-Identifier: BSD-3-Clause
"""The pre-flight's verdict on an image, as the text that srun's plugin reads, and its place in the cache.

    bollard-preflight 1
    use SUBJECT TYPE...                   the types of `--mpi` that connect the ranks, the best first
    bad SUBJECT TYPE apart|fails TEXT     what a type would do, and the library in words
    program FAMILY|- NAME                 a program of the image that was looked at
    unread REASON                         the image could not be looked into

SUBJECT is a program's family (pmi2, pmix or abi), or `any` for a program that names no MPI library: a script, Python.
`spank_plugin/preflight.c` reads the text in srun without an interpreter. The file's name is the image's identity, so a
rebuilt image has another one.
"""

from __future__ import annotations

import os

from bollard.runtime import constants
from bollard.runtime.preflight import wireup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from bollard.runtime.preflight.contents import Contents

HEAD = constants.PREFLIGHT_HEAD
FOLDER = "bollard-preflight"  # beside the cache of images: `bollard cache clean` does not change a verdict
_SIZE_MAX = 64 << 10  # bytes
_PROGRAMS_MAX = 100
_FILES_MAX = 500


def text(found: Contents, programs: dict[str, str]) -> str:
    """Return the verdict as text.

    found     what contents.read returned
    programs  families of programs: of `found`, and those that the cached verdict had
    """
    lines = [HEAD]
    subjects = {name: [mpi for mpi in found["mpi"] if wireup.family(mpi) == name] for name in wireup.FAMILIES}
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
    """Return {program: family} of the programs in a verdict."""
    found = {}
    for line in verdict.splitlines():
        words = line.split(" ", 2)
        if words[0] == "program" and len(words) == 3:
            found[words[2]] = words[1].strip("-")
    return found


def place(identity: tuple[int, int, int], environ: Mapping[str, str]) -> str:
    """Return the path of an image's verdict; "" without a home. spank_plugin/preflight.c has the same rule.

    identity  inode, size and time of change (ns), as in image.Image
    environ   environment variables
    """
    cache = environ.get("XDG_CACHE_HOME", "")
    if not cache.startswith("/"):
        cache = environ["HOME"] + "/.cache" if environ.get("HOME", "").startswith("/") else ""
    return f"{cache}/{FOLDER}/{'.'.join(map(str, identity))}" if cache else ""


def cached(path: str) -> str:
    """Return the verdict at `path`; "" without one of this release."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            found = file.read(_SIZE_MAX)
    except OSError:
        return ""  # there is none yet, or this user has no home to keep it in
    return found if found.startswith(HEAD + "\n") else ""


def keep(path: str, verdict: str) -> None:
    """Write a verdict into the cache; remove the oldest ones if there are many. Without a writable home, do nothing."""
    if not path:
        return
    folder = os.path.dirname(path)
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        with open(f"{path}.{os.getpid()}", "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(verdict)
        os.replace(f"{path}.{os.getpid()}", path)
        names = os.listdir(folder)
    except OSError:
        return  # a full or read-only home: the image is then looked into at every srun
    if len(names) > _FILES_MAX:
        _remove_oldest(folder, names)


def _remove_oldest(folder: str, names: list[str]) -> None:
    ages = []
    for name in names:
        try:
            ages.append((os.stat(f"{folder}/{name}").st_mtime, name))
        except OSError:
            continue  # another process has removed it
    for _, name in sorted(ages)[: -_FILES_MAX // 2]:
        try:
            os.unlink(f"{folder}/{name}")
        except OSError:
            continue  # the same
