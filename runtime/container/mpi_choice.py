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

OPEN_MPI = "libmpi.so.40"  # of Open MPI 4 and 5

# The MPI libraries of each family. Libraries in one row have one ABI under several names, the standard's first (MPICH
# ABI Compatibility Initiative; Debian has the second name, Cray the others). The first row is the one for C.
FAMILIES: dict[str, tuple[tuple[str, ...], ...]] = {
    "the MPICH ABI": (
        ("libmpi.so.12", "libmpich.so.12", "libmpi_cray.so.12", "libmpi_gnu_91.so.12"),
        ("libmpifort.so.12", "libmpichfort.so.12", "libmpifort_cray.so.12", "libmpifort_gnu_91.so.12"),
        ("libmpicxx.so.12", "libmpichcxx.so.12"),
    ),
    "the ABI of the MPI standard": (("libmpi_abi.so.1",), ("libmpifort_abi.so.1",)),
    "Open MPI's ABI": (
        (OPEN_MPI,),
        ("libmpi_mpifh.so.40",),
        ("libmpi_usempif08.so.40",),
        ("libmpi_usempi_ignore_tkr.so.40",),
        ("libmpi_cxx.so.40",),
        ("liboshmem.so.40",),
    ),
}
# name -> (family, row)
ROWS = {name: (family, row) for family, rows in FAMILIES.items() for row in rows for name in row}
# Parts of Open MPI, and what it speaks to Slurm: they come with it.
_OF_OPEN_MPI = ("libopen-pal.so.", "libopen-rte.so.", "libprrte.so.", "libpmix.so.", "libmca_common_")
# The libraries that load components, by the components' directory.
_LOADERS = {"ucx": "libucs.so.0", "libfabric": "libfabric.so.1"}
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


def choose(
    host: dict[str, Part], image: Callable[[str], Part | None], providers: frozenset[str] = frozenset()
) -> Choice:
    """Return the choice among the host's libraries.

    host   {name: library}: the MPI libraries and all that they need. A name with "/" is a component that a library
           loads: libfabric/NAME
    image  returns a library of the image by its soname; None if the image has none
    providers  components of `host` for the image's own libfabric too, if it has one
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
    _add_needed(choice, host, image, judged, providers)
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


def is_from_host(name: str, host: dict[str, Part], image: Callable[[str], Part | None]) -> bool:
    """Return whether a library that some of `host` need comes from the host.

    name   the soname
    host   {name: library} of the host's libraries that are taken
    image  as for `choose`
    """
    own, ours = image(name), host.get(name)
    if not ours or not own or name in ROWS or name.startswith(_OF_OPEN_MPI):
        return ours is not None
    if not name.startswith(_FABRIC) and not _falls_short(name, own, ours, host.values()):
        return False
    return not _newer(name, own, ours)


def _newer(name: str, own: Part, ours: Part) -> frozenset[str]:
    """Return what the image's library has and the host's lacks: versions, or symbols if it has none."""
    if own.provides or name.startswith(_FABRIC):  # UCX has no versions, and its libraries belong together
        return own.provides - ours.provides
    return frozenset(own.defined() - ours.defined())


def _falls_short(name: str, own: Part, ours: Part, host: Iterable[Part]) -> bool:
    """Return whether the image's library lacks something that the host's libraries need of it."""
    users = [part for part in host if name in part.needed]
    if own.provides or ours.provides:
        return any(not own.provides.issuperset(part.requires.get(name, [])) for part in users)
    return any(part.undefined() & ours.defined() - own.defined() for part in users)


def _unusable(name: str, host: dict[str, Part], image: Callable[[str], Part | None], judged: dict[str, str]) -> str:
    """Return why an image cannot load a library of the host; "" if it can. `judged` has the answers so far."""
    if name in judged:
        return judged[name]
    judged[name] = ""  # libraries may need each other
    for need in host[name].needed:
        if is_from_host(need, host, image):
            reason = _unusable(need, host, image, judged)
            if reason and ", which " not in reason:  # the library at fault, not the whole way to it
                reason = f"needs {need}, which {reason}"
        else:
            reason = _missing(host[name], need, host.get(need), image(need))
        if reason:
            judged[name] = reason
            break
    return judged[name]


def _missing(part: Part, need: str, ours: Part | None, own: Part | None) -> str:
    """Return what `part` needs of the image's library and that lacks; "" for nothing.

    need       its name
    ours, own  the host's and the image's, None for none
    """
    if not own:
        return f"needs {need}, which the image does not have"
    lacking = [version for version in part.requires.get(need, []) if version not in own.provides]
    if not lacking:
        return ""
    series = _last(lacking).rpartition("_")[0]
    has = _last([version for version in own.provides if version.rpartition("_")[0] == series])
    reason = f"needs {_last(lacking)} of {need}, and the image has {f'it up to {has}' if has else 'none'}"
    more = f"; this node's has no {_last(_newer(need, own, ours))}, which the image's has" if ours else ""
    return reason + more


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
    choice: Choice, host: dict[str, Part], image: Callable[[str], Part | None], judged: dict[str, str],
    providers: frozenset[str],
) -> None:  # fmt: skip
    """Add what the libraries taken need, then the components that they load."""
    todo = list(choice.taken)
    components = [name for name in host if "/" in name]
    while todo or components:
        if not todo:
            name = components.pop(0)
            loader = _LOADERS.get(name.partition("/")[0], "")
            if loader not in choice.taken and not (name in providers and image(loader)):
                continue
            wrong = _unusable(name, host, image, judged)
            if wrong:
                choice.left_out[name] = wrong
                continue
            choice.taken.add(name)
            todo.append(name)
        for need in host[todo.pop()].needed:
            if need not in choice.taken and is_from_host(need, host, image):
                choice.taken.add(need)
                todo.append(need)


def _last(versions: Iterable[str]) -> str:
    """Return the highest of several versions, GLIBC_2.34; "" for none."""
    known = sorted(versions, key=lambda name: (elf.version(name.rpartition("_")[2]), name))
    return known[-1] if known else ""
