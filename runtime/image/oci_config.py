# SPDX-License-Identifier: BSD-3-Clause
"""Turn the configuration of an OCI image into the scripts and labels of a container.

`bollard build` writes them into the image that it converts. The keeper writes them beside the layers of an OCI-SIF
image, so this module is on the node path: it imports nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def strings(value: object) -> list[str]:
    """Return the strings of a list from JSON; [] if `value` is no list."""
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def scripts(config: dict[str, Any]) -> dict[str, str]:
    """Return the scripts for an image's configuration: path below `.singularity.d` and text."""
    lines = ["#!/bin/sh"]
    for pair in strings(config.get("Env")):
        name, equals, value = pair.partition("=")
        if not (name.isascii() and name.isidentifier()):
            continue
        quoted = "".join("\\" + c if c in '"\\`$' else c for c in value)
        if not equals:
            lines.append(f'export {name}="${{{name}:-}}"')
        elif name == "PATH":
            lines.append(f'export PATH="{quoted}"')
        else:
            lines.append(f'export {name}="${{{name}:-"{quoted}"}}"')
    return {
        "env/10-docker2singularity.sh": "\n".join(lines) + "\n",
        "runscript": _runscript(strings(config.get("Entrypoint")), strings(config.get("Cmd"))),
    }


def labels(config: dict[str, Any]) -> dict[str, str]:
    """Return the labels in an image's configuration."""
    found = config.get("Labels")
    return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}


def _runscript(entrypoint: list[str], cmd: list[str]) -> str:
    """Return a script that runs ENTRYPOINT with the arguments, or with CMD if there are no arguments."""

    def words(parts: list[str]) -> str:
        return " ".join("'" + part.replace("'", "'\\''") + "'" for part in parts)

    lines = ["#!/bin/sh"]
    if cmd:
        lines += ["if [ $# -eq 0 ]; then", f"    set -- {words(cmd)}", "fi"]
    if entrypoint:
        lines.append(f'set -- {words(entrypoint)} "$@"')
    elif not cmd:
        lines += ["if [ $# -eq 0 ]; then", "    set -- /bin/sh", "fi"]
    return "\n".join([*lines, 'exec "$@"', ""])
