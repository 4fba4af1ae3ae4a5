# SPDX-License-Identifier: BSD-3-Clause
"""Records as dataclasses make them, without the import."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from bollard.runtime import frozen


def made_by(decorate):
    class Fields:
        name: str
        size: int = 1
        names: tuple[str, ...] = ()

    return decorate(frozen=True)(Fields)


def both():
    return made_by(frozen.record), made_by(dataclasses.dataclass)


@pytest.mark.parametrize(
    ("values", "fields"),
    [(("a",), {}), (("a", 2), {}), ((), {"name": "a", "names": ("b",)}), ((), {}), (("a", 1, (), 4), {}),
     (("a",), {"name": "b"}), (("a",), {"nonsense": 1})],
)  # fmt: skip
def test_what_a_dataclass_takes(values, fields):
    def made(kind):
        try:
            found = kind(*values, **fields)
        except TypeError:
            return None
        return [getattr(found, name) for name in ("name", "size", "names")]

    ours, theirs = both()
    assert made(ours) == made(theirs)


def test_it_is_frozen_and_compared_by_its_fields():
    ours, _ = both()
    one = ours("a")

    assert one == ours("a", 1) and one != ours("b") and one != "a"
    assert {one, ours("a", 1), ours("b")} == {one, ours("b")}
    with pytest.raises(AttributeError):
        one.size = 2
    with pytest.raises(AttributeError):
        del one.size
    other = frozen.replace(one, size=2)
    assert (one.size, other.size, other.name) == (1, 2, "a")
    assert frozen.values_of(other) == {"name": "a", "size": 2, "names": ()}


HEAVY = {"dataclasses", "typing", "collections", "re", "inspect", "argparse", "logging"}


def test_the_node_path_imports_none_of_it():
    place = frozen.__file__.partition("/bollard/")[0]
    code = f"import sys; sys.path.insert(0, {place!r}); import bollard.runtime.request.spec; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)

    assert "bollard.runtime.frozen" in done.stdout.split()
    assert not HEAVY & set(done.stdout.split())
