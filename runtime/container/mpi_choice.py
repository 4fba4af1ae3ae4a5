# SPDX-License-Identifier: BSD-3-Clause
"""Which libraries of the host's MPI an image gets: pure functions of what the libraries' ELF headers say.

A library counts by its soname, by the symbol versions that it needs (DT_VERNEED) and defines (DT_VERDEF), and by its
symbols where it has no versions. The names of files only say where to look.

* An MPI library takes the place of the image's if it has every function of the image's (MPI_...).
* What MPI needs besides comes from the image, if the image's library has all that is needed. Else it comes from the
  host, if the host's has all that the image's has: the image's own programs load it too. libfabric and UCX are the way
  to the network, so there the host's come first.
* Libraries of glibc always come from the image. A library that needs a newer glibc is left out.
"""

from __future__ import annotations

from bollard.runtime.container import elf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import NamedTuple

    class Part(NamedTuple):
        """A library: the libraries that it names, versions needed of each, versions defined, symbols both ways."""

        needed: list[str]
        requires: dict[str, list[str]]
        provides: frozenset[str]
        defined: Callable[[], set[str]]
        undefined: Callable[[], set[str]]

else:
    from collections import namedtuple

    Part = namedtuple("Part", "needed requires provides defined undefined")

# The MPI libraries of each family. Libraries in one row have one ABI under several names, the standard's first (MPICH
# ABI Compatibility Initiative; Debian has the second name, Cray the others). The first row is the one for C.
FAMILIES: dict[str, tuple[tuple[str, ...], ...]] = {
    "the MPICH ABI": (
        ("libmpi.so.12", "libmpich.so.12", "libmpi_cray.so.12", "libmpi_gnu_91.so.12"),
        ("libmpifort.so.12", "libmpichfort.so.12", "libmpifort_cray.so.12", "libmpifort_gnu_91.so.12"),
        ("libmpicxx.so.12", "libmpichcxx.so.12"),
    ),
    "the ABI of the MPI standard": (("libmpi_abi.so.1",), ("libmpifort_abi.so.1",)),
}
# name -> (family, row)
ROWS = {name: (family, row) for family, rows in FAMILIES.items() for row in rows for name in row}
# The host's come first: they are the way to its network.
_FABRIC = ("libfabric.so.", "libucp.so.", "libuct.so.", "libucs.so.", "libucm.so.")
_GLIBC = (
    "libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "librt.so.1", "libutil.so.1", "libresolv.so.2",
    "libanl.so.1", "libmvec.so.1", "libBrokenLocale.so.1", "libthread_db.so.1", "libcrypt.so.1",
)  # fmt: skip


def of_glibc(name: str) -> bool:
    """Return whether a library is one of glibc's, or the loader."""
    return name in _GLIBC or name.startswith(("ld-linux", "ld64.so", "libnss_", "ld.so"))


class Choice:
    """What an image gets. `taken` are names of the host's libraries; `left_out` {name: reason} of the others."""

    __slots__ = ("families", "left_out", "taken", "warnings")

    def __init__(self) -> None:
        self.taken: set[str] = set()
        self.families: list[str] = []  # whose MPI libraries are taken
        self.left_out: dict[str, str] = {}
        self.warnings: list[str] = []


def choose(host: dict[str, Part], image: Callable[[str], Part | None]) -> Choice:
    """Return the choice among the host's libraries.

    host   {name: library}: the MPI libraries and all that they need. A name with "/" is a component that a library
           loads: fabric/NAME
    image  returns a library of the image by its soname; None if the image has none
    """
    choice = Choice()
    judged: dict[str, str] = {}
    present = {name: image(name) is not None for name in ROWS}
    has = {family for name, (family, _) in ROWS.items() if present[name]}
    for family, rows in FAMILIES.items():
        if has and family not in has:
            continue
        here = [name for row in rows for name in row if name in host]
        core = [name for name in here if name in rows[0]]
        if not core:
            continue
        reason = ""
        for name in core:
            reason = reason or _unusable(name, host, image, judged) or _lacks_functions(host[name], rows[0], image)
        if reason:
            choice.left_out[core[0]] = reason
            continue
        choice.families.append(family)
        for name in here:
            wrong = "" if name in core else _unusable(name, host, image, judged)
            if wrong:
                choice.left_out[name] = wrong
            else:
                choice.taken.add(name)
        choice.warnings += _misfits(host[core[0]], core[0], rows[1:], choice.taken, image)
    _add_needed(choice, host, image, judged)
    return choice


def refused(host: Iterable[str], image: Callable[[str], Part | None], choice: Choice) -> str:
    """Return why an image gets none of the host's MPI libraries; "" if it gets some, or there is nothing to get.

    host    names of the host's libraries
    image   as for `choose`
    choice  what it returned
    """
    if choice.families:
        return ""
    if choice.left_out:
        name, reason = next(iter(choice.left_out.items()))
        return f"{name} of this node {reason}"
    theirs = [name for name in ROWS if image(name)]
    ours = [name for name in ROWS if name in host]
    return f"this node has MPI libraries of another ABI ({ours[0]}) than the image ({theirs[0]})"


