# SPDX-License-Identifier: BSD-3-Clause
"""Compare versions of packages as their package managers do."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_DIGITS: Final = frozenset("0123456789")
_LETTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
# Marks of a version before the release: of Python (PEP 440), of npm and of apk.
_EARLY: Final = ("alpha", "beta", "dev", "pre", "rc", "a", "b", "c")


def fulfils(kind: str, version: str, operator: str, wanted: str) -> bool:
    """Return whether `version` is in the relation `operator` to `wanted`.

    kind: the package manager, whose order of versions counts.
    version: the version of a package.
    operator: one of < <= = >= >, or "" for each version.
    wanted: what it is compared with.
    """
    if not operator:
        return True
    order = compare(kind, version, wanted)
    return {"<": order < 0, "<=": order <= 0, "=": order == 0, ">=": order >= 0, ">": order > 0}[operator]


def compare(kind: str, one: str, other: str) -> int:
    """Return -1, 0 or 1 as version `one` is before, equal to or after `other`; `kind` is the package manager."""
    if kind == "rpm":
        return _rpm(one, other)
    if kind != "deb":
        one, other = _with_tilde(one), _with_tilde(other)
    return _debian(one, other)


def _debian(one: str, other: str) -> int:
    """Compare EPOCH:VERSION-REVISION (deb-version(7))."""
    epochs, rests = zip(*(_epoch(text) for text in (one, other)))
    if epochs[0] != epochs[1]:
        return -1 if epochs[0] < epochs[1] else 1
    parts = [(text.rpartition("-")[0], text.rpartition("-")[2]) if "-" in text else (text, "") for text in rests]
    return _debian_part(parts[0][0], parts[1][0]) or _debian_part(parts[0][1], parts[1][1])


def _epoch(text: str) -> tuple[tuple[int, str], str]:
    before, colon, after = text.partition(":")
    return (_number(before), after) if colon and _DIGITS.issuperset(before) else (_number(""), text)


def _debian_part(one: str, other: str) -> int:
    """Compare runs of other characters and of digits in turn. `~` sorts before the end, letters before the rest."""
    while one or other:
        left, one = _split(one, False)
        right, other = _split(other, False)
        for position in range(max(len(left), len(right))):
            a, b = (_weight(text[position : position + 1]) for text in (left, right))
            if a != b:
                return -1 if a < b else 1
        left, one = _split(one, True)
        right, other = _split(other, True)
        if _number(left) != _number(right):
            return -1 if _number(left) < _number(right) else 1
    return 0


def _number(digits: str) -> tuple[int, str]:
    """Return a key in the order of the numbers. int() refuses long texts, and a version is an image's."""
    digits = digits.lstrip("0")
    return len(digits), digits


def _split(text: str, digits: bool) -> tuple[str, str]:
    """Return the first run of digits, or of other characters, and the rest."""
    end = 0
    while end < len(text) and (text[end] in _DIGITS) == digits:
        end += 1
    return text[:end], text[end:]


def _weight(character: str) -> int:
    if character == "~":
        return -1
    if not character:
        return 0
    return ord(character) if character in _LETTERS else ord(character) + 0x110000


def _rpm(one: str, other: str) -> int:
    """Compare EPOCH:VERSION-RELEASE. A release that only one of them has does not count (rpm's rpmVersionCompare)."""
    epochs, rests = zip(*(_epoch(text) for text in (one, other)))
    if epochs[0] != epochs[1]:
        return -1 if epochs[0] < epochs[1] else 1
    (left, _, left_release), (right, _, right_release) = (text.partition("-") for text in rests)
    order = _rpm_part(left, right)
    return order or (_rpm_part(left_release, right_release) if left_release and right_release else 0)


def _rpm_part(one: str, other: str) -> int:
    """Compare runs of digits and runs of letters; other characters separate. `~` sorts before the end, `^` after it."""
    left, right = _rpm_runs(one), _rpm_runs(other)
    for position in range(max(len(left), len(right))):
        a = left[position] if position < len(left) else ""
        b = right[position] if position < len(right) else ""
        if a == b:
            continue
        if "~" in (a, b):
            return -1 if a == "~" else 1
        if "^" in (a, b):  # after the end, before any other run
            return (1 if not b else -1) if a == "^" else (-1 if not a else 1)
        if not a or not b:
            return 1 if a else -1
        if (a[0] in _DIGITS) != (b[0] in _DIGITS):
            return 1 if a[0] in _DIGITS else -1
        if a[0] in _DIGITS:
            if _number(a) != _number(b):
                return 1 if _number(a) > _number(b) else -1
        else:
            return 1 if a > b else -1
    return 0


def _rpm_runs(text: str) -> list[str]:
    runs: list[str] = []
    kind = ""
    for character in text:
        now = "0" if character in _DIGITS else "a" if character in _LETTERS else character if character in "~^" else ""
        if now and now == kind and now in "0a":
            runs[-1] += character
        elif now:
            runs.append(character)
        kind = now
    return runs


def _with_tilde(text: str) -> str:
    """Return the version with `~` before a mark such as rc or beta, so that 1.0rc1 is before 1.0.

    A letter after a number counts as a mark only if a digit follows: OpenSSL's 1.1.1b is after 1.1.1.
    """
    lower, at = text.lower(), 0
    parts: list[str] = []
    while at < len(lower):
        mark = next((word for word in _EARLY if lower.startswith(word, at)), "")
        after = lower[at + len(mark) : at + len(mark) + 1]
        whole = bool(mark) and (at == 0 or lower[at - 1] not in _LETTERS) and after not in _LETTERS
        if whole and at and (len(mark) > 1 or after in _DIGITS):
            if parts and parts[-1] in ("-", ".", "_"):
                parts.pop()
            parts.append(("~~" if mark == "dev" else "~") + mark)  # PEP 440: 1.0.dev1 is before 1.0a1
            at += len(mark)
        else:
            parts.append(lower[at])
            at += 1
    return "".join(parts)
