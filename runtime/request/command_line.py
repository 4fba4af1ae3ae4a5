# SPDX-License-Identifier: BSD-3-Clause
"""The command line of `bollard`: its parser and its help, made from the table of options.

This module does not use argparse. argparse alone would take half of the time before `bollard exec` opens the image, and
it has no rule "options end at the name of the image".
"""

from __future__ import annotations

import os

from bollard.runtime.errors import BollardError
from bollard.runtime.request import command_options, docker, options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    Own = Mapping[str, tuple[str, str]]

# Apptainer's letters and other names for options.
SHORT = {
    "B": "bind", "c": "contain", "C": "containall", "e": "cleanenv", "f": "fakeroot", "H": "home", "h": "help",
    "i": "ipc", "n": "net", "o": "overlay", "p": "pid", "s": "shell", "S": "scratch", "u": "userns", "w": "writable",
    "W": "workdir", "d": "verbose", "v": "verbose", "F": "force",
}  # fmt: skip
ALIASES = {"cwd": "pwd", "debug": "verbose", "nohttps": "no-https"}

# Values of a switch, as in Apptainer: --contain=false.
_BOOLEANS = {**dict.fromkeys(("1", "t", "true"), "1"), **dict.fromkeys(("0", "f", "false"), "0")}

# Options of every command: name -> (the word for its value, "" for a switch; help).
COMMON = {"help": ("", "show this")}
_WIDTH = 30


def arguments(own: Own, container: bool) -> dict[str, str]:
    """Return {option: the word for its value, "" for a switch} of a command.

    `own` are the command's own options. `container` adds those of options.TABLE.
    """
    known = {name: argument for name, (argument, _) in (*own.items(), *COMMON.items())}
    if container:
        known.update((row.name, row.argument) for row in options.TABLE)
    return known


def _others() -> dict[str, str]:
    """Return the same as `arguments` for Apptainer's options that bollard knows but does not offer."""
    others = {**options.WITHOUT_EFFECT, **dict.fromkeys(options.OPPOSITES, ""), "tmpdir": "DIR"}
    return {**others, **{name: argument for name, (argument, _) in options.REFUSED.items()}}


def letters(command: str) -> dict[str, str]:
    """Return {letter: option} of the command `command`."""
    return {**SHORT, **command_options.SHORT.get(command, {})}


def parse(argv: list[str], command: str, own: Own, container: bool = True) -> tuple[list[tuple[str, str]], list[str]]:
    """Return the options of a command line as (name, value), and its other words. A switch has the value "1" or "0".

    Options end at the first other word, because the words after it can belong to a program. The commands in MIXED run
    no program; their options can come after other words.

    argv       the words after the command's name
    command    name of the command
    own        its own options
    container  it also has the options of options.TABLE

    Raises:
        BollardError: an option is unknown, not supported, has no value, or is a switch with another value.
    """
    offered = arguments(own, container)
    known = {**_others(), **offered} if container else offered
    idle, refused = command_options.NOTHING_TO_DO.get(command, {}), command_options.REFUSED.get(command, {})
    known = {**{name: argument for name, (argument, _) in (*idle.items(), *refused.items())}, **known}
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
        name, given = _option(word, rest, short, known)
        if container and word in docker.LETTERS:
            docker.refuse(word, rest)
        if name not in known:
            raise BollardError(f"{word}: no such option", _similar(name, offered, command, container))
        value = _value(name, given, known[name], rest)
        if name in offered:
            found.append((name, value))
        elif name not in idle:
            found += _not_offered(name, value, refused)
    return found, words + rest


def _option(word: str, rest: list[str], short: Mapping[str, str], known: Mapping[str, str]) -> tuple[str, str | None]:
    """Return the name of the option in `word`, and the value in the same word; None for no value.

    rest   the words that follow; of -eF, -F is put back at their head
    short  {letter: option}
    known  {option: the word for its value, "" for a switch}
    """
    if word.startswith("--"):
        name, equals, value = word[2:].partition("=")
        return ALIASES.get(name, name), value if equals else None
    name, value = short.get(word[1], word[1]), word[2:]
    if not value:
        return name, None
    if known.get(name) == "" and value[0] != "=":  # -eF is -e -F
        rest.insert(0, "-" + value)
        return name, None
    return name, value.removeprefix("=")