def sources(name: str, host: dict[str, Part], image: Callable[[str], Part | None]) -> tuple[bool, str]:
    """Return whether a library comes from the host, and why neither side can give it ("" if one can).

    name   a soname that some of `host` needs
    """
    own, ours = image(name), host.get(name)
    if name in ROWS and ours:
        return True, ""
    if not own:
        return (True, "") if ours else (False, f"needs {name}, which is neither on this node nor in the image")
    wrong = _falls_short(name, own, host.values())
    if not ours:
        return False, wrong
    if not name.startswith(_FABRIC) and not wrong:
        return False, ""
    if own.provides:
        newer = own.provides - ours.provides
    else:
        newer = frozenset() if name.startswith(_FABRIC) else frozenset(own.defined() - ours.defined())
    if not newer:
        return True, ""
    return False, wrong and f"{wrong}; the image's programs need {_last(newer)} of it"


def _unusable(
    name: str, host: dict[str, Part], image: Callable[[str], Part | None], judged: dict[str, str]
) -> str:  # fmt: skip
    """Return why an image cannot load a library of the host; "" if it can. `judged` has the answers so far."""
    if name in judged:
        return judged[name]
    judged[name] = ""  # libraries may need each other
    for need in host[name].needed:
        reason = ""
        if of_glibc(need):
            own = image(need)
            versions = host[name].requires.get(need, [])
            if not own:
                reason = f"needs {need}, which the image does not have"
            elif not own.provides.issuperset(versions):
                lacking = _last([version for version in versions if version not in own.provides])
                reason = f"needs {lacking} of {need}, and the image has it up to {_last(own.provides)}"
        else:
            from_host, reason = sources(need, host, image)
            if from_host:
                reason = _unusable(need, host, image, judged)
                if reason and ", which " not in reason:  # the library at fault, not the whole way to it
                    reason = f"needs {need}, which {reason}"
        if reason:
            judged[name] = reason
            break
    return judged[name]


def _falls_short(name: str, own: Part, users: Iterable[Part]) -> str:
    """Return what `users` need of a library and the image's has not; "" for nothing."""
    users = [part for part in users if name in part.needed]
    versions = [version for part in users for version in part.requires.get(name, [])]
    lacking = [version for version in versions if version not in own.provides]
    return f"needs {_last(lacking)} of {name}, which the image's does not have" if lacking else ""


def _lacks_functions(ours: Part, names: tuple[str, ...], image: Callable[[str], Part | None]) -> str:
    for other in names:
        own = image(other)
        if own:
            lost = sorted(word for word in own.defined() - ours.defined() if word.startswith("MPI_"))
            if lost:
                return f"has no {lost[0]}, which {other} of the image has"
    return ""


def _misfits(
    ours: Part, name: str, rows: tuple[tuple[str, ...], ...], taken: set[str], image: Callable[[str], Part | None]
) -> list[str]:
    """Return a line for each library of the image that stays beside the host's MPI and needs what that lacks."""
    found = []
    for row in rows:
        for other in row:
            own = None if taken.intersection(row) else image(other)
            if own:
                lost = sorted(word for word in own.undefined() - ours.defined() if word.startswith(("MPI", "PMPI")))
                if lost:
                    found.append(
                        f"{other} stays the image's, and needs {lost[0]}, which {name} of this node lacks: "
                        "a program of that language needs --container-mpi=image"
                    )
                    break
    return found


def _add_needed(
    choice: Choice, host: dict[str, Part], image: Callable[[str], Part | None], judged: dict[str, str]
) -> None:
    """Add what the libraries taken need, then the components that they load."""
    todo = list(choice.taken)
    while todo:
        for need in host[todo.pop()].needed:
            if need in host and need not in choice.taken and sources(need, host, image)[0]:
                choice.taken.add(need)
                todo.append(need)
        if not todo:
            for name in host:
                folder, slash, _ = name.partition("/")
                loader = {"ucx": "libucs.so.0", "libfabric": "libfabric.so.1"}.get(folder, "")
                if slash and loader in choice.taken and name not in choice.taken and name not in choice.left_out:
                    wrong = _unusable(name, host, image, judged)
                    if wrong:
                        choice.left_out[name] = wrong
                    else:
                        choice.taken.add(name)
                        todo.append(name)


def _last(versions: Iterable[str]) -> str:
    """Return the highest of several versions: GLIBC_2.34."""
    known = sorted(versions, key=lambda name: (elf.version(name.rpartition("_")[2]), name))
    return known[-1] if known else "no version"
