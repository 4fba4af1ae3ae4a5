#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Print the tables of docs/options.md, from the table of options."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "runtime/request"))
import options  # noqa: E402


def cell(text: str) -> str:
    return text.replace("|", "\\|")


def code(*words: str) -> str:
    return ", ".join(f"`{cell(word)}`" for word in words)


def slurm_table() -> list[str]:
    lines = ["| option of srun, sbatch, salloc | | `bollard exec` | variables |", "|---|---|---|---|"]
    for name, argument, variables, slurm, text in options.TABLE:
        if slurm:
            positive, _, opposite = slurm.partition("|")
            head = code(f"--{positive}" + (f"={argument}" if argument else ""))
            head += f"; opposite: {code('--' + opposite)}" if opposite else ""
            own = code(f"--{name}") if name not in ("image", "opts") else ""
            lines.append(f"| {head} | {text} | {own} | {code(*(form.lstrip('!') for form in variables))} |")
    return lines


def command_table() -> list[str]:
    lines = ["| `bollard exec` | | variables |", "|---|---|---|"]
    for name, argument, variables, slurm, text in options.TABLE:
        if not slurm:
            head = code(f"--{name}" + (f" {argument}" if argument else ""))
            lines.append(f"| {head} | {text} | {code(*variables)} |")
    return lines


if __name__ == "__main__":
    print("\n".join([*slurm_table(), "", *command_table()]))
