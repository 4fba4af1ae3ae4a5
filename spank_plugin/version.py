# SPDX-License-Identifier: BSD-3-Clause
"""The version of a checkout or of a source release. Every build writes it into its copy of bollard/__init__.py.

setup.py loads this file by its path, so it imports nothing of bollard.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = "runtime/_root/__init__.py"  # what becomes bollard/__init__.py
_LINE = re.compile(r'^__version__ = "(.+)"$', re.MULTILINE)


def version(top: Path) -> str:
    """The version of the sources in `top` (PEP 440).

    Without git, or outside a checkout, it is what the sources state: `make dist` has written it there. In a checkout
    the tag vX.Y.Z at the commit counts. A later commit has the number after the tag's; one before any tag has the
    number in the sources. Both have `.devN` for N commits, and the commit's hash behind a plus sign.

    Raises:
        ValueError: the sources state no version.
    """
    root = top / ROOT
    stated = _LINE.search((root if root.exists() else top / "__init__.py").read_text())
    if stated is None:
        raise ValueError(f'{root}: no line __version__ = "..."')
    if not (top / ".git").exists():  # a source release may lie inside a checkout of something else
        return stated[1]
    described = _git(top, "describe", "--tags", "--long", "--match", "v[0-9]*")
    if described:
        return from_tag(described)
    count, commit = _git(top, "rev-list", "--count", "HEAD"), _git(top, "rev-parse", "--short", "HEAD")
    return f"{stated[1]}.dev{count}+g{commit}" if count and commit else stated[1]


def from_tag(described: str) -> str:
    """The version for the output of `git describe --long`: "v0.2.0-3-gabc1234" is 0.2.1.dev3+gabc1234."""
    tag, distance, commit = described.rsplit("-", 2)
    number = tag.lstrip("v")
    if distance == "0":
        return number
    *first, last = number.split(".")
    following = re.sub(r"^\d+$", lambda found: str(int(found[0]) + 1), last)
    return f"{'.'.join([*first, following])}.dev{distance}+{commit}"


def stamped(text: str, number: str) -> str:
    """`text`, the content of bollard/__init__.py, with the version `number` in it."""
    return _LINE.sub(f'__version__ = "{number}"', text)


def _git(top: Path, *words: str) -> str:
    """The output of git in `top`; "" when git is missing or fails."""
    command = ["git", "-c", "safe.directory=*", *words]
    try:
        done = subprocess.run(
            command, cwd=top, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False
        )
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
