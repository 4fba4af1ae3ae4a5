# SPDX-License-Identifier: BSD-3-Clause
"""The host's MPI and fabrics in the container: what this node has, and what the image gets of it.

The plan has every MPI library of the node and all that these need, as binds to PLACE. When the image can be read, and
before anything is attached, `fitting` keeps those that suit it (mpi_choice.py) and binds the MPI libraries also over
the image's own: a program with DT_RPATH does not look into LD_LIBRARY_PATH, which has PLACE first.

This module is imported only for a container that asks for the host's MPI, and where the site has fabrics.
"""

from __future__ import annotations

import os

from bollard.runtime.container import elf, fabrics, image_libraries, loader_cache, mounts, mpi_choice
from bollard.runtime.container.mpi_choice import OPEN_MPI, ROWS, Part
from bollard.runtime.errors import BollardError
from bollard.runtime.request.plan_records import BIND, HOST_MPI, MPI_LIBRARIES, OMIT, Mount
from bollard.runtime.system import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bollard.runtime.container.fabrics import Fabric
    from bollard.runtime.container.image_libraries import Root
    from bollard.runtime.container.mounts import Place, Report
    from bollard.runtime.request.site import Site

IMAGE, AUTO, HOST = "image", "auto", "host"
LIBFABRIC = "libfabric.so.1"
# Where the tree of Open MPI is, below MPI_LIBRARIES.
OPEN_MPI_TREE, LIBPMIX = "openmpi", "libpmix.so.2"
# Directories of components beside the library that loads them: UCX looks beside libucs, libfabric in FI_PROVIDER_PATH.
_COMPONENTS = {"libucs.so.0": "ucx", "libfabric.so.1": "libfabric"}
_COMPONENTS_MAX, _LIBRARIES_MAX = 100, 300
_OPEN_MPI_NAMES = [name for row in mpi_choice.FAMILIES["Open MPI's ABI"] for name in row]
_OWN = "--container-mpi=image uses the image's own"


class Node:
    """How a loader of this node finds libraries."""

    __slots__ = ("known", "places")

    def __init__(self, places: tuple[str, ...]) -> None:
        self.places = places or tuple(_expanded(image_libraries.MPI_PLACES))
        try:
            self.known = loader_cache.read(os.uname().machine)
        except ValueError:
            self.known = {}  # a damaged cache: the usual directories are searched

    def mpi(self, row: tuple[str, ...], only: tuple[str, ...]) -> str:
        """Return the path of a library of `row` (ROWS) on this node; "" for none.

        only  the site's directories: nothing else counts then
        """
        first = [f"{place}/{name}" for place in self.places for name in row]
        second = [self.known[name] for name in row if name in self.known]
        for path in first if only else second + first:
            if _soname(path) in row:
                return path
        return ""

    def library(self, name: str, folders: list[str]) -> str:
        """Return the path of a library, as a loader finds it for one with DT_RUNPATH `folders`; "" for none."""
        paths = [f"{place}/{name}" for place in folders]
        paths += [self.known[name]] if name in self.known else []
        paths += [f"{place}/{name}" for place in image_libraries.folders()]
        return next((path for path in paths if os.path.isfile(path) and os.access(path, os.R_OK)), "")


def _expanded(places: tuple[str, ...]) -> list[str]:
    found = []
    for place in places:
        before, star, after = place.partition("*")
        try:
            found += [before + name + after for name in sorted(os.listdir(before))] if star else [place]
        except OSError:
            continue  # most nodes lack most of these directories
    return found


def _soname(path: str) -> str:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""  # not there, which is what the caller asks
    try:
        return elf.Library(fd).soname()
    finally:
        os.close(fd)


def part(fd: int) -> Part:
    """Return what an open library says of itself. Its symbols are read at the first question."""
    library = elf.Library(fd)
    cached: list[tuple[set[str], set[str]]] = []

    def symbols() -> tuple[set[str], set[str]]:
        if not cached:
            cached.append(library.symbols())
        return cached[0]

    return Part(
        library.needed(), library.requirements(), frozenset(library.provisions()), lambda: symbols()[0],
        lambda: symbols()[1],
    )  # fmt: skip


