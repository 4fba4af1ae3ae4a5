# SPDX-License-Identifier: BSD-3-Clause
"""Wildcards and braces in paths, as bash has them. A backslash makes the character after it an ordinary one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase

# The size of an expansion; a definition file cannot make a build run out of memory.
_MAX_WORDS = 1000
_TOKEN = re.compile(r"\\.|.", re.DOTALL)
_SPECIAL = re.compile(r"[][*?{},\\]")
_RANGE = re.compile(r"(-?\d{1,9})\.\.(-?\d{1,9})|([a-z])\.\.([a-z])|([A-Z])\.\.([A-Z])", re.ASCII)
_CLASSES = {
    "[:alnum:]": "0-9A-Za-z", "[:alpha:]": "A-Za-z", "[:digit:]": "0-9", "[:lower:]": "a-z", "[:upper:]": "A-Z",
    "[:xdigit:]": "0-9A-Fa-f",
}  # fmt: skip


def escaped(text: str) -> str:
    """Return the pattern that matches `text` alone."""
    return _SPECIAL.sub(r"\\\g<0>", text)


def unescaped(pattern: str) -> str:
    """Return the pattern without its backslashes: the text that it stands for if it has no wildcard."""
    return re.sub(r"\\(.)", r"\1", pattern, flags=re.DOTALL)


def is_pattern(pattern: str) -> bool:
    """Return whether there is a wildcard in `pattern`."""
    return any(token in "*?[" for token in _TOKEN.findall(pattern))


def matches(name: str, pattern: str) -> bool:
    """Return whether a file's name matches; a dot at its beginning is matched by a dot only."""
    if name.startswith(".") and not pattern.startswith((".", "\\.")):
        return False
    for word, characters in _CLASSES.items():
        pattern = pattern.replace(word, characters)
    tokens = (f"[{token[1]}]" if token[1:] and token[1] in "*?[" else token[-1] for token in _TOKEN.findall(pattern))
    return fnmatchcase(name, "".join(tokens).replace("[^", "[!"))


def braces(pattern: str) -> list[str]:
    """Return `a{b,c}d` as ["abd", "acd"] and `a{1..3}` as ["a1", "a2", "a3"]; braces may be nested.

    After about 1000 words no further braces are expanded.
    """
    done: list[str] = []
    todo = [pattern]
    while todo:
        one = todo.pop(0)
        tokens = _TOKEN.findall(one)
        group = next(_groups(tokens), None) if len(done) + len(todo) <= _MAX_WORDS else None
        if group is None:
            done.append(one)
        else:
            start, end, words = group
            before, after = "".join(tokens[:start]), "".join(tokens[end + 1 :])
            todo = [before + word + after for word in words] + todo
    return done


def _groups(tokens: list[str]) -> Iterator[tuple[int, int, list[str]]]:
    """Yield each {...} that is to be expanded: the indexes of its braces, and its words."""
    for start in (index for index, token in enumerate(tokens) if token == "{"):
        depth, words = 0, [""]
        for end in range(start + 1, len(tokens)):
            token = tokens[end]
            if token == "}" and not depth:
                words = words if len(words) > 1 else _range(words[0])
                if words:
                    yield start, end, words
                break
            if token == "," and not depth:
                words.append("")
                continue
            depth += {"{": 1, "}": -1}.get(token, 0)
            words[-1] += token


def _range(text: str) -> list[str]:
    """Return the words of `1..3` or `a..c`; [] for any other text and for over 1000 words."""
    match = _RANGE.fullmatch(text)
    if not match:
        return []
    first, last = (word for word in match.groups() if word is not None)
    numbers = [int(first), int(last)] if match[1] else [ord(first), ord(last)]
    step = 1 if numbers[0] <= numbers[1] else -1
    if abs(numbers[1] - numbers[0]) >= _MAX_WORDS:
        return []
    found = range(numbers[0], numbers[1] + step, step)
    width = max(len(first), len(last)) if match[1] and re.match(r"-?0\d", first + " " + last) else 0
    return [str(number).zfill(width) if match[1] else chr(number) for number in found]
