# SPDX-License-Identifier: BSD-3-Clause
"""Manual pages, rendered from the tables of commands and options.

python3 -m bollard.runtime.cli.manual DIR     write bollard.1, bollard-exec.1, ... into DIR
"""

from __future__ import annotations

import sys
from pathlib import Path

import bollard
from bollard.runtime.cli.commands import COMMANDS
from bollard.runtime.errors import BollardError
from bollard.runtime.request import command_line, options

_ESCAPES = {"\\": r"\e", "-": r"\-", "'": r"\(aq", "`": r"\(ga", "^": r"\(ha", "~": r"\(ti"}

_ABOUT = (
    "Containers as part of Slurm, and by hand.",
    "An image is a SIF file, a squashfs file or the root directory of a container.",
)
_OF_A_CONTAINER = (
    "Options end at the image's name; what follows is the program's.",
    "Signals, terminal and standard streams are the program's own.",
)
_STATUS = (
    "0\tall went well",
    "255\tbollard failed; one line on standard error says why, and what to do",
)
_STATUS_OF_A_PROGRAM = ("n\twhat the program exits with",)


def name_of(command: str) -> str:
    """Return the name of a command's manual page: bollard-sif-list for "sif list", bollard for ""."""
    return "-".join(["bollard", *command.split()])


def man_page(command: str = "") -> str:
    """Return the manual page of one command, in roff with the man macros; for "", the overview of all commands."""
    return "\n".join([*_head(command), *(_command(command) if command else _overview()), ""])


def _head(command: str) -> list[str]:
    name = name_of(command)
    what = COMMANDS[command][1] if command else "containers as part of Slurm, and by hand"
    title = f'.TH {_text(name.upper())} 1 "" "bollard {bollard.__version__}" "User Commands"'
    return [title, ".SH NAME", f"{_text(name)} \\- {_text(what)}", ".SH SYNOPSIS"]


def _overview() -> list[str]:
    lines = [r".B bollard", r".I COMMAND", "[OPTION...]", "WORD...", ".br", r"srun \-\-container=IMAGE PROGRAM ..."]
    lines += [".SH DESCRIPTION", *map(_text, _ABOUT), ".SH COMMANDS"]
    for command, row in COMMANDS.items():
        lines += [".TP", rf".BR {_text(name_of(command))} (1)", _text(row[1])]
    lines += [".SH OPTIONS OF SRUN, SBATCH AND SALLOC", ".TP", r"\fB\-\-container\fR=\fIIMAGE\fR"]
    lines.append("start the job's programs in a container of this image")
    for option in options.TABLE:
        if option.slurm:
            names = f"{option.slurm}|{option.opposite}" if option.opposite else option.slurm
            lines += [".TP", _flag("", names, option.argument, "="), *_help(option.help, option.forms)]
    return [*lines, *_rows("EXIT STATUS", _STATUS)]


def _command(command: str) -> list[str]:
    usage, what, own, container = COMMANDS[command]
    letter = {name: short for short, name in command_line.letters(command).items()}
    lines = [
        rf"\fBbollard {_text(command)}\fR {_text(usage)}",
        ".SH DESCRIPTION",
        _text(what[0].upper() + what[1:] + "."),
    ]
    lines += map(_text, _OF_A_CONTAINER if container else ())
    lines.append(".SH OPTIONS")
    for name, argument, text, forms in command_line.rows_of(own, container):
        lines += [".TP", _flag(letter.get(name, ""), name, argument, " "), *_help(text, forms)]
    if container:
        lines += [
            ".SH ENVIRONMENT",
            "A variable named with an option stands for it, and so do its forms that begin with",
        ]
        lines += [
            r".B APPTAINER_",
            "and",
            r".BR SINGULARITY_ .",
            "Of several, the option counts first, then these in order.",
        ]
    status = (*_STATUS_OF_A_PROGRAM, _STATUS[1]) if container and command != "plan" else _STATUS
    others = [other for other in COMMANDS if other != command and other.split()[0] == command.split()[0]]
    pages = [rf".BR {_text(name_of(other))} (1)" for other in ("", *others)]
    pages[:-1] = [page + "," for page in pages[:-1]]
    return [*lines, *_rows("EXIT STATUS", status), ".SH SEE ALSO", *pages]


def _flag(letter: str, name: str, argument: str, between: str) -> str:
    short = rf"\fB\-{letter}\fR, " if letter else ""
    return short + rf"\fB\-\-{_text(name)}\fR" + (rf"{between}\fI{_text(argument)}\fR" if argument else "")


def _help(text: str, forms: tuple[str, ...]) -> list[str]:
    return [_text(text), *([".br", f"Environment: {_text(', '.join(forms))}"] if forms else [])]


def _rows(title: str, rows: tuple[str, ...]) -> list[str]:
    lines = [f".SH {title}"]
    for row in rows:
        left, _, right = row.partition("\t")
        lines += [".TP", _text(left), _text(right)]
    return lines


def _text(text: str) -> str:
    """Return plain text with the characters escaped that have a meaning in roff."""
    found = "".join(_ESCAPES.get(c, c) for c in text)
    return "\\&" + found if found.startswith((".", "'")) else found


def write(folder: Path) -> list[Path]:
    """Write all manual pages into the directory `folder`; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    pages = []
    for command in ("", *COMMANDS):
        path = folder / f"{name_of(command)}.1"
        path.write_text(man_page(command), encoding="utf-8")
        pages.append(path)
    return pages


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(
            f"bollard: {BollardError('manual takes a directory', 'write python3 -m bollard.runtime.cli.manual DIR')}"
        )
    write(Path(sys.argv[1]))
