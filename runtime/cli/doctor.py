# SPDX-License-Identifier: BSD-3-Clause
"""`bollard doctor`: what this machine lacks, with the cure for its distribution, or what an image needs.

machine.py has the checks of the machine, image_findings.py those of an image.
"""

from __future__ import annotations

import json
import os
import site as python_site
import sys
from typing import TYPE_CHECKING

from bollard.runtime.errors import BollardError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from bollard.spank_plugin.finding import Finding


def run(given: list[tuple[str, str]], words: list[str]) -> int:
    """Run `bollard doctor`; return the exit status: 1 if containers, or the image, do not work on this machine.

    Raises:
        BollardError: there are two images, an option has no image, or the image cannot be opened.
    """
    options = dict(given)
    if len(words) > 1:
        raise BollardError(f"doctor {words[1]}: one image at a time", "write `bollard doctor IMAGE`")
    if words:
        return _image(words[0], options)
    for name in ("mpi", "nodes"):
        if name in options:
            raise BollardError(f"doctor --{name} without an image", f"write `bollard doctor --{name} ... IMAGE`")
    return _machine("json" in options)


def _image(path: str, options: dict[str, str]) -> int:
    from bollard.runtime.cli import image_findings

    if "nodes" in options:
        more = [f"--mpi={options['mpi']}"] if "mpi" in options else []
        more += ["--json"] if "json" in options else []
        return image_findings.on_nodes(options["nodes"], ["doctor", *more, os.path.abspath(path)])
    if sys.flags.no_site:
        python_site.main()
    from bollard.runtime import installed

    if installed.BY_PIP:
        from bollard.runtime.local import host_programs

        host_programs.use()
    from bollard.runtime.preflight import client

    found = client.read_again(path, os.environ)
    level, slurm = image_findings.cpu_level(), image_findings.slurm()
    return _shown(image_findings.findings(found, slurm, options.get("mpi", ""), level), "json" in options, found)


def _machine(as_json: bool) -> int:
    if sys.flags.no_site:
        python_site.main()  # the installed command runs without the system's packages; cffi is among them
    from bollard.runtime.cli import machine

    return _shown(machine.findings(), as_json)


def _shown(told: Iterable[Finding], as_json: bool, image: dict[str, Any] | None = None) -> int:
    """Print the findings, as JSON with what was read of the image; return the exit status."""
    import bollard
    from bollard.runtime.cli import findings
    from bollard.spank_plugin import finding

    if as_json:
        found = list(told)
        shown = finding.as_json(found, getattr(bollard, "__version__", ""))
        if image is not None:
            shown["image"] = image
        print(json.dumps(shown, indent=2 if sys.stdout.isatty() else None))
    else:
        found = findings.printed(told, os.uname().nodename.split(".")[0])
    return 1 if finding.status(found) == finding.FAILURE else 0