def _value(name: str, given: str | None, argument: str, rest: list[str]) -> str:
    """Return the value of an option: "1" or "0" of a switch, else the given one, or the first of the words `rest`."""
    if argument == "":
        value = (given or "1").lower()
        if value not in _BOOLEANS:
            raise BollardError(f"--{name}={given}: a switch takes no value", f"write --{name} alone")
        return _BOOLEANS[value]
    if given is not None:
        return given
    if argument.startswith("["):
        return ""  # a value that may be left out is given with an equals sign
    if not rest:
        raise BollardError(f"--{name} needs a value", f"write --{name}={argument}")
    return rest.pop(0)


def _not_offered(name: str, value: str, refused: Own) -> list[tuple[str, str]]:
    """Return the options that stand for one that a command knows but does not offer; most have no effect.

    name     the option
    value    its value; "0" for a switch that is off
    refused  options that this command refuses: name -> (the word for its value, why)
    """
    if name == "tmpdir":
        os.environ["BOLLARD_TMPDIR"] = value  # where an image that has to be fetched is converted
    if value == "0":
        return []
    why = refused.get(name) or options.REFUSED.get(name)
    if why:
        raise BollardError(f"--{name} is not supported: {why[1]}", "leave it out")
    if name in options.OPPOSITES:
        return [(options.OPPOSITES[name], "0")]
    if name == "no-privs" and os.geteuid() == 0:
        raise BollardError("--no-privs: root keeps root's rights in a container", "start it as another user")
    return []


def refuse_empty(given: list[tuple[str, str]]) -> None:
    """Raise if an option has an empty value, for example from an unset variable in a script.

    Raises:
        BollardError: it names the option.
    """
    for name, value in given:
        if not value and name != "on-slurm":
            raise BollardError(f"--{name}: its value is empty", "give one, or leave the option out")


def _similar(name: str, known: Mapping[str, str], command: str, container: bool) -> str:
    import difflib

    if container and name in docker.OPTIONS:
        return f"docker's --{name}: {docker.OPTIONS[name]}"
    if container and name == "container":
        return f"the image is a word of its own: bollard {command} [OPTION...] IMAGE ..."
    for row in options.TABLE:
        if container and name in (row.slurm, row.opposite) and name:
            own = f"--{row.name}" if name == row.slurm else f"--{row.name}=false"
            return f"that is srun's name; write {own}" if row.name not in ("image", "opts") else "leave it out here"
    close = difflib.get_close_matches(name, known, 1)
    return f"did you mean --{close[0]}?" if close else f"see `bollard {command} --help`"


def variables(environ: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return (name, value) of the environment forms in `environ` that have a value."""
    return [(form, environ[form]) for row in options.TABLE for form in options.variables(row) if environ.get(form)]


def current_directory(environ: Mapping[str, str]) -> str:
    """Return the current directory by the path that the user's shell has for it, as `pwd -L` does; "" if removed."""
    try:
        here, named = os.getcwd(), environ.get("PWD", "")
    except FileNotFoundError:
        return ""  # an error only for a path that counts from there: binds.absolute()
    try:
        same = named.startswith("/") and ".." not in named.split("/") and os.path.samefile(named, here)
    except OSError:
        same = False  # $PWD is of a program that has changed its directory since, or anybody's invention
    return named if same else here


def rows_of(own: Own, container: bool) -> list[tuple[str, str, str, tuple[str, ...]]]:
    """Return the options of a command as (name, argument, help, environment forms)."""
    rows = [(row.name, row.argument, row.help, row.forms) for row in options.TABLE if container]
    return rows + [(name, argument, text, ()) for name, (argument, text) in (*own.items(), *COMMON.items())]


def help_text(command: str, usage: str, what: str, own: Own, container: bool = True) -> str:
    """Return the help text of one command.

    command    its name
    usage      its usage line
    what       what it does
    own        its own options
    container  it also has the options of options.TABLE
    """
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
