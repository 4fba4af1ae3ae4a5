# SPDX-License-Identifier: BSD-3-Clause
"""Small root trees for builds: programs of this machine, and files that a test writes."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from building import USER

PROGRAMS = ("sh", "cat", "chmod", "echo", "id", "ln", "ls", "mkdir", "rm", "sleep", "touch")


def owned(path: Path) -> None:
    if os.geteuid() == 0:
        subprocess.run(["chown", "-R", f"{USER}:{USER}", str(path)], check=True)


def write(place: Path, text: str, name: str = "img.def") -> Path:
    path = place / name
    path.write_text(text)
    return path


def labels(path: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads((path / ".singularity.d/labels.json").read_text())
    return found
