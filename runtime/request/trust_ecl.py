# SPDX-License-Identifier: BSD-3-Clause
"""Convert Apptainer's execution control list, ecl.toml, into the key `trust` of bollard.yaml."""

from __future__ import annotations

import os
import re
from typing import Any

from bollard.runtime.errors import BollardError
from bollard.runtime.request import site_config, trust_rule

KEYRING = "/etc/apptainer/global-pgp-public"  # where Apptainer takes the keys for its list from
_MODES = {"whitelist": "signed-by", "whitestrict": "all-signed-by"}
_SIZE_MAX = 1 << 20


def converted(path: str) -> tuple[str, list[str]]:
    """Return the text for bollard.yaml, and warnings about what is not the same there.

    path: the ecl.toml.

    Raises:
        BollardError: the file cannot be read, is not an ecl.toml, or has a group that cannot be understood.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(_SIZE_MAX)
    except OSError as error:
        raise BollardError(f"{path}: {error.strerror}", "name Apptainer's ecl.toml") from None
    given = _parsed(data, path)
    groups = given.get("execgroup", [])
    if not isinstance(groups, list) or not all(isinstance(group, dict) for group in groups) or not groups:
        raise BollardError(f"{path}: it has no [[execgroup]]", "write the rules by hand, see docs/trust.md")
    warnings: list[str] = []
    if given.get("legacyinsecure"):
        warnings.append("legacyinsecure: signatures of the form before 2020 do not count here")
    # The first rule for a place decides, and a directory stands for all below it. So the deepest directory comes first,
    # and the group without one, which is for all other places, last.
    rules = [_rule(group, path, warnings) for group in sorted(groups, key=_depth)]
    mode = trust_rule.ENFORCE if given.get("activated") else trust_rule.OBSERVE
    if mode == trust_rule.OBSERVE:
        warnings.append("the list is not activated: the policy only observes")
    lines = [f"# From {path}", "trust:", f"  mode: {mode}", f"  keyring: {KEYRING}", "  rules:", *sum(rules, [])]
    text = "\n".join(lines) + "\n"
    mistakes = site_config.read(text.encode())[1]
    if mistakes:
        raise BollardError(f"{path}: {mistakes[0].text}", mistakes[0].hint)
    return text, warnings


def _depth(group: dict[str, Any]) -> int:
    place = str(group.get("dirpath", ""))
    return -len(os.path.realpath(place).split("/")) if place else 1


def _parsed(data: bytes, path: str) -> dict[str, Any]:
    try:
        import tomllib  # type: ignore[import-not-found,unused-ignore]  # Python 3.11
    except ImportError:
        try:
            import tomli as tomllib  # type: ignore[no-redef,import-not-found,unused-ignore]
        except ImportError:
            raise BollardError(
                "this Python reads no TOML", "install tomli (Debian: python3-tomli), or use Python 3.11"
            ) from None
    try:
        found: dict[str, Any] = tomllib.loads(data.decode())
    except ValueError as error:
        raise BollardError(f"{path}: not TOML: {error}", "is it Apptainer's ecl.toml?") from None
    return found


def _rule(group: dict[str, Any], path: str, warnings: list[str]) -> list[str]:
    name, mode = str(group.get("tagname", "")), str(group.get("mode", ""))
    place, keys = str(group.get("dirpath", "")), group.get("keyfp", [])
    if not isinstance(keys, list) or (mode in _MODES and not keys):
        raise BollardError(f'{path}: the group "{name}" has no keyfp', "list the fingerprints of its keys")
    lines = [f"    - from: {_quoted(os.path.realpath(place)) if place else trust_rule.ANYWHERE}"]
    lines += [f"      name: {_quoted(name)}"] if name else []
    if mode in _MODES:
        lines.append(f"      {_MODES[mode]}: [{', '.join(_quoted(str(key)) for key in keys)}]")
    elif mode == "blacklist":
        warnings.append(f'the group "{name}" is a blacklist, which a removed signature passes: all of it is refused')
        lines.append("      refuse: yes")
    else:
        raise BollardError(
            f'{path}: the group "{name}" has the mode "{mode}"', "known are whitelist, whitestrict, blacklist"
        )
    if place:
        warnings.append(f'the group "{name}": directories below {place} belong to its rule too')
    return lines


def _quoted(text: str) -> str:
    return text if re.fullmatch(r"[A-Za-z/][A-Za-z0-9/_.-]*", text) else "'" + text.replace("'", "''") + "'"
