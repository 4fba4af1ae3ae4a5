# SPDX-License-Identifier: BSD-3-Clause
"""Durations and sizes, as a flow file writes them."""

from __future__ import annotations

import re

_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_BYTES = {"": 1, "b": 1, **{f"{c}b": 1000 ** (n + 1) for n, c in enumerate("kmgtp")}}
_BYTES |= {form: 1024 ** (n + 1) for n, c in enumerate("kmgtp") for form in (f"{c}ib", f"{c}i", c)}
_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)(h|ms|m|s))+", re.ASCII)
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([A-Za-z]*)", re.ASCII)


def seconds(text: str) -> int:
    """Return a Go duration, such as 1h30m or 90s, in whole seconds, rounded up.

    Raises:
        ValueError: it is not one, or it is zero.
    """
    if not _DURATION.fullmatch(text) or len(text) > 40:
        raise ValueError(text)
    parts = re.findall(r"(\d+(?:\.\d+)?)(h|ms|m|s)", text, re.ASCII)
    total = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    if not 0 < total < 366 * 24 * 3600:
        raise ValueError(text)
    return -int(-total // 1)


def of_slurm(text: str) -> str:
    """Return a time limit in Slurm's form D-HH:MM:SS or HH:MM:SS as a Go duration; "" for another text."""
    found = re.fullmatch(r"(?:(\d{1,3})-)?(\d{1,3}):(\d\d):(\d\d)", text, re.ASCII)
    if not found:
        return ""
    days, hours, rest, last = (int(word or 0) for word in found.groups())
    parts = ((24 * days + hours, "h"), (rest, "m"), (last, "s"))
    return "".join(f"{number}{unit}" for number, unit in parts if number)


def size(text: str) -> int:
    """Return a size in bytes: 1GB is 10^9, 1GiB and 1G are 2^30, a bare number is bytes.

    Raises:
        ValueError: it is not one, or it is zero.
    """
    found = _SIZE.fullmatch(text)
    if not found or len(text) > 40 or found[2].lower() not in _BYTES:
        raise ValueError(text)
    total = float(found[1]) * _BYTES[found[2].lower()]
    if not 0 < total < 1 << 60:
        raise ValueError(text)
    return -int(-total // 1)


def mebibytes(number: int) -> int:
    """Return bytes as MiB for sbatch, rounded up."""
    return -(-number // (1 << 20))


def minutes(number: int) -> int:
    """Return seconds as minutes for sbatch, rounded up."""
    return -(-number // 60)


def clock(number: float) -> str:
    """Return seconds as 5s, 1m05s or 2h03m, for a table."""
    total = max(0, round(number))
    if total < 60:
        return f"{total}s"
    if total < 3600:
        return f"{total // 60}m{total % 60:02}s"
    return f"{total // 3600}h{total % 3600 // 60:02}m"


def is_digest(text: str) -> bool:
    """Return whether the text is sha256: and 64 hexadecimal digits."""
    return bool(re.fullmatch(r"sha256:[0-9a-f]{64}", text, re.ASCII))
