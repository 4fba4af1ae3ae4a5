# SPDX-License-Identifier: BSD-3-Clause
"""The script with which the image's own shell evaluates the image's environment scripts, and the shell's answer.

bollard-enter runs this script with the image's bash, or with its sh if it has no bash. The script sources the image's
files with the rules of Apptainer's embedded interpreter. A file with a syntax error is skipped as a whole. If a file
ends the shell, the container does not start. The answer is a list of NUL-terminated strings:

    started            a shell has read the script
    names ...          bash: the names of the variables before the files, one per line
    plain              the shell is not bash
    exit STATUS        a file ended the shell
    names ...          bash: the names of the variables after the files
    done               all files were read; the environment follows, NAME=VALUE

This module runs on the node path: it imports only modules of that path.
"""

from __future__ import annotations

import os

from bollard.runtime import constants
from bollard.runtime.errors import BollardError

# Files that need more than their text: Apptainer completes PATH before FIRST_PATH and after the files of DOCKER. It has
# the code of BUILT_IN built in, so that file is not read.
DOCKER = ("10-docker2singularity.sh", "10-docker.sh", "environment")
FIRST_PATH = "90-environment.sh"
BUILT_IN = "99-runtimevars.sh"

# QUIET_FD: a file in memory of bollard-enter, for output that is shown only if a script fails.
# PRINTER: a command that writes its environment to standard output. It is bollard-enter, by a descriptor kept open.
QUIET_FD = constants.QUIET_FD
PRINTER = f"/proc/self/fd/{constants.PRINTER_FD} {constants.PRINTER_OPTION}".encode()
DEFAULT_PATH = constants.DEFAULT_PATH.encode()

# Variables that a shell sets or changes by itself.
_SHELL_OWN = frozenset((b"_", b"SHLVL", b"PWD", b"OLDPWD"))
# How many bytes of files the script may contain. It is one argument, of at most 128 KiB (MAX_ARG_STRLEN of execve(2)).
_EMBEDDED_MAX = 64 * 1024
_MARK = b"end-of-environment-script"
_STARTED, _NAMES, _EXIT, _DONE = b"started", b"names ", b"exit ", b"done"
_PLAIN = b"plain"
# Words of bash that dash and busybox take for programs, or for text: nothing ends the script there.
_BASH_WORDS = frozenset(
    (b"[[", b"==", b"declare", b"typeset", b"function", b"let", b"mapfile", b"popd", b"pushd", b"readarray", b"shopt")
)

# dash has no `source`, and it ends when `.` fails, except after `command`. dash knows only descriptors of one digit.
# Apptainer's interpreter has no traps, expands aliases, and runs the last part of a pipeline in the shell itself.
_PRELUDE = rb"""exec 8>&1 >&2
printf 'started\0' >&8
trap 'printf "exit %s\0" "$?" >&8' EXIT
if [ -n "${BASH_VERSION-}" ]; then
    shopt -s expand_aliases lastpipe
    eval 'trap() { echo "trap: not supported in an environment script" >&2; }'
else
    printf 'plain\0' >&8
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
    """Return the script that sources the image's files and prints the resulting environment.

    scripts   (name, text) of the files
    doubtful  names of the files whose syntax may be wrong. bash would run the part before a syntax error, so the script
              lets bash check these files first.
    cwd       directory in which the files are sourced
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
        if b"\r\n" in text and len(text) < left:  # Apptainer accepts CR LF at line ends; a shell does not
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
    """Return the variables that the files set; the value None means "not exported". None if no shell could run.

    Raises:
        BollardError: a file ended or replaced the shell, or took too long.
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


def lost_without_bash(scripts: list[tuple[str, bytes]], answer: bytes) -> str:
    """Return the warning about files that are written for bash, if another shell has read them; "" if there are none.

    scripts  (name, text) of the files
    answer   what the shell printed
    """
    if _PLAIN not in answer.split(b"\0", 2)[:2]:
        return ""
    found = [name for name, text in scripts if name != BUILT_IN and _has_bash_words(text)]
    if not found:
        return ""
    return f"the image has no bash, for which {', '.join(found)} may be written; variables may be missing"


def _has_bash_words(text: bytes) -> bool:
    for line in text.split(b"\n"):
        if line.lstrip().startswith(b"#"):
            continue
        if b"=(" in line or b"<<<" in line:
            return True
        for word in line.replace(b";", b" ").replace(b"(", b" ").split():
            name, appends, _ = word.partition(b"+=")
            is_name = name.replace(b"_", b"a").isalnum()
            if word in _BASH_WORDS or (appends and is_name) or b"=$'" in word:
                return True
    return False


def environment(strings: list[bytes]) -> dict[bytes, bytes]:
    """Return {name: value} of strings NAME=VALUE, without the shell's own variables and functions."""
    found = {}
    for entry in strings:
        name, equals, value = entry.partition(b"=")
        if equals and name not in _SHELL_OWN and not name.startswith(b"BASH_FUNC_"):
            found[name] = value
    return found


def quoted(value: bytes) -> bytes:
    """Return `value` quoted as one word of a shell."""
    return b"'" + value.replace(b"'", b"'\\''") + b"'"
