# SPDX-License-Identifier: BSD-3-Clause
"""The key `fabrics` of bollard.yaml: read and check what the site's networks need in containers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from bollard.runtime.request import variables_config
from bollard.runtime.request.yaml_node import Mistake, checked_path, is_null, kind, line

KINDS = ("provider", "libraries", "devices", "environment")


def read(name: str, node: Any) -> Iterator[str | Mistake]:
    """Yield FABRIC:KIND:VALUE for each value of each fabric, and the mistakes; container/fabrics.py reads them.

    name: "fabrics".
    node: its value in PyYAML's tree.
    """
    if is_null(node):
        return
    if node.id != "mapping":
        yield Mistake(line(node), f"{name}: {kind(node)} is no set of fabrics", "write `NAME: {provider: FILE}`")
        return
    for key, fabric in node.value:
        what = f"{name}.{key.value}"
        if key.id != "scalar" or not re.fullmatch("[A-Za-z0-9_-]+", key.value):
            yield Mistake(line(key), f"{name}: {kind(key)} is no name of a fabric", "use letters, digits, _ and -")
        elif fabric.id != "mapping":
            yield Mistake(line(fabric), f"{what}: {kind(fabric)} is no fabric", "write `{provider: FILE}`")
        else:
            yield from _fabric(what, str(key.value), fabric)


def _fabric(what: str, name: str, node: Any) -> Iterator[str | Mistake]:
    given = {str(key.value): value for key, value in node.value}
    for key, value in given.items():
        if key not in KINDS:
            yield Mistake(line(value), f'{what}: no key is called "{key}"', f"the keys are {', '.join(KINDS)}")
        elif key == "environment":
            for item in variables_config.read(f"{what}.{key}", value):
                yield item if isinstance(item, Mistake) else f"{name}:{key}:{item}"
        else:
            for item in value.value if value.id == "sequence" else [value]:
                yield _path(f"{what}.{key}", name, key, item)
    if not given.get("provider"):
        yield Mistake(line(node), f"{what}: it has no provider", "write `provider: /PATH/libNAME-fi.so`")


def _path(what: str, name: str, key: str, node: Any) -> str | Mistake:
    if node.id != "scalar" or not node.value:
        return Mistake(line(node), f"{what}: {kind(node)} where a path is expected", "write its path, from / on")
    path = checked_path(what, node.value, line(node))
    if isinstance(path, Mistake):
        return path
    if "*" in path.rstrip("*") or (path.endswith("*") and key != "devices"):
        return Mistake(line(node), f'{what}: "{path}" has a * in it', "only a device may have one, as its last letter")
    return f"{name}:{key}:{path}"
