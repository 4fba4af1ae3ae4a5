# SPDX-License-Identifier: BSD-3-Clause
"""Explain a failed system call to a user: the full filesystem and its size, the limit of ulimit, who can repair it.

This module runs on the node path, so it imports only `os`, `errno` and runtime/errors.py.
"""

from __future__ import annotations

import os
from errno import (
    EAGAIN,
    EDQUOT,
    EFBIG,
    EIO,
    ELOOP,
    EMFILE,
    ENAMETOOLONG,
    ENFILE,
    ENOMEM,
    ENOSPC,
    EROFS,
    ESTALE,
    ETXTBSY,
)

from bollard.runtime.errors import BollardError, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_STICKY: Final = 0o1000  # S_ISVTX of inode(7)
_UNMAPPED: Final = 65534  # how a user namespace shows users that it does not map: user_namespaces(7)
_SIGKILL: Final = 9
_SIGXFSZ: Final = 25
_SIGNALS: Final = {
    4: "SIGILL", 6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE", 9: "SIGKILL", 11: "SIGSEGV", 13: "SIGPIPE", 15: "SIGTERM",
    24: "SIGXCPU", 25: "SIGXFSZ", 31: "SIGSYS",
}  # fmt: skip
# Error numbers whose text in a program's output is taken as the cause; the first match wins.
_TOLD: Final = (ENOSPC, EDQUOT, EFBIG, EMFILE, ENFILE, ENOMEM, EROFS, ESTALE, EIO, EAGAIN)
# When a program has failed to write, a filesystem with less free space than this, in bytes, is reported as full.
_FULL: Final = 64 << 10
_USERNS: Final = (
    "its administrator should look at sysctl user.max_user_namespaces, "
    "kernel.unprivileged_userns_clone and kernel.apparmor_restrict_unprivileged_userns"
)

# Directories that an environment variable can move: {directory: variable}.
_movable: dict[str, str] = {}


def no_namespaces(error: OSError, doing: str) -> BollardError:
    """Return the error for a user namespace that the kernel refused. `doing` begins the message."""
    reason = "the limit of their number is reached" if error.errno == ENOSPC else error.strerror
    return BollardError(f"{doing}: {reason}", _USERNS)


def movable(place: str, variable: str) -> None:
    """Note that the environment variable `variable` moves the directory `place`.

    The hint for a full filesystem there will be to set that variable.
    """
    _movable[place] = variable


def of(error: OSError, doing: str, place: str = "", hint: str = "") -> BollardError:
    """Return an OSError as an error for the user.

    error   the failure
    doing   what failed; begins with the name that the user typed: "img.sif: cannot be written"
    place   a path on the filesystem that was used; "" for the path in `error`
    hint    what to do, if the cause has no better hint
    """
    place = place or _path(error)
    reason, cure = _cause(error, place)
    return BollardError(f"{doing}: {reason}", cure or hint)


def one_line(error: BaseException) -> str:
    """Return any exception as one line for the user, without the leading "bollard: "."""
    known = error if isinstance(error, BollardError) else _of_any(error)
    defect = f"{type(error).__name__}: {error}; this is a defect: please report it, with the command"
    text = str(known) if known else defect
    return shown(" ".join(text.splitlines()))


def _of_any(error: BaseException) -> BollardError | None:
    """Return the error for an exception that the machine caused; None for any other, which is a defect."""
    if isinstance(error, MemoryError):
        error = OSError(ENOMEM, os.strerror(ENOMEM))
    elif isinstance(error, RuntimeError) and "start new thread" in str(error):
        error = OSError(EAGAIN, os.strerror(EAGAIN))
    if not isinstance(error, OSError):
        return None
    return of(error, _path(error) or _call(error) or "bollard cannot go on")


def of_program(program: str, status: int, said: str, doing: str, place: str = "", hint: str = "") -> BollardError:
    """Return the error that says why a program of the host failed.

    program  its name
    status   its exit status, negative for a signal: -9 for SIGKILL
    said     what it wrote to stderr, in English
    doing, place, hint   as for `of`
    """
    number = told(said) or (EFBIG if status == -_SIGXFSZ else 0)
    if not number and place and _is_full(place):
        number = ENOSPC
    if number:
        return of(OSError(number, os.strerror(number)), doing, place, hint)
    if status < 0:
        cure = "was there too little memory? try again with more" if status == -_SIGKILL else hint
        return BollardError(f"{doing}: {program} was ended by {signal_name(-status)}", cure)
    lines = [line.strip() for line in said.splitlines() if line.strip()] or [f"exit status {status}"]
    line = next((line for line in lines if "ermission denied" in line), lines[-1])
    return BollardError(f"{doing}: {program}: {line}", hint)