def find(here: Site, mode: str, contain: bool = False) -> tuple[tuple[Mount, ...], tuple[str, ...]]:
    """Return the binds of the node's MPI, of the site's fabrics and of all that these need, and warnings.

    here     the site's configuration
    mode     IMAGE, AUTO or HOST
    contain  the container has its own /dev

    Raises:
        BollardError: mode is HOST, and this node has no MPI library, or one that it cannot load itself.
    """
    node = Node(here.host_mpi)
    found: dict[str, str] = {}
    warnings: tuple[str, ...] = ()
    if mode != IMAGE:
        wrong = _find_mpi(node, here.host_mpi, found)
        if wrong and mode == HOST:
            raise BollardError(f"--container-mpi=host: {wrong}", f"{_OWN}; see docs/mpi.md")
        warnings += (f"--container-mpi=auto: {wrong}; the image's own is used",) if wrong else ()
    devices: list[Mount] = []
    if here.fabrics:
        known = fabrics.of_site(here.fabrics)
        devices = fabrics.device_binds(known) if contain else []
        for fabric in known:
            for path in fabric.libraries:
                node.known[_soname(path) or os.path.basename(path)] = path
            for path, name in zip(fabric.provider, fabric.components()):
                if not os.access(path, os.R_OK):
                    warnings += (f"fabric {fabric.name}: {path} of bollard.yaml is not on this node; left out",)
                elif name not in found:
                    _collect(node, path, found, name, "" if LIBFABRIC in found else LIBFABRIC)
                    found[name] = path
    binds = [
        Mount(BIND, path, f"{MPI_LIBRARIES}/{name}", read_only=True, if_missing=OMIT, only=HOST_MPI)
        for name, path in found.items()
    ]
    return (*binds, *devices), warnings


def _find_mpi(node: Node, only: tuple[str, ...], found: dict[str, str]) -> str:
    """Add the node's MPI libraries, and what they need, to `found`. Returns why there are none, "" if there are."""
    lacking = ""
    for rows in mpi_choice.FAMILIES.values():
        for row in rows:
            path = node.mpi(row, only)
            if path:
                wrong = _collect(node, path, found)
                lacking = lacking or wrong
                if not wrong:
                    found.update(dict.fromkeys(row, path))
    if OPEN_MPI in found:  # its components and texts are found from its prefix, so it is a tree
        prefix = os.path.dirname(os.path.dirname(os.path.realpath(found[OPEN_MPI])))
        if os.path.isdir(f"{prefix}/share/openmpi"):
            found[OPEN_MPI_TREE] = prefix
        else:
            lacking = lacking or f"{found[OPEN_MPI]} is not below the prefix of an Open MPI (PREFIX/share/openmpi)"
            for name in [name for name in found if name in _OPEN_MPI_NAMES]:
                del found[name]
    if any(name in ROWS for name in found):
        return ""
    where = f"; the site names {', '.join(only)}" if only else ""
    return lacking or f"this node has no MPI library that bollard knows{where}"


def _collect(node: Node, path: str, found: dict[str, str], component: str = "", without: str = "") -> str:
    """Add to `found` what a library needs. Returns what this node lacks of it; then nothing is added.

    path       its path
    component  its name if it is a component: what it needs and this node lacks is the image's, or left out later
    without    a library that is not looked for, as the image's is meant
    """
    more: dict[str, str] = {}
    todo = [(path, component or os.path.basename(path), bool(component))]
    while todo and len(more) < _LIBRARIES_MAX:
        path, name, loaded = todo.pop()
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            library = elf.Library(fd)
            said, run_path = part(fd), library.run_path()
        finally:
            os.close(fd)
        origins = dict.fromkeys((os.path.dirname(path), os.path.dirname(os.path.realpath(path))))
        folders = [
            os.path.normpath(place.replace("${ORIGIN}", "$ORIGIN").replace("$ORIGIN", origin))
            for place in run_path[: image_libraries.PLACES_MAX]
            for origin in origins
        ]
        for need in said.needed:
            if mpi_choice.of_glibc(need) or need in more or need == without:
                continue
            place = node.library(need, folders)
            if need in found:
                if not loaded and os.path.realpath(place) != os.path.realpath(found[need]):
                    return f"{path} needs another {need} than the other MPI libraries of this node"
                continue
            if place:
                more[need] = place
                todo.append((place, need, loaded))
            elif not loaded:  # a component that cannot be loaded is one without its network, as on the host
                return f"{path} needs {need}, which this node does not have"
        folder = _COMPONENTS.get(name, "")
        for at, file in _components(path, folder) if folder else ():
            if f"{folder}/{file}" not in more:
                more[f"{folder}/{file}"] = at
                todo.append((at, f"{folder}/{file}", True))
    for name, place in more.items():
        found.setdefault(name, place)
    return ""


