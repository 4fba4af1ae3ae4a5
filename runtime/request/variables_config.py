# SPDX-License-Identifier: BSD-3-Clause
"""Variables in bollard.yaml: read names and values, and refuse those that are not the site's to set."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from bollard.mpi import wireup
from bollard.runtime.request.yaml_node import Mistake, is_null, kind, line

# Variables that a site cannot set: environment.py drops or changes them.
_NOT_A_DEFAULT = ("HOME", "PATH", "LD_LIBRARY_PATH", "PWD", "UID", "GID")


def read(name: str, node: Any) -> Iterator[str | Mistake]:
    """Yield NAME=VALUE for each variable in a mapping of PyYAML's tree, and the mistakes. `name`: the key."""
    if is_null(node):
        return
    if node.id != "mapping":
        yield Mistake(line(node), f"{name}: {kind(node)} is no set of names", "write one `NAME: value` a line")
        return
    seen = set()
    for key, item in node.value:
        what, number = f"{name}.{key.value}", line(key)
        if key.id != "scalar" or not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", key.value):
            text = f"{name}: {kind(key)} is no name of a variable"
            yield Mistake(number, text, "use letters, digits and _, and no digit first")
        elif key.value in seen:
            yield Mistake(number, f"{what}: it stands here twice", "remove one of them")
        elif key.value in _NOT_A_DEFAULT or _is_wiring(key.value):
            yield Mistake(number, f"{what}: it is not the site's to set", "Slurm, the user or the image does")
        elif item.id != "scalar" or "\0" in item.value:
            yield Mistake(line(item), f"{what}: {kind(item)} is no text", "write it between quotes")
        else:
            yield f"{key.value}={item.value}"
        if key.id == "scalar":
            seen.add(key.value)


def _is_wiring(name: str) -> bool:
    return name.startswith(("SLURM_", "SLURMD_", "SPANK_")) or bool(wireup.is_guarded(name.encode()))
