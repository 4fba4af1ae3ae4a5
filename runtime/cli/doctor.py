# SPDX-License-Identifier: BSD-3-Clause
"""`bollard doctor`: says what this machine lacks, with the cure for its distribution. machine.py has the checks."""

from __future__ import annotations

import json
import os
import site as python_site
import sys

from bollard.runtime.errors import BollardError


def run(given: list[tuple[str, str]], words: list[str]) -> int:
    """Run `bollard doctor`; return the exit status: 1 if containers do not work on this machine.

    Raises:
        BollardError: there is an argument.
    """
    if words:
        raise BollardError(f"doctor {words[0]}: images are not checked yet", "write `bollard doctor`")
    return _machine("json" in dict(given))


def _machine(as_json: bool) -> int:
    import bollard
    from bollard.runtime.cli import findings

    if sys.flags.no_site:
        python_site.main()  # the installed command runs without the system's packages; cffi is among them
    from bollard.runtime.cli import machine
    from bollard.spank_plugin import finding

    if as_json:
        found = list(machine.findings())
        shown = finding.as_json(found, getattr(bollard, "__version__", ""))
        print(json.dumps(shown, indent=2 if sys.stdout.isatty() else None))
    else:
        found = findings.printed(machine.findings(), os.uname().nodename.split(".")[0])
    return 1 if finding.status(found) == finding.FAILURE else 0
