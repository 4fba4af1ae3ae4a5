# SPDX-License-Identifier: BSD-3-Clause
"""The command line of `bollard`, rendered from the table of options: reading it, and its help.

Read by hand, for argparse alone would be half of the time that `bollard exec` takes before the image is opened,
and knows no "options end at the image's name".
"""

from __future__ import annotations

import os

from bollard.runtime.errors import BollardError
from bollard.runtime.request import command_options, options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    Own = Mapping[str, tuple[str, str]]

# Apptainer's short and other names.
SHORT = {
    "B": "bind", "c": "contain", "C": "containall", "e": "cleanenv", "f": "fakeroot", "H": "home", "h": "help",
    "i": "ipc", "n": "net", "o": "overlay", "p": "pid", "s": "shell", "S": "scratch", "u": "userns", "w": "writable",
    "W": "workdir", "d": "verbose", "v": "verbose", "F": "force",
}  # fmt: skip
ALIASES = {"cwd": "pwd", "debug": "verbose", "nohttps": "no-https"}

# Apptainer's switches can be given a value, --contain=false.
_BOOLEANS = {**dict.fromkeys(("1", "t", "true"), "1"), **dict.fromkeys(("0", "f", "false"), "0")}

# A command's own options: name -> (the word that stands for its value, or "" for a switch; help).
COMMON = {"help": ("", "show this")}
_WIDTH = 30


def arguments(own: Own, container: bool) -> dict[str, str]:
    """Option name -> the word that stands for its value, "" for a switch."""
    known = {name: argument for name, (argument, _) in (*own.items(), *COMMON.items())}
    if container:
        known.update((row.name, row.argument) for row in options.TABLE)
    return known


def _others() -> dict[str, str]:
    """As `arguments`, for Apptainer's options that are known and not offered."""
    others = {**options.WITHOUT_EFFECT, **dict.fromkeys(options.OPPOSITES, ""), "tmpdir": "DIR"}
    return {**others, **{name: argument for name, (argument, _) in options.REFUSED.items()}}


def letters(command: str) -> dict[str, str]:
    """Letter -> name of the options that have one in `command`."""
    return {**SHORT, **command_options.SHORT.get(command, {})}


def parse(argv: list[str], command: str, own: Own, container: bool = True) -> tuple[list[tuple[str, str]], list[str]]:
    """The options as (name, value), "1" for a switch, and the other words. Options end at the first word that is none,
    for what follows may be a program's; but not in the commands that run none (MIXED)."""
    offered = arguments(own, container)
    known = {**_others(), **offered} if container else offered
    short = letters(command)
    found: list[tuple[str, str]] = []
    words: list[str] = []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-") or word == "-":
            words.append(word)
            if command not in command_options.MIXED:
                break
            continue
        if word == "--":
            break
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            name, given = ALIASES.get(name, name), value if equals else None
        else:
            name, given = short.get(word[1], word[1]), word[2:] or None
            if given is not None and known.get(name) == "" and given[0] != "=":  # -eF is -e -F
                rest.insert(0, "-" + given)
                given = None
            elif given is not None:
                given = given.removeprefix("=")
        if name not in known:
            raise BollardError(f"{word}: no such option", _similar(name, offered, command, container))
        if container and word == "-v" and rest and _is_bind(rest[0]):
            raise BollardError(f"-v {rest[0]}: -v is --verbose here", f"write --bind {rest[0]}")
        if known[name] == "":
            if (given or "1").lower() not in _BOOLEANS:
                raise BollardError(f"--{name}={given}: a switch takes no value", f"write --{name} alone")
            given = _BOOLEANS[(given or "1").lower()]
        elif given is None:
            if not rest:
                raise BollardError(f"--{name} needs a value", f"write --{name}={known[name]}")
            given = rest.pop(0)
        if name in offered:
            found.append((name, given))
        elif name in options.REFUSED and given != "0":
            raise BollardError(f"--{name} is not supported: {options.REFUSED[name][1]}", "leave it out")
        elif name in options.OPPOSITES and given != "0":
            found.append((options.OPPOSITES[name], "0"))
        elif name == "tmpdir":
            os.environ["BOLLARD_TMPDIR"] = given  # where an image that has to be fetched is converted
        elif name == "no-privs" and given != "0" and os.geteuid() == 0:
            raise BollardError("--no-privs: root keeps root's rights in a container", "start it as another user")
    return found, words + rest


def refuse_empty(given: list[tuple[str, str]]) -> None:
    """Raise BollardError for an option without a value, as a variable that is not set makes of it in a script."""
    for name, value in given:
        if not value:
            raise BollardError(f"--{name}: its value is empty", "give one, or leave the option out")


def _is_bind(word: str) -> bool:
    """Whether a word is docker's SRC:DST rather than an image."""
    return word[:1] in ("/", ".", "~") and ":" in word


def _similar(name: str, known: Mapping[str, str], command: str, container: bool) -> str:
    import difflib

    if container and name == "volume":
        return "docker's --volume SRC:DST is --bind SRC:DST here"
    if container and name == "container":
        return f"the image is a word of its own: bollard {command} [OPTION...] IMAGE ..."
    for row in options.TABLE:
        if container and name in (row.slurm, row.opposite) and name:
            own = f"--{row.name}" if name == row.slurm else f"--{row.name}=false"
            return f"that is srun's name; write {own}" if row.name not in ("image", "opts") else "leave it out here"
    close = difflib.get_close_matches(name, known, 1)
    return f"did you mean --{close[0]}?" if close else f"see `bollard {command} --help`"


def variables(environ: Mapping[str, str]) -> list[tuple[str, str]]:
    """The environment forms of the options that are set to something."""
    return [(form, environ[form]) for row in options.TABLE for form in options.variables(row) if environ.get(form)]


def rows_of(own: Own, container: bool) -> list[tuple[str, str, str, tuple[str, ...]]]:
    """The options of a command as (name, argument, help, environment forms)."""
    rows = [(row.name, row.argument, row.help, row.forms) for row in options.TABLE if container]
    return rows + [(name, argument, text, ()) for name, (argument, text) in (*own.items(), *COMMON.items())]


def help_text(command: str, usage: str, what: str, own: Own, container: bool = True) -> str:
    """The help of one command."""
    short = {name: letter for letter, name in letters(command).items()}
    rows = rows_of(own, container)
    lines = [f"usage: {usage}", "", what, "", "options:"]
    for name, argument, text, forms in rows:
        head = f"  -{short[name]}, --{name}" if name in short else f"      --{name}"
        head += f" {argument}" if argument else ""
        if forms:
            text += f" [{', '.join(forms)}]"
        lines += _two_columns(head, text)
    if container:
        lines += [
            "",
            "A variable in brackets stands for the option, and so do its forms with APPTAINER_ and SINGULARITY_.",
        ]
    return "\n".join(lines) + "\n"


def _two_columns(head: str, text: str) -> list[str]:
    words, lines, line = text.split(" "), [], ""
    for word in words:
        if line and len(line) + len(word) > 110 - _WIDTH:
            lines.append(line)
            line = ""
        line += (" " if line else "") + word
    lines.append(line)
    if len(head) > _WIDTH - 2:
        return [head, *(" " * _WIDTH + line for line in lines)]
    return [f"{head:<{_WIDTH}}{lines[0]}", *(" " * _WIDTH + line for line in lines[1:])]
