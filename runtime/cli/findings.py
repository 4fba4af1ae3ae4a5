# SPDX-License-Identifier: BSD-3-Clause
"""Print the findings of checks. `bollard site check` and `bollard doctor` use it."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from bollard.runtime.cli import terminal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bollard.spank_plugin.finding import Finding

_COLOURS = {"ok": "\033[32m", "warning": "\033[33m", "failure": "\033[31m"}


def printed(found: Iterable[Finding], node: str) -> list[Finding]:
    """Print each finding as soon as it is known; return all of them.

    On a terminal they are a table. Elsewhere each is one line that names `node`, because srun mixes lines of nodes.
    """
    seen = []
    on_terminal = sys.stdout.isatty()
    colour = on_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    for finding in found:
        seen.append(finding)
        if on_terminal:
            state = f"{finding.state:<8}"
            terminal.own(f"{_COLOURS[finding.state]}{state}\033[0m" if colour else state)
            print(f"{finding.check:<18}{finding.text}")
            if finding.fix:
                print(f"{'':<26}-> {finding.fix}")
        else:
            print(
                f"{node}: {finding.state}: {finding.check}: {finding.text}"
                + (f"; {finding.fix}" if finding.fix else "")
            )
        sys.stdout.flush()
    return seen
