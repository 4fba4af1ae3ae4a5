# SPDX-License-Identifier: BSD-3-Clause
"""The variables that a file for --env-file sets. The file is evaluated as a shell script, without a shell.

As in Apptainer, every assignment counts, exported or not, and the file can use variables of the caller. A file that
needs a command is refused with a reason.
"""

from __future__ import annotations

import os
import re

from bollard.runtime import causes
from bollard.runtime.errors import BollardError
from bollard.runtime.request import spec
from bollard.runtime.shell import interpreter
from bollard.runtime.shell.words import Unsupported

_SIZE_MAX = 1 << 20
# What is quoted, and comments; at a quote without its end the rest.
_WORDS = re.compile(rb"""\\.|'[^']*'?|"(?:[^"\\]|\\.)*"?|(?<![^\s;&|()])\#[^\n]*""", re.DOTALL)
_NOT_SET = frozenset((b"EUID", b"GID", b"HOME", b"IFS", b"OPTIND", b"PWD", b"UID"))


class _Assigned(dict[bytes, bytes]):
    """A dictionary of variables that notes which names were assigned."""

    def __init__(self, before: dict[bytes, bytes]) -> None:
        super().__init__(before)
        self.names: set[bytes] = set()

    def __setitem__(self, name: bytes, value: bytes) -> None:
        super().__setitem__(name, value)
        self.names.add(name)


def pairs(paths: list[str]) -> list[tuple[str, str]]:
    """Return ("env", "NAME=VALUE") for each variable that the files set; for one name the last file wins.

    Each item of `paths` may be several paths, separated by commas.

    Raises:
        BollardError: a file cannot be read or evaluated.
    """
    found: dict[bytes, bytes] = {}
    for path in [part for value in paths for part in value.split(",") if part]:
        found.update(assigned(path, _literal(_read(path)), {**os.environb, **_own()}))
    return [("env", spec.one_assignment(os.fsdecode(name + b"=" + value))) for name, value in found.items()]


def _own() -> dict[bytes, bytes]:
    """Return the variables that a shell sets by itself."""
    uid, gid = b"%d" % os.getuid(), b"%d" % os.getgid()
    return {b"UID": uid, b"EUID": uid, b"GID": gid}


def _literal(text: bytes) -> bytes:
    r"""Return a script in which each unquoted `\$` and backquote stays one when the container expands the value again.

    Apptainer keeps these backslashes too. In single quotes `$` is expanded in the container, in double quotes `\$`.
    """
    return _WORDS.sub(lambda match: b"\\\\" + match[0] if match[0] in (b"\\$", b"\\`") else match[0], text)


def assigned(path: str, text: bytes, environ: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """Return the variables that a script sets.

    path     the file, for messages
    text     its content
    environ  the variables with which it starts

    Raises:
        BollardError: the script needs a real shell.
    """
    values, exported = _Assigned(environ), set[bytes]()
    try:
        interpreter.evaluate(text, values, exported)
    except Unsupported as error:
        raise BollardError(
            f"{path}: cannot be evaluated because of {error}", "assign plain values, with quotes where they have spaces"
        ) from None
    return {name: value for name, value in values.items() if name in values.names | exported and name not in _NOT_SET}


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            text = file.read(_SIZE_MAX + 1)
    except OSError as error:
        raise causes.of(error, f"{path}: cannot be read", path, "check the name given to --env-file") from None
    if len(text) > _SIZE_MAX:
        raise BollardError(f"{path}: more than {_SIZE_MAX} bytes", "is it a file of variables?")
    return text