def _components(path: str, folder: str) -> list[tuple[str, str]]:
    """Return (path, name) of the components in `folder` beside a library."""
    for origin in dict.fromkeys((os.path.dirname(path), os.path.dirname(os.path.realpath(path)))):
        try:
            names = sorted(os.listdir(f"{origin}/{folder}"))[:_COMPONENTS_MAX]
        except OSError:
            continue  # a library with all components in it
        files = [(f"{origin}/{folder}/{name}", name) for name in names if ".so" in name]
        return [(path, name) for path, name in files if _soname(path) in ("", name)]  # each once
    return []


class Fit:
    """What an image gets: mounts, and what its tasks need to find them."""

    __slots__ = ("defaults", "libraries", "places", "variables")

    def __init__(self, places: list[Place]) -> None:
        self.places = places
        self.libraries = b""  # directory that comes first in LD_LIBRARY_PATH
        self.defaults: tuple[tuple[bytes, bytes], ...] = ()  # variables, used if no other source sets them
        self.variables: tuple[tuple[bytes, bytes], ...] = ()  # variables that win over the image's


def fitting(root: int, places: list[Place], mode: str, here: Site, report: Report) -> Fit:
    """Return `places` with those of the host's MPI and fabrics that suit the image, and what tasks need for them.

    root    descriptor of the image's root directory
    places  what mounts.clone_sources returned
    mode    IMAGE, AUTO or HOST
    here    the site's configuration
    report  gets what is left out

    Raises:
        BollardError: mode is HOST, and nothing suits the image.
    """
    ours = {_name(place): place for place in places if place.mount.only == HOST_MPI}
    image = image_libraries.Root(root)
    site_fabrics = fabrics.of_site(here.fabrics)
    opened: list[int] = []
    try:
        host = {}
        for name, place in ours.items():
            opened.append(os.open(f"/proc/self/fd/{place.tree}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
            host[name] = part(opened[-1])
        known: dict[str, tuple[str, Part | None]] = {}

        def of_image(name: str) -> Part | None:
            if name not in known:
                known[name] = _of_image(image, name, opened)
            return known[name][1]

        providers = frozenset(name for fabric in site_fabrics for name in fabric.components())
        choice = mpi_choice.choose(host, of_image, providers)
        why = mpi_choice.refused(host, of_image, choice) if any(name in ROWS for name in host) else ""
        over = [(name, known[name][0]) for name in ROWS if name in choice.taken and of_image(name)]
    finally:
        for fd in opened:
            os.close(fd)
    if why and mode == HOST:
        raise BollardError(f"--container-mpi=host: {why}", _OWN)
    if why:
        own = any(known[name][1] for name in ROWS)
        end = "the image's own MPI is used" if own else "the image has no MPI of its own"
        report.warnings.append(f"--container-mpi=auto: {why}; {end}")
    _tell_left_out(choice, "" if why else mode, site_fabrics, report)
    if OPEN_MPI in choice.taken:
        choice.taken.add(OPEN_MPI_TREE)
    kept = []
    for place in places:
        if place.mount.only != HOST_MPI or _name(place) in choice.taken:
            kept.append(place)
        else:
            os.close(place.tree)
    for name, path in over if not why else ():
        kept.append(_over(ours[name].mount.source, path))
        report.chosen.append(f"{ours[name].mount.source} of the host for {path} of the image")
    fit = Fit(kept)
    if choice.taken:
        fit.libraries = MPI_LIBRARIES.encode()
        of_image_too = "" if LIBFABRIC in choice.taken else known.get(LIBFABRIC, ("", None))[0]
        fit.defaults = tuple(_defaults(choice.taken, site_fabrics, of_image_too))
    if OPEN_MPI in choice.taken:
        fit.variables = _prefixes({name: place.mount.source for name, place in ours.items()})
    return fit


def _tell_left_out(choice: mpi_choice.Choice, mode: str, site_fabrics: list[Fabric], report: Report) -> None:
    """Add the libraries of the host that the image does not get to the report, each with its reason.

    choice        what the image gets
    mode          AUTO or HOST: warn of MPI libraries too; "" if the image gets no MPI of the host
    site_fabrics  the site's fabrics: warn of their components
    report        gets the lines
    """
    report.warnings += choice.warnings
    if mode:
        report.warnings += [
            f"--container-mpi={mode}: {name} {reason}; left out"
            for name, reason in choice.left_out.items()
            if name in ROWS
        ]
    report.left_out += [f"{MPI_LIBRARIES}/{name}: {reason}" for name, reason in choice.left_out.items()]
    for fabric in site_fabrics:
        for name in fabric.components():
            if name in choice.left_out:
                report.warnings.append(
                    f"fabric {fabric.name}: {name.partition('/')[2]} {choice.left_out[name]}; left out"
                )


def _prefixes(sources: dict[str, str]) -> tuple[tuple[bytes, bytes], ...]:
    """Return the variables by which Open MPI, and its PMIx if that is in the tree, find their files in the container.

    sources  {name: path on the host} of the libraries and of the tree
    """
    tree, place = sources[OPEN_MPI_TREE], f"{MPI_LIBRARIES}/{OPEN_MPI_TREE}".encode()
    own = os.path.realpath(sources.get(LIBPMIX, "")).startswith(f"{tree}/")
    return ((b"OPAL_PREFIX", place), *(((b"PMIX_PREFIX", place),) if own else ()))


def _defaults(taken: set[str], site_fabrics: list[Fabric], libfabric: str) -> list[tuple[bytes, bytes]]:
    """Return the variables of providers and fabrics.

    taken         names of the host's libraries that the image gets
    site_fabrics  the fabrics of this node
    libfabric     path of the image's own libfabric if that is used: its own providers stay known to it
    """
    found = []
    if any(name.startswith(f"{fabrics.PROVIDERS}/") for name in taken):
        folders = [f"{MPI_LIBRARIES}/{fabrics.PROVIDERS}"]
        folders += [f"{os.path.dirname(libfabric)}/{fabrics.PROVIDERS}"] if libfabric else []
        found.append((b"FI_PROVIDER_PATH", os.fsencode(":".join(folders))))
    for fabric in site_fabrics:
        if taken.intersection(fabric.components()):
            found += fabric.variables()
    return found


def _name(place: Place) -> str:
    return place.mount.target[len(MPI_LIBRARIES) + 1 :]


def _of_image(image: Root, name: str, opened: list[int]) -> tuple[str, Part | None]:
    """Return path and description of a library of the image; `opened` gets its descriptor."""
    path, fd = image.library(name, [])
    if fd < 0 and name in ROWS:
        path, fd = image_libraries.elsewhere(image, name)
    if fd < 0:
        return "", None
    opened.append(fd)
    return path, part(fd)


def _over(source: str, path: str) -> Place:
    """Return the mount of a library of the host over one of the image."""
    tree = linux.clone_tree(source)
    linux.set_mount_flags(tree, linux.MOUNT_ATTR_RDONLY | linux.MOUNT_ATTR_NOSUID | linux.MOUNT_ATTR_NODEV)
    return mounts.Place(Mount(BIND, source, path, read_only=True, if_missing=OMIT, if_free=True), tree, False)
