# SPDX-License-Identifier: BSD-3-Clause
"""What is made of the table of keys for people and editors: the table in docs/flows.md, and a JSON Schema."""

from __future__ import annotations

from typing import Any

from bollard.runtime.flow import fields
from bollard.runtime.flow.fields import Field

_SCALAR = {"type": ["string", "number", "boolean"]}
_TEXTS = {"type": "array", "items": _SCALAR}
_SIMPLE: dict[str, dict[str, Any]] = {
    fields.TEXT: _SCALAR,
    fields.TEXTS: _TEXTS,
    fields.COMMAND: {"anyOf": [_TEXTS, _SCALAR]},
    fields.ENV: {"anyOf": [_TEXTS, {"type": "object", "additionalProperties": _SCALAR}]},
    fields.PATH: {"type": "string", "pattern": "^/"},
    fields.URI: {"type": "string", "pattern": "^[a-z0-9+.-]+://"},
    fields.SWITCH: {"type": "boolean"},
    fields.NUMBER: {"type": "integer", "minimum": 0},
    fields.SIZE: {"type": ["string", "integer"]},
    fields.DURATION: {"type": "string"},
    fields.LABEL: {"type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"},
    fields.NEEDS: {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": ["string", "object"]}}]},
    fields.MOUNTS: {"type": "object"},
    fields.OPTIONS: {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean", "null"]}},
    fields.REFUSED: {"not": {}},
}


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a flow file, draft 2020-12."""
    top = _object("")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "a flow of bollard",
        **top,
        "required": ["jobs"],
    }


def _object(key: str) -> dict[str, Any]:
    known = fields.children(key)
    return {
        "type": "object",
        **({} if key else {"patternProperties": {"^x-": {}}}),
        "properties": {name: _of(field) for name, field in known.items()},
        "additionalProperties": False,
    }


def _of(field: Field) -> dict[str, Any]:
    found: dict[str, Any]
    if field.kind == fields.MAP:
        found = _object(field.key)
    elif field.kind == fields.IMAGE:
        found = {"anyOf": [{"type": "string"}, _object(field.key)]}
    elif field.kind == fields.NAMES:
        found = {"type": "object", "additionalProperties": _of(fields.BY_KEY[f"{field.key}.*"])}
    elif field.kind == fields.LIST:
        found = {"type": "array", "items": _object(f"{field.key}.[]")}
        if field.key.endswith("depends-on"):
            found["items"] = {"anyOf": [found["items"], {"type": "string"}]}
    elif field.kind == fields.CHOICE:
        found = {"enum": [*field.choices, *(word.lower() for word in field.choices if word != word.lower())]}
    else:
        found = dict(_SIMPLE[field.kind])
    return {**found, "description": field.help} if field.help else found


def reference() -> str:
    """Return the table of the keys for docs/flows.md."""
    rows = ["| key | of | value | becomes | |", "|---|---|---|---|---|"]
    for field in fields.TABLE:
        if field.key.startswith("defaults.job."):
            continue
        what = ", ".join(f"`{word}`" for word in field.choices) or fields.KINDS[field.kind]
        cells = (f"`{field.key}`", field.origin, what, field.slurm, field.help)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)
