# SPDX-License-Identifier: BSD-3-Clause
"""The docstrings of the runtime's public functions: parameters, and the errors of all that a function calls."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path
from typing import NamedTuple

TOP = Path(__file__).resolve().parent.parent.parent
ALL = ("BollardError", "Exception", "BaseException")


class Function(NamedTuple):
    """A function of a module; `owner` is its class, "" for none."""

    path: str
    owner: str
    node: ast.FunctionDef
    names: dict[str, str]

    @property
    def key(self) -> str:
        return f"{self.path}:{self.owner}{self.node.name}"

    @property
    def is_public(self) -> bool:
        return not any(part.startswith("_") for part in (*self.owner.split("."), self.node.name))


def functions(path: str, text: str) -> list[Function]:
    """The functions and methods of a module. `names` are its imports: name to file or function."""
    tree = ast.parse(text)
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bollard.runtime"):
            folder = (node.module or "").partition(".")[2].replace(".", "/")
            for alias in node.names:
                names[alias.asname or alias.name] = f"{folder}/{alias.name}.py {folder}.py:{alias.name}"
    found: list[Function] = []

    def walk(body: list[ast.stmt], owner: str) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef):
                walk(node.body, f"{owner}{node.name}.")
            elif isinstance(node, ast.FunctionDef):
                found.append(Function(path, owner, node, names))

    walk(tree.body, "")
    return found


def called(function: Function, call: ast.Call) -> list[str]:
    """The keys that a call can have; most of them are no function."""
    target = call.func
    if isinstance(target, ast.Name):
        return [f"{function.path}:{target.id}", *function.names.get(target.id, "").split()]
    if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name):
        if target.value.id == "self":
            return [f"{function.path}:{function.owner}{target.attr}"]
        return [f"{place}:{target.attr}" for place in function.names.get(target.value.id, "").split()[:1]]
    return []


def catches(handler: ast.ExceptHandler) -> bool:
    """Whether a handler takes a BollardError and raises nothing."""
    caught = handler.type is None or any(name in ALL for name in re.findall(r"\w+", ast.unparse(handler.type)))
    return caught and not any(isinstance(node, ast.Raise) for node in ast.walk(handler))


def uncaught(function: Function) -> tuple[bool, set[str]]:
    """Whether a function raises BollardError itself, and the keys of what it calls outside of a handler for it."""
    raises, calls = [], set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, (ast.FunctionDef, ast.Lambda)):
            return
        if isinstance(node, ast.Try) and any(catches(handler) for handler in node.handlers):
            for rest in (*node.handlers, *node.orelse, *node.finalbody):
                visit(rest)
            return
        if isinstance(node, ast.With) and "suppress(BollardError" in ast.unparse(node.items[0].context_expr):
            return
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            raises.append(ast.unparse(node.exc.func) in ("BollardError", "causes.of"))
        if isinstance(node, ast.Call):
            calls.update(called(function, node))
        for child in ast.iter_child_nodes(node):
            visit(child)

    for statement in function.node.body:
        visit(statement)
    return any(raises), calls


def raising(found: dict[str, Function]) -> set[str]:
    """The keys of the functions that can raise BollardError."""
    bodies = {key: uncaught(function) for key, function in found.items()}
    known = {key for key, (raises, _) in bodies.items() if raises}
    while True:
        more = {key for key, (_, calls) in bodies.items() if key not in known and not known.isdisjoint(calls)}
        if not more:
            return known
        known |= more


@functools.cache
def of_tree() -> dict[str, Function]:
    paths = sorted((TOP / "runtime").rglob("*.py"))
    each = (functions(path.relative_to(TOP).as_posix(), path.read_text()) for path in paths)
    return {function.key: function for some in each for function in some}


def test_a_public_function_names_the_error_that_it_or_its_callee_raises():
    found = of_tree()
    can = [key for key in sorted(raising(found)) if found[key].is_public]
    silent = [key for key in can if not re.search(r"[Rr]aise|[Rr]efuse", ast.get_docstring(found[key].node) or "")]

    assert len(can) > 300
    assert silent == []


def test_parameters_are_described_where_there_are_three():
    lacking = []
    for key, function in of_tree().items():
        arguments = function.node.args
        names = [each.arg for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
        doc = ast.get_docstring(function.node) or ""
        if (
            function.is_public
            and len(set(names) - {"self", "cls"}) > 2
            and not re.search(r"(?i:parameters)|[Aa]s `", doc)
        ):
            lacking += [f"{key} {name}" for name in names if name != "self" and not re.search(rf"\b{name}\b", doc)]

    assert lacking == ["runtime/archive.py:Finder.find_spec " + name for name in ("name", "path", "target")]  # Python's


def test_an_error_is_followed_through_calls_and_stops_at_a_handler():
    one = "def low():\n    raise BollardError('x')\n"
    two = """
from bollard.runtime.room import one
def direct():
    one.low()
def indirect():
    direct()
def caught():
    try:
        one.low()
    except BollardError:
        return
"""
    each = [*functions("runtime/room/one.py", one), *functions("runtime/room/two.py", two)]
    names = {key.partition(":")[2] for key in raising({function.key: function for function in each})}

    assert names == {"low", "direct", "indirect"}
