# SPDX-License-Identifier: BSD-3-Clause
"""No file of C needs another that needs it in turn: each can be read with only those below it."""

from __future__ import annotations

import re
from graphlib import CycleError, TopologicalSorter

import pytest

from bollard.spank_plugin import build

# A definition at the left margin that other files can see: of a function, whose body begins on the next line, and of a
# variable.
FUNCTION = re.compile(r"^(?!static\b|#|\s|\}).*?\b(\w+)\([^;{]*\)\s*\n\{", re.MULTILINE)
VARIABLE = re.compile(
    r"^(?!static\b|extern\b|typedef\b|#|\s|\})[\w \*]+?\b(\w+)(?:\[\w*\])?(?: =[^;]*)?;", re.MULTILINE
)


def code_of(text: str) -> str:
    """C without its comments and the content of its strings."""
    return re.sub(r'"(?:\\.|[^"\\])*"', '""', re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL))


def needs(texts: dict[str, str]) -> dict[str, set[str]]:
    """For each file, the other files whose functions or variables it names."""
    code = {name: code_of(text) for name, text in texts.items()}
    owner = {
        match.group(1): name
        for name, text in code.items()
        for match in (*FUNCTION.finditer(text), *VARIABLE.finditer(text))
    }
    words = {name: set(re.findall(r"\w+", text)) for name, text in code.items()}
    return {name: {owner[word] for word in found & set(owner)} - {name} for name, found in words.items()}


@pytest.mark.parametrize("program", build.SOURCES)
def test_no_circle_among_the_c_files_of_a_program(program: str):
    graph = needs({path.name: path.read_text() for path in build.sources(program)})

    TopologicalSorter(graph).prepare()
    main = build.sources(program)[0].name
    assert len(graph) == 1 or graph[main], f"{main} is shown to need no other file"


def test_no_circle_among_the_headers():
    headers = {path.name: path.read_text() for path in build.HERE.glob("*.h")}
    graph = {name: set(re.findall(r'^#include "(\S+)"', text, re.MULTILINE)) for name, text in headers.items()}

    assert graph["mpirun.h"] == {"inside.h"}
    TopologicalSorter(graph).prepare()


def test_a_circle_is_found():
    a = "int shared = 2;\nint first(void)\n{\n\treturn second();\n}\n"
    own = "static int own(void)\n{\n\treturn 1;  /* first() */\n}\n\n"
    b = own + 'int second(void)\n{\n\tputs("first");\n\treturn %s;\n}\n'

    assert needs({"a.c": a, "b.c": b % "own()"}) == {"a.c": {"b.c"}, "b.c": set()}
    for word in ("first()", "shared"):
        with pytest.raises(CycleError):
            TopologicalSorter(needs({"a.c": a, "b.c": b % word})).prepare()
