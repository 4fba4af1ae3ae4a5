# SPDX-License-Identifier: BSD-3-Clause
"""What `test`, `[` and the operators of [[ ]] decide. This module runs on the node path."""

from __future__ import annotations

from bollard.runtime.shell.words import Unsupported

# The operators for integers: the signs of the difference for which each holds.
COMPARED = {"-eq": (0,), "-ne": (-1, 1), "-lt": (-1,), "-le": (-1, 0), "-gt": (1,), "-ge": (0, 1)}


def holds(name: bytes, args: list[bytes]) -> bool:
    """Return the result of `test` or `[`, by the number of arguments as in POSIX test(1). Tests of files: none.

    Raises:
        Unsupported: another test, or [ without ].
    """
    if name == b"[":
        if args[-1:] != [b"]"]:
            raise Unsupported("[ without ]")
        args = args[:-1]
    if len(args) <= 1:
        return bool(args and args[0])
    if len(args) == 3 and args[1] in (b"=", b"==", b"!="):
        return (args[0] == args[2]) == (args[1] != b"!=")
    if len(args) == 3 and args[1].decode("latin-1") in COMPARED:
        return compared(args[1].decode("latin-1"), args[0], args[2])
    if args[0] == b"!" and len(args) <= 4:
        return not holds(b"test", args[1:])
    if len(args) == 2 and args[0] in (b"-n", b"-z"):
        return (args[1] == b"") == (args[0] == b"-z")
    raise Unsupported("a test of " + " ".join(arg.decode("utf-8", "replace") for arg in args))


def compared(operator: str, left: bytes, right: bytes) -> bool:
    """Return whether `operator`, one of COMPARED, holds for two integers.

    operator  one of COMPARED
    left, right  the operands as text

    Raises:
        Unsupported: one is not an integer in plain decimal form.
    """
    one, other = _number(left), _number(right)
    return ((one > other) - (one < other)) in COMPARED[operator]


def _number(text: bytes) -> int:
    """Return the integer in `text`. Only the plain decimal form is accepted: shells disagree on others."""
    digits = text.removeprefix(b"-")
    if not digits.isdigit() or len(digits) > 18 or (digits[0] == 48 and len(digits) > 1):
        raise Unsupported("a comparison of " + text.decode("utf-8", "replace"))
    return int(text)
