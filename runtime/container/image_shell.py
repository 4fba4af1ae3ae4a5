# SPDX-License-Identifier: BSD-3-Clause
"""The image's own shell as evaluator of its environment scripts: what it is given, and what it answers.

bollard-enter starts the image's bash with this script, or its sh where it has no bash. The script sources the image's
files as Apptainer's embedded interpreter does: a file with a syntax error is left out whole, and a file that ends the
shell ends the start of the container. The answer is a list of NUL-terminated strings:

    started            a shell has read the script
    names ...          bash: the variables that are set, one a line; before the files
    exit STATUS        a file ended the shell
    names ...          bash: the variables that are set; after the files
    done               all files were read; the environment follows, NAME=VALUE

Runs on the node path: no import but its siblings.
"""

from __future__ import annotations

import os

from bollard.runtime import constants
from bollard.runtime.errors import BollardError

# Files with a meaning beyond their text: Apptainer completes PATH around them, and has the last one built in.
DOCKER = ("10-docker2singularity.sh", "10-docker.sh", "environment")
FIRST_PATH = "90-environment.sh"
BUILT_IN = "99-runtimevars.sh"

# Writes the environment it is given to its standard output: a descriptor of bollard-enter, kept open for it.
# QUIET_FD is a file in memory of bollard-enter's, for what is shown only where a script fails.
QUIET_FD = constants.QUIET_FD
PRINTER = f"/proc/self/fd/{constants.PRINTER_FD} {constants.PRINTER_OPTION}".encode()
DEFAULT_PATH = constants.DEFAULT_PATH.encode()

# Set or changed by a shell for itself.
_SHELL_OWN = frozenset((b"_", b"SHLVL", b"PWD", b"OLDPWD"))
# The whole script is one argument, of at most 128 KiB.
_EMBEDDED_MAX = 64 * 1024
_MARK = b"end-of-environment-script"
_STARTED, _NAMES, _EXIT, _DONE = b"started", b"names ", b"exit ", b"done"

# dash has no `source`, and ends at a failing `.` unless `command` stands before it. Apptainer has no traps, expands
# aliases, and runs the last part of a pipeline in the shell itself. dash knows descriptors of one digit alone.
_PRELUDE = rb"""exec 8>&1 >&2
printf 'started\0' >&8
trap 'printf "exit %s\0" "$?" >&8' EXIT
if [ -n "${BASH_VERSION-}" ]; then
    shopt -s expand_aliases lastpipe
    eval 'trap() { echo "trap: not supported in an environment script" >&2; }'
else
    UID=%(uid)d EUID=%(uid)d
    command -v source >/dev/null 2>&1 || eval 'source() { command . "$@"; }'
fi
GID=%(gid)d
cd %(cwd)s 2>/dev/null
unset PS1 PATH OLDPWD
[ -z "${BASH_VERSION-}" ] || printf 'names %s\0' "$(compgen -v)" >&8
"""

_POSTLUDE = rb"""unset -f trap 2>/dev/null
trap - EXIT
[ -z "${BASH_VERSION-}" ] || printf 'names %s\0' "$(compgen -v)" >&8
export PATH="${PATH:-%(path)s}"
printf 'done\0' >&8
exec >&8 8>&-
exec %(printer)s
"""


def script(scripts: list[tuple[str, bytes]], doubtful: set[str], cwd: bytes) -> bytes:
    """The script that sources the files of `scripts` (name, text) in the directory `cwd` and prints what they leave.

    `doubtful` are those whose syntax is not known to be right: bash runs the part before a syntax error, and is asked
    to check them first.
    """
    numbers = _PRELUDE.replace(b"%(uid)d", b"%d" % os.getuid()).replace(b"%(gid)d", b"%d" % os.getgid())
    lines = [numbers.replace(b"%(cwd)s", quoted(cwd))]
    left = _EMBEDDED_MAX
    for name, text in scripts:
        if name == BUILT_IN:
            continue
        path = quoted(os.fsencode("/environment" if name == "environment" else "/.singularity.d/env/" + name))
        if name == FIRST_PATH:
            lines.append(b'export PATH="${PATH-' + DEFAULT_PATH + b'}"\n')
        check = b'[ -n "${BASH_VERSION-}" ] && ! "$BASH" -n ' + path + b" || " if name in doubtful else b""
        if b"\r\n" in text and len(text) < left:  # Apptainer reads lines as Windows ends them
            left -= len(text)
            lines.append(b"command . /dev/stdin <<'%s'\n%s\n%s\n" % (_MARK, text.replace(b"\r\n", b"\n"), _MARK))
        else:
            lines.append(check + b"command . " + path + b"\n")
        if name in DOCKER:
            lines += [
                b'case ":${PATH-}:" in *:' + part + b":*) ;; *) PATH=${PATH:+$PATH:}" + part + b";; esac\n"
                for part in DEFAULT_PATH.split(b":")
            ]
            lines.append(b"export PATH\n")
    lines.append(_POSTLUDE.replace(b"%(path)s", DEFAULT_PATH).replace(b"%(printer)s", PRINTER))
    return b"".join(lines)


def parsed(answer: bytes) -> dict[bytes, bytes | None] | None:
    """What the files set, None for a variable that they did not export; or None where no shell could tell.

    Raises `BollardError` when a file ended the shell.
    """
    strings = answer.split(b"\0")
    if strings[0] != _STARTED:
        return None
    names: list[set[bytes]] = []
    for index, string in enumerate(strings):
        if string.startswith(_NAMES):
            names.append(set(string[len(_NAMES) :].split(b"\n")))
        elif string == _DONE:
            found = environment(strings[index + 1 :])
            if not found:
                return None
            hidden = names[-1] - names[0] - set(found) - (_SHELL_OWN - {b"OLDPWD"}) if len(names) > 1 else ()
            return {**dict.fromkeys(hidden), **found}
        elif string.startswith(_EXIT):
            raise BollardError(
                f"an environment script of the image ended with status {string[len(_EXIT) :].decode()}",
                "see `bollard inspect --environment`; its own message, if any, is above",
            )
    raise BollardError(
        "an environment script of the image replaced its shell, or took too long",
        "see `bollard inspect --environment` for `exec`",
    )


def environment(strings: list[bytes]) -> dict[bytes, bytes]:
    """Of strings NAME=VALUE, the values by name; the shell's own names and functions left out."""
    found = {}
    for entry in strings:
        name, equals, value = entry.partition(b"=")
        if equals and name not in _SHELL_OWN and not name.startswith(b"BASH_FUNC_"):
            found[name] = value
    return found


def quoted(value: bytes) -> bytes:
    """The word of a shell that stands for `value`."""
    return b"'" + value.replace(b"'", b"'\\''") + b"'"
