#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Write docs/apptainer-forms.md: every command and option of Apptainer, and what bollard does with it.

The list is tests/peers/forms.txt, read from Apptainer's own help. The verdicts are computed from the tables by which
bollard parses its command line: the page cannot promise what the command does not do.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import NamedTuple

TOP = Path(__file__).resolve().parent.parent
PAGE = TOP / "docs/apptainer-forms.md"
if "bollard" not in sys.modules:  # a checkout, where the packages go by the names of their folders
    sys.modules["bollard"] = types.ModuleType("bollard")
    sys.modules["bollard"].__path__ = [str(TOP)]
sys.path.insert(0, str(TOP / "tests/peers"))

import forms  # noqa: E402

from bollard.runtime.cli import commands, completion, main  # noqa: E402
from bollard.runtime.request import command_line, command_options, options  # noqa: E402

SAME, NOTHING, REFUSED, UNKNOWN = "the same", "nothing to do", "refused", "unknown"
# What main.py handles before it looks at the table of commands.
BUILT_IN = ("", "help", "version", *(f"completion {shell}" for shell in completion.SHELLS))
# Why options.WITHOUT_EFFECT have none.
WHY = {
    "userns": "a container always has a user namespace",
    "unsquash": "an image is mounted, never unpacked",
    "underlay": "missing mount points are made in any case",
    "no-init": "one program reaps the processes of a private process namespace; see from-apptainer.md",
    "no-privs": "a container has its user's rights; refused for root",
    "sharens": "ranks of a step or of mpirun share a user namespace in any case; see mpi.md",
    "ignore-fakeroot-command": "the host's fakeroot is not used",
    "ignore-subuid": "one id is mapped",
    "ignore-userns": "a container always has a user namespace",
    "no-oci": "there is one kind of container",
}


class Form(NamedTuple):
    """One form: a command, or one of its options; the verdict and its reason."""

    command: str
    option: str  # "" for the command itself
    verdict: str
    why: str = ""


def family(name: str) -> bool:
    return any(command.startswith(name + " ") for command in commands.COMMANDS)


def of_command(name: str) -> Form:
    if name in commands.COMMANDS or name in BUILT_IN or family(name):
        return Form(name, "", SAME)
    if name in commands.REFUSED:
        return Form(name, "", REFUSED, "; ".join(commands.REFUSED[name]))
    return Form(name, "", UNKNOWN)


def of_global(letter: str, name: str) -> tuple[str, str]:
    if name == "config":
        return REFUSED, "a site's settings are in /etc/bollard/bollard.yaml"
    if name == "build-config":
        return NOTHING, "there is one configuration"
    known = {"--help", "--version", *main.GLOBAL}
    return (SAME if f"--{name}" in known and (not letter or f"-{letter}" in {"-h", *known}) else UNKNOWN), ""


def of_option(command: str, letter: str, name: str, value: str) -> tuple[str, str]:
    """The verdict on one option of a command that bollard has, and the reason."""
    if name == "help":
        return SAME, ""
    if not command:
        return of_global(letter, name)
    own_name = command_line.ALIASES.get(name, name)
    idle = command_options.NOTHING_TO_DO.get(command, {})
    refused = command_options.REFUSED.get(command, {})
    if name in idle:
        return NOTHING, idle[name][1]
    if name in refused:
        return REFUSED, refused[name][1]
    _, _, own, container = commands.COMMANDS.get(command, ("", "", {}, False))
    offered = command_line.arguments(own, container)
    if own_name in offered:
        wrong = bool(offered[own_name]) != bool(value)
        wrong |= bool(letter) and command_line.letters(command).get(letter, letter) != own_name
        return (UNKNOWN, "another form") if wrong else (SAME, "")
    if container and (own_name in options.OPPOSITES or own_name == "tmpdir"):
        return SAME, ""
    if container and own_name in options.WITHOUT_EFFECT:
        return NOTHING, WHY[own_name]
    if container and own_name in options.REFUSED:
        return REFUSED, options.REFUSED[own_name][1]
    return UNKNOWN, ""


def judged() -> list[Form]:
    """Every form of Apptainer with its verdict."""
    found = []
    for command, rows in forms.known().items():
        form = of_command(command)
        found.append(form)
        for letter, name, value in rows:
            option = (f"-{letter}, " if letter else "") + f"--{name}"
            if form.verdict == SAME:
                found.append(Form(command, option, *of_option(command, letter, name, value)))
            else:
                found.append(Form(command, option, form.verdict, "with its command"))
    return found


def cell(text: str) -> str:
    return text.replace("|", "\\|")


def page() -> str:
    """The text of the page."""
    found = judged()
    lines = [
        "# Every form of Apptainer's command",
        "",
        "What bollard does with each command and option of Apptainer 1.4.5. [from-apptainer.md](from-apptainer.md) has",
        "the differences in behaviour. `docs/apptainer_forms.py` writes this page from Apptainer's help and bollard's",
        "tables.",
        "",
        "| | commands | options |",
        "|---|---|---|",
    ]
    for verdict in (SAME, NOTHING, REFUSED, UNKNOWN):
        of = [form for form in found if form.verdict == verdict]
        count = len([form for form in of if form.option])
        lines.append(f"| {verdict} | {len(of) - count} | {count} |")
    lines += ["", "## Commands", "", "| command | | why, and what to do instead |", "|---|---|---|"]
    for form in found:
        if not form.option and form.command and not (form.verdict != SAME and " " in form.command and same_group(form)):
            lines.append(f"| `{form.command}` | {form.verdict} | {cell(form.why)} |")
    lines += ["", "A command of a group that is refused as a whole is not listed: it has the answer of its group."]
    lines += ["", "## Options that differ", "", "| option | of | | why |", "|---|---|---|---|"]
    rows: dict[tuple[str, str, str], list[str]] = {}
    for form in found:
        if form.option and form.verdict in (NOTHING, REFUSED, UNKNOWN) and form.why != "with its command":
            rows.setdefault((form.option, form.verdict, form.why), []).append(form.command or "apptainer")
    for (option, verdict, why), names in sorted(rows.items(), key=lambda row: row[0][0].split("--")[1]):
        lines.append(f"| `{option}` | {', '.join(f'`{name}`' for name in names)} | {verdict} | {cell(why)} |")
    lines += ["", "## Options that are the same", "", "| command | options |", "|---|---|"]
    for command in forms.known():
        own = [form.option for form in found if form.command == command and form.option and form.verdict == SAME]
        own = [option for option in own if not option.endswith("--help")]
        if own:
            lines.append(f"| `{command or 'apptainer'}` | {' '.join(f'`{option}`' for option in own)} |")
    return "\n".join(lines) + "\n"


def same_group(form: Form) -> bool:
    """Whether the group of a command has the same verdict and reason."""
    return of_command(form.command.split(" ")[0])[2:] == form[2:]


if __name__ == "__main__":
    PAGE.write_text(page())
