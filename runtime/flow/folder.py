# SPDX-License-Identifier: BSD-3-Clause
"""The directory of a flow, on a filesystem that the nodes share. It is all that remembers the flow beside Slurm.

FLOWS/ID/flow.yaml        the file as it was submitted
plan.json        what was made of it: jobs, needs, digests, keys
ids              "GENERATION NAME JOB" for each job that sbatch took; for an array of equal jobs, FIRST..LAST, and
                 "GENERATION NAME JOB_ELEMENT" for each of them
released.N       generation N was released: it runs
cancelled.N      it was cancelled
verdict.N.json   written by its last job: how each job ended
jobs/            the scripts
state/NAME       written by the job itself; state.py describes it
logs/NAME.out    what the job prints, and .end.out of the last job; logs/.arrays/ has links to it, for Slurm
files/ images/ volumes/
lock             held while the flow is submitted, resumed or cancelled
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import secrets
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bollard.runtime import causes
from bollard.runtime.errors import BollardError
from bollard.runtime.flow.bundle import Ref
from bollard.runtime.system import private_directory

# The size of a state file in bytes. It is written in full before the flow starts, so that a full disk cannot keep a
# job from saying how it ended.
RESERVED = 512
_ROOM = "make room, or set BOLLARD_FLOWS"
_ELSEWHERE = "set BOLLARD_FLOWS to a shared directory"


class Damaged(BollardError):
    """The plan of a flow can be read, and is no plan."""


def base() -> Path:
    """Return the directory of this user's flows."""
    given = os.environ.get("BOLLARD_FLOWS")
    if given:
        return Path(os.path.abspath(given))
    state = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local/state")
    return Path(state) / "bollard/flows"


def make(name: str) -> Path:
    """Make the directory of a new flow; return its path.

    Raises:
        BollardError: it cannot be made, others could exchange it, or its path has a character that sbatch would change.
    """
    top = base()
    if "%" in str(top):
        raise BollardError(
            f"{top}: a % in the path of flows has a meaning for sbatch", "set BOLLARD_FLOWS to another directory"
        )
    if not str(top).isprintable():
        text = f"{str(top)!r}: the path of flows has a character that is not UTF-8 or not visible"
        raise BollardError(text, "set BOLLARD_FLOWS to another directory")
    if top.exists() and not top.is_dir():
        raise BollardError(f"{top}: is not a directory", "set BOLLARD_FLOWS to another path")
    try:
        private_directory.make(str(top))
    except OSError as error:
        raise causes.of(error, f"{top}: cannot be made", str(top), _ELSEWHERE) from None
    refuse_shared(top)
    for _ in range(100):
        path = top / f"{name}-{secrets.token_hex(3)}"
        try:
            path.mkdir(0o700)
            for part in ("jobs", "state", "logs", "files", "images", "volumes"):
                (path / part).mkdir(0o700)
        except FileExistsError:
            continue
        except OSError as error:
            raise causes.of(error, f"{path}: cannot be made", str(top), _ELSEWHERE) from None
        return path
    raise BollardError(f"{top}: has too many flows called {name}", "remove some: bollard flow cancel --remove ID")


def refuse_shared(top: Path) -> None:
    """Raise if another user could exchange the directories of flows in `top`.

    Raises:
        BollardError: `top` is another user's, or others may write into it and it is not sticky.
    """
    wrong = private_directory.place_fault(str(top), strict=False)
    if wrong:
        raise BollardError(
            f"{top}: another user could exchange your flows: {wrong}",
            "use chmod go-w on your own directory, or set BOLLARD_FLOWS to another one",
        )


def checked(path: Path) -> Path:
    """Return the directory of a flow, after a check that it is this user's alone.

    Raises:
        BollardError: it is missing, is a link, belongs to another user, or others may write into it.
    """
    try:
        wrong = private_directory.fault(os.lstat(path))
    except OSError as error:
        raise BollardError(f"{path}: {error.strerror}", "see `bollard flow list`") from None
    if wrong:
        cure = f"chmod go-w {path}" if "write" in wrong else "see `bollard flow list`"
        raise BollardError(f"{path}: is not a flow of yours: {wrong}", cure)
    return path


def find(word: str) -> Path:
    """Return the directory of the flow with this ID, or with the only ID that begins so.

    Raises:
        BollardError: there is no such flow, or more than one, or it is not this user's alone.
    """
    if not re.fullmatch(r"[a-z0-9-]+", word, re.ASCII):
        raise BollardError(f"{word}: is not the ID of a flow", "see `bollard flow list`")
    path = base() / word
    if os.path.lexists(path):
        return checked(path)
    close = [other for other in every() if other.name.startswith(word)]
    if len(close) != 1:
        text = f"{word}: there are {len(close)} such flows" if close else f"{word}: there is no such flow"
        raise BollardError(text, "see `bollard flow list`")
    return close[0]


def every() -> list[Path]:
    """Return the directories of all flows of this user, the oldest first. Warns of those that others may change."""
    try:
        found = [(os.lstat(path), path) for path in base().iterdir()]
    except FileNotFoundError:
        return []
    mine = []
    for info, path in found:
        wrong = private_directory.fault(info)
        if not wrong:
            mine.append((info.st_mtime, path))
        elif stat.S_ISDIR(info.st_mode) and info.st_uid == os.geteuid():
            sys.stderr.write(f"bollard: warning: {path} is left out: {wrong}; chmod go-w {path}\n")
    return [path for _, path in sorted(mine)]


