# SPDX-License-Identifier: BSD-3-Clause
"""The findings of `bollard doctor IMAGE`: what an image needs of Slurm and of this machine, and whether it is there."""

from __future__ import annotations

import os
import re
import subprocess
from typing import TYPE_CHECKING, Any, NamedTuple

from bollard.runtime.errors import BollardError
from bollard.runtime.preflight import wireup
from bollard.spank_plugin import cluster_check
from bollard.spank_plugin.finding import FAILURE, OK, WARNING, Finding

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from bollard.runtime.preflight.contents import Contents

_SECONDS = 20
# The flags of /proc/cpuinfo that each level of the x86-64 psABI adds ("Micro-Architecture Levels").
_LEVELS = (
    (2, "cx16 lahf_lm popcnt sse4_1 sse4_2 ssse3"),
    (3, "abm avx avx2 bmi1 bmi2 f16c fma movbe xsave"),
    (4, "avx512f avx512bw avx512cd avx512dq avx512vl"),
)
_PMI = {"libpmix.so.2": "PMIx", "libpmi2.so.0": "PMI-2", "libpmi.so.0": "PMI-1"}


class Slurm(NamedTuple):
    """What this machine's Slurm offers: the types of `--mpi`, and MpiDefault. Both are empty without Slurm."""

    types: tuple[str, ...]
    default: str


def slurm() -> Slurm:
    """Return what this machine's Slurm offers; ask it by its commands."""
    listed, default = _said("srun", "--mpi=list"), _said("scontrol", "show", "config")
    found = re.search(r"^MpiDefault\s*=\s*(\S+)", default, re.MULTILINE)
    return Slurm(wireup.types_of(listed), found[1] if found else "")


def level_of(flags: Iterable[str]) -> int:
    """Return the level of x86-64, 1 to 4, of a CPU with these flags."""
    have, level = set(flags), 1
    for number, needed in _LEVELS:
        if not set(needed.split()) <= have:
            break
        level = number
    return level


def findings(found: Contents, here: Slurm, asked: str, level: int) -> Iterator[Finding]:
    """Yield what there is to say about an image.

    found  what contents.read returned
    here   this machine's Slurm
    asked  the value of --mpi; "" to judge MpiDefault
    level  the level of this machine's CPU; 0 if it has none
    """
    yield _libc(found)
    if level:
        yield _cpu(found["cpu"], level)
    yield from map(_library, found["mpi"])
    if not found["mpi"]:
        yield Finding("MPI library", OK, "none where the image's loader looks")
    pmi = [f"{_PMI[name]} ({name})" for name in _PMI if name in found["libraries"]]
    yield Finding("PMI libraries", OK, ", ".join(pmi) or "none")
    yield Finding("fabrics", OK, _fabrics(found))
    if here.types:
        yield Finding("Slurm", OK, f"--mpi={', '.join(here.types)}; MpiDefault={here.default or 'none'}")
        yield from _wireup(found["mpi"], here, asked)
    elif asked:
        yield Finding("wire-up", WARNING, "this machine has no srun, so its types of --mpi are not known", "try there")


def cpu_level() -> int:
    """Return the level of this machine's x86-64 CPU; 0 for another CPU."""
    if os.uname().machine != "x86_64":
        return 0
    with open("/proc/cpuinfo") as file:
        found = re.search(r"^flags\s*: (.*)$", file.read(1 << 20), re.MULTILINE)
    return level_of(found[1].split()) if found else 0


def _said(*command: str) -> str:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=_SECONDS, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ""  # no Slurm on this machine, or none that answers
    return done.stdout


def _libc(found: Contents) -> Finding:
    if found["libc"] == "none":
        return Finding("C library", OK, "none: only static programs run in it")
    text = f"{found['libc']} {found['libc_version']}".strip()
    if found["libc"] == "musl":
        text += ": libraries of the host, such as a GPU driver's, cannot be loaded"
    return Finding("C library", OK, text)


def _cpu(needed: int, level: int) -> Finding:
    if needed > level:
        text = f"the image needs x86-64-v{needed}, this machine has x86-64-v{level}"
        return Finding("CPU", FAILURE, text, "run it on newer nodes, or use an image for an older CPU")
    what = f"x86-64-v{needed}" if needed > 1 else "any x86-64" if needed else "what its libraries do not tell"
    return Finding("CPU", OK, f"the image needs {what}, this machine has x86-64-v{level}")


def _library(mpi: dict[str, Any]) -> Finding:
    use = wireup.fitting([mpi])
    text = f"{mpi['name']} {mpi['version']} ({mpi['path']}): --mpi={' or '.join(use) or 'none that is known'}"
    return Finding("MPI library", OK, text)


def _fabrics(found: Contents) -> str:
    parts = []
    if "libfabric.so.1" in found["libraries"]:
        parts.append(f"libfabric (symbols up to FABRIC_{found.get('fabric') or '?'})")
    if "libucp.so.0" in found["libraries"]:
        parts.append("UCX")
    return ", ".join(parts) or "neither libfabric nor UCX"


def _wireup(mpis: list[dict[str, Any]], here: Slurm, asked: str) -> Iterator[Finding]:
    """Yield the verdict on each MPI library with the `--mpi` that was asked, or else with MpiDefault."""
    value = asked or here.default or "none"
    if asked and asked.partition("/")[2] not in here.types and asked not in here.types:
        yield Finding("wire-up", WARNING, f"this Slurm has no --mpi={asked}", f"it has {', '.join(here.types)}")
        return
    how, shown = wireup.kind(value), f"--mpi={value}" if asked else f"MpiDefault={value}"
    if not how:
        yield Finding("wire-up", OK, f"{shown}: nothing is known of how it connects the ranks of an image's MPI")
    for mpi in mpis if how else ():
        outcome = wireup.outcome(mpi, how)
        if outcome == wireup.OK:
            yield Finding("wire-up", OK, f"{mpi['name']} {mpi['version']} with {shown}: the ranks find each other")
            continue
        end = "each rank would be a job of 1 rank" if outcome == wireup.APART else "it would end with an error"
        offered = [use for use in wireup.fitting([mpi]) if use in here.types]
        cure = f"use --mpi={offered[0]}" if offered else "use an image with another MPI: this Slurm has no type for it"
        yield Finding("wire-up", WARNING, f"{wireup.described(mpi, how)} with {shown}: {end}", cure)


def on_nodes(nodes: str, words: list[str]) -> int:
    """Run this command on nodes through srun; return the exit status: 1 if one node has a failure.

    nodes  names, as srun takes them
    words  the command line after `bollard`

    Raises:
        BollardError: this machine has no srun.
    """
    names = cluster_check.names(nodes)
    try:
        return subprocess.run(
            [
                *("srun", "--quiet", f"--nodelist={','.join(names)}", f"--nodes={len(names)}", "--ntasks-per-node=1"),
                *("--kill-on-bad-exit=0", "--mpi=none", "--oversubscribe", "bollard", *words),
            ],
            stdin=subprocess.DEVNULL, check=False,
        ).returncode  # fmt: skip
    except FileNotFoundError:
        raise BollardError(
            f"doctor --nodes={nodes}: there is no srun here", "run it where jobs are submitted"
        ) from None
