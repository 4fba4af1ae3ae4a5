#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Print the tables of docs/options.md, from the table of options."""

from __future__ import annotations

import sys
import types
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
if "bollard" not in sys.modules:  # a checkout, where the packages go by the names of their folders
    sys.modules["bollard"] = types.ModuleType("bollard")
    sys.modules["bollard"].__path__ = [str(TOP)]

from bollard.runtime.request import options  # noqa: E402


def cell(text: str) -> str:
    return text.replace("|", "\\|")


def code(*words: str) -> str:
    return ", ".join(f"`{cell(word)}`" for word in words)


def slurm_table() -> list[str]:
    lines = ["| option of srun, sbatch, salloc | | `bollard exec` | variables |", "|---|---|---|---|"]
    for row in options.TABLE:
        if row.slurm:
            head = code(f"--{row.slurm}" + (f"={row.argument}" if row.argument else ""))
            head += f"; opposite: {code('--' + row.opposite)}" if row.opposite else ""
            own = code(f"--{row.name}") if row.name not in ("image", "opts") else ""
            lines.append(f"| {head} | {row.help} | {own} | {code(*(form.lstrip('!') for form in row.forms))} |")
    return lines


def command_table() -> list[str]:
    lines = ["| `bollard exec` | | variables |", "|---|---|---|"]
    for row in options.TABLE:
        if not row.slurm:
            head = code(f"--{row.name}" + (f" {row.argument}" if row.argument else ""))
            lines.append(f"| {head} | {row.help} | {code(*row.forms)} |")
    return lines


if __name__ == "__main__":
    print("\n".join([*slurm_table(), "", *command_table()]))