@contextlib.contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[bool]:
    """Hold the flow's lock; yield whether it is held. Without `wait`, false if another process holds it."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(path / "lock", flags, 0o600), "rb+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield True
        except BlockingIOError:
            yield False


def write(path: Path, text: str, mode: int = 0o600, *, settle: bool = True) -> None:
    """Write a file, which gets its name when it is whole.

    path: the file.
    text: its content.
    mode: its mode.
    settle: whether it is on disk when this returns.

    Raises:
        BollardError: the write fails.
    """
    try:
        fd, made = tempfile.mkstemp(prefix=".new-", dir=path.parent)
        try:
            with open(fd, "w", encoding="utf-8", errors="surrogateescape") as file:
                file.write(text)
                os.fchmod(file.fileno(), mode)
                file.flush()
                if settle:
                    os.fsync(file.fileno())
            os.replace(made, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):  # it has its name already
                os.unlink(made)
            raise
        if settle:
            _settle(path.parent)
    except OSError as error:
        raise causes.of(error, f"{path}: cannot be written", str(path), _ROOM) from None


def _settle(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def note(path: Path, generation: int, jobs: Mapping[str, Ref]) -> None:
    """Add jobs, by name, to `ids`; they are on disk when this returns.

    path: the flow's directory.
    generation: the number of the submission.
    name: the job's name in the flow.
    job: Slurm's number of it.

    Raises:
        BollardError: it cannot be written.
    """
    place = path / "ids"
    try:
        with open(place, "a", encoding="ascii") as file:
            file.write("".join(f"{generation} {name} {ref}\n" for name, ref in jobs.items()))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise causes.of(error, f"{place}: cannot be written", str(place), _ROOM) from None


def ids(path: Path, generation: int) -> dict[str, Ref]:
    """Return the jobs of Slurm by name, of one generation."""
    return {name: ref for of, name, ref in _noted(path) if of == str(generation) and ".." not in name}


def submitted(path: Path) -> list[tuple[str, int]]:
    """Return name and number of what sbatch has taken, of all generations."""
    return [(name, ref.job) for _, name, ref in _noted(path) if ref.element < 0]


def _noted(path: Path) -> list[tuple[str, str, Ref]]:
    try:
        lines = (path / "ids").read_text("ascii").splitlines()
    except FileNotFoundError:
        return []
    words = [line.split() for line in lines]
    # A last line may be cut when the machine went down; its job is found by its comment.
    found = []
    for word in words:
        number, _, element = word[2].partition("_") if len(word) == 3 else ("", "", "")
        if number.isdigit() and (element.isdigit() or number == word[2]):
            found.append((word[0], word[1], Ref(int(number), int(element or -1))))
    return found


def reserve(path: Path, names: list[str]) -> None:
    """Write the state files of jobs that have not started.

    Raises:
        BollardError: the disk is full.
    """
    text = ("state=waiting".ljust(RESERVED - 2) + ".\n").encode("ascii")
    for name in names:
        place = path / "state" / name
        try:
            with open(place, "wb") as file:
                file.write(text)
        except OSError as error:
            raise causes.of(error, f"{place}: cannot be written", str(place), _ROOM) from None


def link_logs(path: Path, array: str, names: Mapping[int, str]) -> str:
    """Make the links by which the output of an array's elements gets into the logs of their jobs; return their pattern.

    path: the flow's directory.
    array: the name of the array, of this generation alone.
    names: the job of each element.

    Raises:
        BollardError: they cannot be made.
    """
    place = path / "logs/.arrays" / array
    try:
        place.mkdir(0o700, parents=True)
        for element, name in names.items():
            (place / f"{element}.out").symlink_to(f"../../{name}.out")
    except OSError as error:
        raise causes.of(error, f"{place}: cannot be written", str(place), _ROOM) from None
    return f"{place}/%a.out"


def plan(path: Path) -> dict[str, Any]:
    """Return the plan of a flow; {} if its submission was cut off before it was written.

    Raises:
        BollardError: it cannot be read.
    """
    try:
        found = json.loads((path / "plan.json").read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        text = f"{path / 'plan.json'}: cannot be read: {error.strerror}"
        raise BollardError(text, "see whether its filesystem is there") from None
    except ValueError:
        found = None
    if isinstance(found, dict) and isinstance(found.get("generation"), int) and isinstance(found.get("jobs"), list):
        return found
    raise Damaged(f"{path / 'plan.json'}: is damaged", f"bollard flow cancel --remove {path.name}")


def mark(path: Path, word: str, generation: int) -> None:
    """Note that a generation was released or cancelled. A link needs no room, so a full disk keeps no flow alive.

    path: the flow's directory.
    word: "released" or "cancelled".
    generation: the number of the submission.

    Raises:
        BollardError: it cannot be written.
    """
    place = path / f"{word}.{generation}"
    try:
        os.link(path / "lock", place)
        _settle(path)
    except FileExistsError:
        return  # it is noted already
    except OSError:  # a filesystem without links, or a read-only one, of which `write` tells
        write(place, "")


def marked(path: Path, word: str, generation: int) -> bool:
    """Return whether a generation was released or cancelled. The parameters are those of `mark`."""
    return (path / f"{word}.{generation}").exists()
