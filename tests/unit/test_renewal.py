# SPDX-License-Identifier: BSD-3-Clause
"""Which container a later step of a name gets: the one that is there, or one that is made anew."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from bollard.runtime.container import renewal
from bollard.runtime.errors import BollardError
from bollard.runtime.request import spec, spec_text

FIRST = [("image", "/i.sif"), ("asked", "i.sif"), ("userhome", "/home/a"), ("name", "x"), ("writable-tmpfs", "1")]


def suits(old: list[tuple[str, str]], new: list[tuple[str, str]], shown: bool = True) -> bool:
    made, asked = spec.make(old), spec.make([*new, ("name", "x"), ("userhome", "/home/a")])
    values = [(name, value) for name, value in new if name != "cwd"]
    text = spec_text.canonical([*values, ("name", "x"), ("userhome", "/home/a")], spec_text.header_of(asked))
    return renewal.suits(made, text, False, lambda path: shown)


@pytest.mark.parametrize(
    ("new", "joins"),
    [
        ([], True),
        ([("image", "/i.sif")], True),
        ([("image", "/other.sif")], True),  # refused when its tasks come
        ([("mounts", "/a:/b")], False),
        ([("fakeroot", "1")], False),
        ([("no-home", "1")], False),
        ([("no-home", "0")], True),
        ([("writable-tmpfs", "1")], True),
        ([("writable-tmpfs", "0")], False),
        ([("overlay", "/layer")], True),  # refused when its tasks come
        ([("save", "/a.sqsh")], False),
        ([("pwd", "/opt"), ("env", "A=b")], True),
    ],
)
def test_which_steps_join(new: list[tuple[str, str]], joins: bool) -> None:
    assert suits(FIRST, new) == joins


def test_a_step_that_hides_the_home_is_told_of_that_option() -> None:
    """Where the home is the working directory, a job's --no-container-mount-home also stands for --no-mount=cwd."""
    new = [("no-home", "1"), ("no-mount", "cwd"), ("cwd", "/home/a"), ("name", "x"), ("userhome", "/home/a")]
    for old, said in (([], ["--no-container-mount-home"]), ([("no-home", "1")], [])):
        assert renewal.lacking(spec.make([*FIRST, *old]), spec.make(new), new, False) == said
    assert renewal.lacking(spec.make(FIRST), spec.make(new[1:]), new[1:], False) == ["--no-mount"]


def test_a_directory_that_is_not_shown() -> None:
    assert not suits(FIRST, [("cwd", "/data")], shown=False)
    assert suits(FIRST, [("cwd", "/data"), ("pwd", "/opt")], shown=False)


def test_a_spec_that_cannot_be_read_ends_no_container() -> None:
    made = spec.make(FIRST)
    assert renewal.suits(made, b"bollard1 of another release", False, lambda path: True)
    text = b"bollard1 root=0 image=1 multi-prog=0 verbose= name=x mode=auto cwd=/ : no-such-key=1"
    assert renewal.suits(made, text, False, lambda path: True)


def test_root_is_each_steps_own() -> None:
    assert not suits([*FIRST, ("fakeroot", "1")], [])
    assert ("fakeroot", "1") not in renewal.merged([*FIRST, ("fakeroot", "1")], [("name", "x")])


def test_what_a_step_gives_replaces_what_was_given() -> None:
    old = [*FIRST, ("bind", "/a:/a"), ("no-home", "1"), ("env", "A=b"), ("save", "/s"), ("hostname", "h")]
    new = [("name", "x"), ("mounts", "/b:/b"), ("pwd", "/opt")]
    assert dict(renewal.merged(old, new)) == {
        "image": "/i.sif", "asked": "i.sif", "writable-tmpfs": "1", "no-home": "1", "hostname": "h", **dict(new),
    }  # fmt: skip
    assert ("no-home", "1") not in renewal.merged(old, [("home", "/a")])


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with_keeper, with_root = socket.socketpair()
    yield with_keeper, with_root
    with_keeper.close()


@pytest.mark.parametrize("tree", [-1, 0])
def test_the_layer_goes_over(pair: tuple[socket.socket, socket.socket], tree: int) -> None:
    keeper, root = pair
    tree = os.open("/dev/null", os.O_RDONLY) if tree == 0 else tree
    renewal.hand_over(keeper, FIRST, renewal.Layer(tree))
    assert root.recv(1) == b"A"
    keeper.close()  # the old keeper has ended
    values, layer = renewal.take_over(root.detach())
    assert values == FIRST
    if tree < 0:
        assert layer.tree == -1
        return
    assert os.fstat(layer.tree).st_rdev == os.stat("/dev/null").st_rdev
    os.close(layer.tree)
    os.close(tree)


def test_a_keeper_that_hands_nothing_over(pair: tuple[socket.socket, socket.socket]) -> None:
    keeper, root = pair
    keeper.close()
    with pytest.raises(BollardError, match="cannot be made anew"):
        renewal.take_over(root.detach())
