# SPDX-License-Identifier: BSD-3-Clause
"""Every command and option of Apptainer, read from its help: forms.txt beside this file.

    python3 tests/peers/forms.py         read it again from the tree of `make peers`

A line is a command, then its options: `-B,--bind=stringArray`, a word after = for those with a value.
"""

from __future__ import annotations

import re
from pathlib import Path

FORMS = Path(__file__).resolve().parent / "forms.txt"
_COMMAND = re.compile(r"  ([a-z0-9-]+) +\S")
_OPTION = re.compile(r"  (?:-(\w), |    )--([a-z0-9-]+)(?: ([a-zA-Z0-9]+))?(?:  .*)?$")


def of_help(text: str) -> tuple[list[str], list[str]]:
    """The commands and the options that a help text lists."""
    commands, options, at = [], [], ""
    for line in text.splitlines():
        if line and line[0] != " ":
            at = line
        elif at == "Available Commands:" and (found := _COMMAND.match(line)):
            commands.append(found[1])
        elif at == "Options:" and (found := _OPTION.match(line)):
            letter, name, value = found.groups()
            options.append((f"-{letter}," if letter else "") + f"--{name}" + (f"={value}" if value else ""))
    return commands, options


def read(tell) -> str:
    """The text of forms.txt; `tell` returns the output of a shell command."""
    lines, left = [], [""]
    while left:
        name = left.pop(0)
        commands, options = of_help(tell(f"apptainer help {name}"))
        lines.append(" ".join([name.replace(" ", "/") or "apptainer", *options]))
        left += [f"{name} {command}".strip() for command in commands]
    return "\n".join(lines) + "\n"


def known() -> dict[str, list[tuple[str, str, str]]]:
    """Command -> (letter, option, word for its value), from forms.txt; "" is apptainer itself."""
    found = {}
    for line in FORMS.read_text().splitlines():
        name, *words = line.split(" ")
        rows = [re.fullmatch(r"(?:-(\w),)?--([a-z0-9-]+)(?:=(\w+))?", word) for word in words]
        name = "" if name == "apptainer" else name.replace("/", " ")
        found[name] = [(row[1] or "", row[2], row[3] or "") for row in rows if row]
    return found


def main() -> None:
    import tree

    machine = tree.Machine()
    try:
        FORMS.write_text(read(lambda command: machine.run(command).stdout.decode()))
    finally:
        machine.stop()


if __name__ == "__main__":
    main()
