# SPDX-License-Identifier: BSD-3-Clause
"""Match a shell's patterns, `*`, `?` and `[a-z]`, in bounded time. Each byte counts as one character."""

from __future__ import annotations

from bollard.runtime.shell.words import Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    # A byte, -1 for ?, -2 for *, or the set of bytes of [...].
    Item = int | frozenset[int]

_ANY, _STAR = -1, -2
_ALNUM = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")


class Budget:
    """The limits of an evaluation: how many steps it may still take, and how many bytes a value may have."""

    def __init__(self, steps: int, size: int) -> None:
        self.steps = steps
        self.bytes = size

    def spend(self, steps: int) -> None:
        """Take `steps` from the budget.

        Raises:
            Unsupported: fewer steps are left.
        """
        self.steps -= steps
        if self.steps < 0:
            raise Unsupported("a long evaluation")


def compiled(pieces: list[tuple[bool, bytes]]) -> list[Item]:
    """Return the pattern of (quoted, text) pieces. Quoted characters stand for themselves.

    Raises:
        Unsupported: a backslash, or a form of [...] on which shells disagree.
    """
    marks = [(c, quoted) for quoted, text in pieces for c in text]
    items: list[Item] = []
    at = 0
    while at < len(marks):
        c, quoted = marks[at]
        at += 1
        if quoted or c not in b"*?[\\":
            items.append(c)
        elif c == 42:
            if items[-1:] != [_STAR]:
                items.append(_STAR)
        elif c == 63:
            items.append(_ANY)
        elif c == 91:
            at = _bracket(marks, at, items)
        else:
            raise Unsupported("a backslash in a pattern")
    return items


def _bracket(marks: list[tuple[int, bool]], at: int, items: list[Item]) -> int:
    """Parse a set after "[" and append it to `items`. Returns the index after its end. Only plain sets are known."""
    found: set[int] = set()
    inverted = marks[at : at + 1] in ([(33, False)], [(94, False)])
    at += inverted
    while at < len(marks) and marks[at] != (93, False):
        c = marks[at][0]
        if c in b"[]\\^!-" or c > 126:
            raise Unsupported("this [...] in a pattern")
        if marks[at + 1 : at + 2] == [(45, False)] and marks[at + 2 : at + 3] not in ([], [(93, False)]):
            last = marks[at + 2][0]
            same = bytes((c, last)).isdigit() or bytes((c, last)).islower() or bytes((c, last)).isupper()
            if c not in _ALNUM or last not in _ALNUM or not same:
                raise Unsupported("this range in a pattern")
            found.update(range(c, last + 1))
            at += 3
        else:
            found.add(c)
            at += 1
    if at >= len(marks) or not found:
        raise Unsupported("an open [ in a pattern")
    items.append(frozenset(range(1, 128)) - found if inverted else frozenset(found))
    return at + 1


def ends(items: list[Item], text: bytes, budget: Budget, begin: int = 0) -> list[int]:
    """Return the lengths of all parts of `text` from `begin` on that the pattern matches, the shortest first.

    items   the pattern
    text    the text
    budget  limits the steps of matching
    begin   index where each part begins

    Raises:
        Unsupported: the budget is used up, or the text is not ASCII and the pattern has ? or [...].
    """
    if begin == 0 and not text.isascii() and any(not isinstance(item, int) or item == _ANY for item in items):
        raise Unsupported("a pattern for characters of several bytes")
    found = []
    states = _with_stars(items, {0})
    for at in range(begin, len(text) + 1):
        if len(items) in states:
            found.append(at - begin)
        if not states or at == len(text):
            break
        budget.spend(len(states))
        c, following = text[at], set()
        for state in states:
            item = items[state] if state < len(items) else 0
            if item == _STAR:
                following.add(state)
            elif item in (_ANY, c) or (not isinstance(item, int) and c in item):
                following.add(state + 1)
        states = _with_stars(items, following)
    return found


def _with_stars(items: list[Item], states: set[int]) -> set[int]:
    """Return `states` with the states after each * added, as * also matches the empty text."""
    for state in list(states):
        while state < len(items) and items[state] == _STAR:
            state += 1
            states.add(state)
    return states


def matches(items: list[Item], text: bytes, budget: Budget) -> bool:
    """Return whether the pattern `items` matches the whole `text`. `budget` limits the steps of matching."""
    return ends(items, text, budget)[-1:] == [len(text)]


def without(items: list[Item], text: bytes, operator: str, budget: Budget) -> bytes:
    """Return `text` without a matching beginning or end, as ${text#items}.

    items     the pattern
    text      the text
    operator  # removes the shortest matching beginning, ## the longest; % the shortest matching end, %% the longest
    budget    limits the steps of matching
    """
    if operator[0] == "%":
        items, text = items[::-1], text[::-1]
    lengths = ends(items, text, budget)
    if lengths:
        text = text[lengths[-1] if len(operator) == 2 else lengths[0] :]
    return text[::-1] if operator[0] == "%" else text


def replaced(items: list[Item], text: bytes, new: bytes, everywhere: bool, budget: Budget) -> bytes:
    """Return `text` with matches of the pattern replaced, as ${text/items/new}. At each place the longest match counts.

    items       the pattern
    text        the text
    new         the replacement
    everywhere  replace all matches, not only the first
    budget      limits the steps of matching, and the length of the result

    Raises:
        Unsupported: a limit is reached.
    """
    result, at = bytearray(), 0
    while items and at < len(text):
        lengths = ends(items, text, budget, at)
        if lengths and lengths[-1]:
            result += new
            at += lengths[-1]
            if not everywhere:
                break
        else:
            result.append(text[at])
            at += 1
        if len(result) > budget.bytes:
            raise Unsupported("a very long value")
    return bytes(result + text[at:])