def refuse_read_only(place: str, doing: str) -> None:
    """Raise if the filesystem of the directory `place` is read-only. access(2) does not tell that from other causes.

    Raises:
        BollardError: it is; the message begins with `doing`.
    """
    if os.statvfs(place).f_flag & os.ST_RDONLY:
        raise of(OSError(EROFS, os.strerror(EROFS)), doing, place)


def refuse_file_of_another(target: str, doing: str) -> None:
    """Raise if another user's file is at `target` in a directory like /tmp, where only owners replace files: unlink(2).

    Raises:
        BollardError: it is; the message begins with `doing`.
    """
    folder = os.path.dirname(os.path.abspath(target))
    try:
        file, directory = os.lstat(target), os.stat(folder)
    except OSError:
        return  # there is nothing to replace, or the write itself says what is wrong
    user = os.geteuid()
    is_root = user == 0 and file.st_uid != _UNMAPPED
    if directory.st_mode & _STICKY and user not in (file.st_uid, directory.st_uid) and not is_root:
        reason = f"the file that is there belongs to another user, and in {folder} only its owner can replace it"
        raise BollardError(f"{doing}: {reason}", "choose another name")


def of_words(reason: str, doing: str, place: str, hint: str) -> BollardError:
    """Return an error for the user, made from an error text: like `of`, where there is no OSError.

    reason  the text of the error, as strerror(3) gives it
    doing, place, hint   as for `of`
    """
    number = told(reason)
    return of(OSError(number, reason), doing, place, hint)


def full(place: str) -> tuple[str, str] | None:
    """Return (reason, hint) if the filesystem of `place` is full, else None."""
    return _no_room(ENOSPC, place) if _is_full(place) else None


def room_hint(place: str) -> str:
    """Return what to do when the filesystem of `place` has too little room."""
    return _no_room(ENOSPC, place)[1]


def told(text: str) -> int:
    """Return the error number whose text is in the output of a program; 0 for none."""
    found = next((number for number in _TOLD if os.strerror(number) in text), 0)
    if not found and "reate thread" in text:  # mksquashfs; a stack is memory too
        return ENOMEM if has_memory_limit() else EAGAIN
    if not found and "newosproc" in text:  # programs written in Go could start no thread
        return EAGAIN
    # unsquashfs, gcc and others; the second one is of programs written in Go, which reserve memory when they start.
    return found or (ENOMEM if "ut of memory" in text or "fatal error: failed to reserve" in text else 0)


def signal_name(number: int) -> str:
    """Return number and name of a signal: "signal 9 (SIGKILL)"."""
    return f"signal {number} ({_SIGNALS[number]})" if number in _SIGNALS else f"signal {number}"


def _path(error: OSError) -> str:
    """Return the path in the error; "" if it has none, or only one that has no meaning outside this process."""
    name = error.filename
    text = os.fsdecode(name) if isinstance(name, (str, bytes)) else ""
    return text if "/" in text and not text.startswith("/proc/self/") and "(" not in text and " " not in text else ""


def _call(error: OSError) -> str:
    name = error.filename
    text = os.fsdecode(name) if isinstance(name, (str, bytes)) else ""
    return "" if text.startswith("/proc/self/") else text


