# SPDX-License-Identifier: BSD-3-Clause
"""Import the keeper's modules from one file, which is faster than from fifty.

`PREFIX/python/node.archive` has the code of every module of ROOMS, without docstrings. spank_plugin/build.py writes it.
Without the file, or with the file of another Python, the modules are imported from their own files.

    MAGIC NUMBER of .pyc files | sizes of index and start, 4 bytes each, little-endian | index | start | code objects
    index, in the format of marshal: {module: (is a package, offset behind the start, size)}
    start, in the format of marshal: ((module, is a package, code object), ...) of all that a keeper imports before it
        looks at its spec, each behind those that it imports itself
"""

from __future__ import annotations

import marshal
import posix
import sys
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import MAGIC_NUMBER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType, ModuleType
    from typing import Any

NAME = "node.archive"
# All that a keeper imports at its start is in these, and what srun's pre-flight imports; the others are imported from
# their own files.
ROOMS = (
    *("runtime/container", "runtime/request", "runtime/image", "runtime/system", "runtime/shell", "runtime", "mpi"),
    "runtime/preflight",
)
# What a keeper imports first. `start` has these, and what they import.
FIRST = ("bollard.runtime.causes", "bollard.runtime.container.step")
_HEAD = len(MAGIC_NUMBER) + 8


def pack(modules: dict[str, tuple[bool, CodeType]], start: list[str]) -> bytes:
    """Return the content of an archive.

    modules: {name: (is a package, its code object)}
    start: names of the modules that `start` loads, in its order
    """
    index, codes, at = {}, [], 0
    for name, (package, code) in sorted(modules.items()):
        codes.append(marshal.dumps(code))
        index[name] = package, at, len(codes[-1])
        at += len(codes[-1])
    head, first = marshal.dumps(index), marshal.dumps(tuple([(name, *modules[name]) for name in start]))
    return b"".join([MAGIC_NUMBER, *(len(part).to_bytes(4, "little") for part in (head, first)), head, first, *codes])


class Finder:
    """A finder and loader for sys.meta_path. importlib calls its methods.

    It keeps the file open: an upgrade may put another one in its place.
    """

    def __init__(self, fd: int, folder: str) -> None:
        head = posix.pread(fd, _HEAD, 0)
        if head[:-8] != MAGIC_NUMBER:
            raise ValueError
        size, self.start_size = (int.from_bytes(head[at : at + 4], "little") for at in (_HEAD - 8, _HEAD - 4))
        self.index = marshal.loads(posix.pread(fd, size, _HEAD))
        self.start_at = _HEAD + size
        self.fd = fd
        self.folder = folder

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Return the spec of a module of the archive, None for another module."""
        found = self.index.get(name)
        if found is None:
            return None
        file = f"{self.folder}/{name.replace('.', '/')}"
        loader: Any = self  # importlib asks for no base class
        spec = ModuleSpec(name, loader, origin=file + ("/__init__.py" if found[0] else ".py"), is_package=found[0])
        if found[0]:
            spec.submodule_search_locations = [file]
        spec.has_location = True  # the module gets __file__
        return spec

    def create_module(self, spec: ModuleSpec) -> None:
        """Let importlib make the module."""

    def code(self, name: str) -> CodeType:
        """Return the code object of a module of the archive."""
        _, at, size = self.index[name]
        code: CodeType = marshal.loads(posix.pread(self.fd, size, self.start_at + self.start_size + at))
        return code

    def exec_module(self, module: ModuleType) -> None:
        """Run the module's code."""
        exec(self.code(module.__name__), module.__dict__)

    def start(self) -> list[tuple[str, bool, CodeType]]:
        """Return what the archive has for the start: names, whether they are packages, code objects."""
        return list(marshal.loads(posix.pread(self.fd, self.start_size, self.start_at)))


_finders: list[Finder] = []  # at most one


def use(folder: str) -> bool:
    """Import from the archive in `folder` from now on. Returns whether there is one for this Python."""
    try:
        fd = posix.open(f"{folder}/{NAME}", posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return False  # a checkout, or an installation without it: each module is in its own file
    try:
        _finders.append(Finder(fd, folder))
    except ValueError:
        posix.close(fd)
        return False
    places: list[Any] = sys.meta_path
    places.insert(2, _finders[0])  # behind the finders of built-in and frozen modules
    return True


def start() -> None:
    """Make the modules of the keeper's start from one read of the archive, if there is one.

    importlib would look for each of them, and lock it: that took a quarter of the time that Python starts in.
    """
    for finder in _finders:
        for name, package, code in finder.start():
            if name in sys.modules:
                continue
            spec: Any = finder.find_spec(name)
            module: Any = type(sys)(name)
            above, _, last = name.rpartition(".")
            module.__spec__, module.__loader__ = spec, finder
            module.__file__ = spec.origin
            module.__package__ = name if package else above
            if package:
                module.__path__ = spec.submodule_search_locations
            sys.modules[name] = module
            exec(code, module.__dict__)
            setattr(sys.modules[above], last, module)


def end() -> None:
    """Close the archive: nothing is imported from it any more."""
    while _finders:
        posix.close(_finders.pop().fd)
