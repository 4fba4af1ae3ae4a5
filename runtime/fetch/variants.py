# SPDX-License-Identifier: BSD-3-Clause
"""Variants of an architecture in indexes of images, and which of them this machine's processor can run.

The variants of amd64 are the levels of the x86-64 psABI (section 3.1.1). Those of arm and arm64 are versions of Arm's
instruction set. A processor of one variant runs programs of all earlier variants.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from bollard.runtime.errors import BollardError
from bollard.runtime.image import sif

_LADDERS = {
    "amd64": ("v1", "v2", "v3", "v4"),
    "arm": ("v5", "v6", "v7", "v8"),
    "arm64": ("v8", *(f"v8.{minor}" for minor in range(1, 10)), "v9", *(f"v9.{minor}" for minor in range(1, 7))),
}
# The variant of an image whose index entry names none.
_DEFAULTS = {"amd64": "v1", "arm": "v7", "arm64": "v8"}
# The flags in /proc/cpuinfo that each level adds.
_FLAGS = {
    "v2": ("cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3"),
    "v3": ("abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave"),
    "v4": ("avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl"),
}


def parse(text: str) -> str:
    """Return ARCH or ARCH/VARIANT, as a user writes it, with Go's name of the architecture.

    Raises:
        BollardError: the architecture has no such variant.
    """
    name, slash, variant = text.partition("/")
    arch = sif.arch_name(name)
    known = _LADDERS.get(arch, ())
    if slash and variant not in known:
        hint = f"known are {', '.join(f'{arch}/{one}' for one in known)}" if known else f"write {arch}"
        raise BollardError(f"architecture {text!r}: has no such variant", hint)
    return f"{arch}{slash}{variant}"


def highest(arch: str) -> str:
    """Return the highest variant that may be used for ARCH or ARCH/VARIANT.

    If `arch` names a variant, it is this one. Else, for this machine's architecture, it is the highest one that the
    processor runs. For another architecture it is the default variant.
    """
    name, _, variant = arch.partition("/")
    if variant or name not in _LADDERS:
        return variant
    machine = os.uname().machine
    if sif.arch_name(machine) != name:
        return _DEFAULTS[name]
    if name == "amd64":
        return level(_cpu_flags())
    if name == "arm" and machine.startswith("armv") and f"v{machine[4:5]}" in _LADDERS["arm"]:
        return f"v{machine[4]}"
    return _DEFAULTS[name]  # for arm64 the kernel does not report the version


def level(flags: Iterable[str]) -> str:
    """Return the highest psABI level of a processor with these flags of /proc/cpuinfo."""
    have, best = frozenset(flags), "v1"
    for name, needed in _FLAGS.items():
        if not have.issuperset(needed):
            break
        best = name
    return best


def rank(arch: str, variant: str, most: str) -> int:
    """Return how well an image fits a machine: a higher number is better, -1 means that it cannot run.

    arch: Go's name of the architecture.
    variant: the image's variant, "" for none.
    most: the highest variant that the machine runs.
    """
    ladder = _LADDERS.get(arch, ())
    if not ladder:
        return 1 if variant == most else 0 if not variant else -1
    variant = variant or _DEFAULTS[arch]
    if variant not in ladder or ladder.index(variant) > ladder.index(most):
        return -1
    return ladder.index(variant)


def _cpu_flags() -> list[str]:
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name.strip() == "flags":
                return value.split()
    return []
