# SPDX-License-Identifier: BSD-3-Clause
"""Which `--mpi=` connects the ranks of which MPI library. Pure functions of what contents.py has read.

docs/mpi.md has the measurements behind the rules, and the table that `docs/preflight_table.py` makes of them.
"""

from __future__ import annotations

from bollard.runtime.container import elf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Mpi = dict[str, Any]

TYPES = ("pmix", "pmi2", "none")
# What becomes of a step: the ranks find each other; each is a job of 1 rank, with exit status 0; the library ends it.
OK, APART, FAILS = "ok", "apart", "fails"
# The families of programs, by the libraries that they name: contents.family.
FAMILIES = {"pmi2": "MPICH", "pmix": "Open MPI", "abi": "MPI ABI"}


def kind(word: str) -> str:
    """Return the type among TYPES that a value of `--mpi` means; "" for another one, about which nothing is known."""
    word = word.partition("/")[2] or word  # mpi/pmix is another form of pmix
    if word == "pmix" or word.startswith("pmix_v"):
        return "pmix"
    return word if word in TYPES else ""


def types_of(listed: str) -> tuple[str, ...]:
    """Return the types in the text of `srun --mpi=list`, which differs between releases."""
    import re  # srun imports this module, and does not need it

    words = re.findall(r"^(?:srun: )?\s*(?:MPI types are:?)?\s*([\w, ]+)$|(pmix_v\d+)", listed, re.MULTILINE)
    names = [name for pair in words for text in pair for name in text.replace(",", " ").split()]
    return tuple(dict.fromkeys(name for name in names if kind(name) or name == "cray_shasta"))


def outcome(mpi: Mpi, how: str) -> str:
    """Return OK, APART or FAILS for an MPI library in a step of several ranks.

    mpi  an entry of contents.py's `mpi`
    how  one of TYPES
    """
    marks = mpi["marks"]
    if "library" in marks:  # the image sets I_MPI_PMI_LIBRARY; that library asks Slurm itself
        return OK
    if mpi["name"] == "Open MPI":
        if how == "pmix" or (how == "pmi2" and "pmi2" in marks):
            return OK
        # PMI-2 was removed in 5.0, which then starts singletons. Older ones end with an error.
        return FAILS if elf.version(mpi["version"])[:1] < (5,) else APART
    if how == "none":
        return APART
    if how == "pmi2" or "pmix" in marks:
        return OK
    return FAILS if "refuses" in marks else APART


def family(mpi: Mpi) -> str:
    """Return the family of the programs that load this library."""
    if mpi["soname"] == "libmpi_abi.so.1":
        return "abi"
    return "pmi2" if mpi["soname"].endswith(".so.12") else "pmix"


def fitting(mpis: list[Mpi]) -> list[str]:
    """Return the types that connect the ranks of every one of these libraries, the best first."""
    found = [how for how in TYPES if mpis and all(outcome(mpi, how) == OK for mpi in mpis)]
    if found == ["pmix", "pmi2"] and all(mpi["name"] != "Open MPI" for mpi in mpis):
        found.reverse()  # PMI-2 is what MPICH itself has
    return found


def described(mpi: Mpi, how: str) -> str:
    """Return the library in words, and what it lacks for `how`: "MPICH 4.0.2 without PMIx"."""
    what = " ".join(word for word in (mpi["name"], mpi["version"]) if word)
    lacks = {"pmix": " without PMIx", "pmi2": " without PMI-2", "none": ""}
    return what + lacks[how]


def judged(mpis: list[Mpi], how: str) -> tuple[str, str]:
    """Return the outcome for a program that uses one of these libraries, and the library in words.

    A program that no library is known of may use any: then one that works is enough.
    """
    outcomes = [outcome(mpi, how) for mpi in mpis]
    if not outcomes or OK in outcomes:
        return OK, ""
    worst = APART if APART in outcomes else FAILS
    return worst, described(mpis[outcomes.index(worst)], how)