def _cause(error: OSError, place: str) -> tuple[str, str]:
    """Return (reason, hint) of the error. The hint is "" if only the caller knows it."""
    number = error.errno
    if number in (ENOSPC, EDQUOT, EROFS):
        return _no_room(number, place)
    if number == EMFILE:
        return f"the limit of open files, {_limit('SC_OPEN_MAX')}, is reached", "raise it with `ulimit -n`"
    if number == ENFILE:
        return (
            "this machine has reached its limit of open files", "its administrator should look at sysctl fs.file-max"
        )  # fmt: skip
    if number == EAGAIN and not error.filename:
        return (
            f"no more processes: the limit of yours is {_limit('SC_CHILD_MAX')}, threads included",
            "raise it with `ulimit -u`, or ask for more tasks in the job's control group",
        )
    if number == ENOMEM:
        address_space = _limit_of("Max address space")
        if address_space:
            return f"the limit of memory, {_size(int(address_space))}, is reached", "raise it with `ulimit -v`"
        return "there is not enough memory", "ask the job for more with --mem"
    if number == EFBIG:
        file_size = _limit_of("Max file size")
        if file_size:
            return f"the limit of a file's size, {_size(int(file_size))}, is reached", "raise it with `ulimit -f`"
        return "its filesystem takes no file this large", "name another place"
    if number == ESTALE:
        return (
            f"{_on(place)}the file server has removed or replaced it (stale file handle)",
            "try again; if it comes back, tell the administrator of that filesystem",
        )
    if number == EIO:
        return (
            f"{_on(place)}the disk or its file server cannot be read or written (input/output error)",
            "tell the administrator of that filesystem",
        )
    if number == ETXTBSY:
        return "a program runs from this file", "wait until it has ended, or choose another name"
    if number == ELOOP:
        return "its symbolic links form a loop", "check where they point with `ls -l`"
    if number == ENAMETOOLONG:
        return "the name is too long: 255 bytes a part, 4095 in all", "choose a shorter one"
    return error.strerror or str(error), ""


def _no_room(number: int, place: str) -> tuple[str, str]:
    where = mount_point(place)
    variable = next((name for folder, name in _movable.items() if _is_below(place, folder)), "")
    cure = f"set {variable} to a directory with more space" if variable else "free some, or name another place"
    if number == EROFS:
        cure = f"set {variable} to another directory" if variable else "name another place"
        return f"{where or 'the filesystem'} is read-only", cure
    if number == EDQUOT:
        return f"your disk quota on {where or 'that filesystem'} is used up", f"see `quota`; {cure}"
    try:
        room = os.statvfs(where or "/nonexistent")
    except OSError:
        return "no space left on the filesystem", cure  # unmounted meanwhile: the size is left out
    if room.f_files and not room.f_favail:
        return f"no space left for files on {where}, which holds {room.f_files}", cure
    return f"no space left on {where}, which has {_size(room.f_blocks * room.f_frsize)}", cure


def mount_point(path: str) -> str:
    """Return the mount point of the filesystem of `path`, which need not exist; "" if it cannot be found."""
    if not path:
        return ""
    path = os.path.abspath(path)
    while not os.path.exists(path):
        path = os.path.dirname(path)
    path = os.path.realpath(path)
    try:
        device = os.stat(path).st_dev
        while path != "/" and os.stat(os.path.dirname(path)).st_dev == device:
            path = os.path.dirname(path)
    except OSError:
        return ""  # it cannot be looked at: the message does without the place
    return path


def _is_below(path: str, folder: str) -> bool:
    return bool(path) and f"{os.path.abspath(path)}/".startswith(f"{folder}/")


def _is_full(place: str) -> bool:
    try:
        room = os.statvfs(mount_point(place))
    except OSError:
        return False  # unknown: the program's own words are the cause then
    return room.f_bavail * room.f_frsize < _FULL or (room.f_files > 0 and room.f_favail == 0)


def _on(place: str) -> str:
    where = mount_point(place)
    return f"on {where}: " if where else ""


def _size(number: int) -> str:
    """Return a number of bytes with a unit: 8.4 MB."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= factor:
            return f"{number / factor:.1f} {unit}"
    return f"{number} bytes"


def _limit(name: str) -> int:
    """Return a limit of this process by sysconf(3). To read /proc a file descriptor is needed; none may be left."""
    return os.sysconf(name)


def has_memory_limit() -> bool:
    """Return whether this process has a limit of its address space (`ulimit -v`)."""
    return bool(_limit_of("Max address space"))


def _limit_of(name: str) -> str:
    """Return the soft limit `name` in /proc/self/limits (proc(5)); "" if there is no limit."""
    try:
        with open("/proc/self/limits", "rb") as file:  # as text it would import a codec: not in a container
            for line in file.read().decode("ascii").splitlines():
                if line.startswith(name):
                    word = line[len(name) :].split()[0]
                    return word if word.isdigit() else ""
    except OSError:
        pass  # no /proc, or no descriptor left: the message does without the number
    return ""
