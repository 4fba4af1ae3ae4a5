# SPDX-License-Identifier: BSD-3-Clause
"""Definition files that nobody would write: grammatical nonsense, and real ones with damage."""

from __future__ import annotations

import random
from pathlib import Path

from bollard.runtime.build import definition

_REAL = [path.read_bytes() for path in sorted(Path(__file__).parent.parent.glob("definitions/*.def"))]
_WORDS = (
    *(f"%{name}" for name in (*definition.SECTIONS, *definition.APP_SECTIONS)),
    "Bootstrap:", "bootstrap: scratch", "From:", "Stage: a", "Include: \\", "MirrorURL: %{OSVERSION}", "%files from a",
    "{{ A }}", "{{A}}", "{{", "}}", "{{ B", "#", "#!", "%", "%%", "\\", "\\n\\", '"', "'", " ", "\t", "\n", "\n", "\n",
    "\r\n", "A=1", "B={{ A }}", "A={{ B }}{{ A }}", "-c", "/bin/sh", "*", "é", "\x85", "\u2028", "=", ":", "a b", "..",
)  # fmt: skip


def make(chance: random.Random) -> bytes:
    if _REAL and chance.random() < 0.5:
        return _damaged(chance, chance.choice(_REAL))
    if chance.random() < 0.1:
        return _damaged(chance, chance.choice(_WORDS).encode() * chance.randrange(1, 60_000))
    count = chance.randrange(1, 80)
    words = [chance.choice(_WORDS) for _ in range(count)]
    text = ("Bootstrap: scratch\n" if chance.random() < 0.7 else "") + chance.choice(("", " ", "\n")).join(words)
    return _damaged(chance, text.encode()) if chance.random() < 0.3 else text.encode()


def check(data: bytes) -> None:
    found = definition.parse(data, "fuzz.def", {"A": "{{ B }} x", "C": "%post\nBootstrap: y\n"})
    lines = data.count(b"\n") + 1
    for stage in found.stages:
        assert 1 <= stage.line <= lines
        assert stage.header["bootstrap"]
        for name, script in stage.scripts.items():
            assert script.text.count("\n") == len(script.lines)
            if name in ("pre", "setup", "post"):
                definition.script_command(script, "/script")
            definition.shebang_script(script)
        known = [other.header.get("stage") for other in found.stages]
        assert all(files.stage in ("", *known) for files in stage.files)
        assert all("/" not in app.name for app in stage.apps)


def _damaged(chance: random.Random, data: bytes) -> bytes:
    raw = bytearray(data)
    for _ in range(chance.randrange(1, 8)):
        at = chance.randrange(len(raw) + 1)
        what = chance.randrange(5)
        if what == 0:
            del raw[at : at + chance.randrange(1, 30)]
        elif what == 1:
            raw[at:at] = chance.choice(_WORDS).encode() * chance.choice((1, 1, 2, 1000))
        elif what == 2:
            raw[at:at] = bytes(chance.randrange(256) for _ in range(chance.randrange(1, 5)))
        elif what == 3 and raw:
            start = chance.randrange(len(raw))
            raw[at:at] = raw[start : start + chance.randrange(200)]
        elif raw:
            raw[chance.randrange(len(raw))] = chance.randrange(256)
    return bytes(raw)
