# SPDX-License-Identifier: BSD-3-Clause
"""Import the keeper's modules from one file, which is faster than from fifty.

`PREFIX/python/node.archive` has the code of every module of ROOMS, without docstrings. spank_plugin/build.py writes it.
Without the file, or with the file of another Python, the modules are imported from their own files.

    MAGIC NUMBER of .pyc files | length of the index, 4 bytes, little-endian | index | code objects
    index, in the format of marshal: {module: (is a package, offset behind the index, size)}
"""

from __future__ import annotations

import marshal
import sys
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import MAGIC_NUMBER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

NAME = "node.archive"
# All that a keeper imports at its start is in these, and what srun's pre-flight imports; the others are imported from
# their own files.
ROOMS = (
    *("runtime/container", "runtime/request", "runtime/image", "runtime/system", "runtime/shell", "runtime", "mpi"),
    "runtime/preflight",
)
_HEAD = len(MAGIC_NUMBER) + 4


def pack(modules: dict[str, tuple[bool, bytes]]) -> bytes:
    """Return the content of an archive.

    modules: {name: (is a package, its code object in the format of marshal)}
    """
    index, codes, at = {}, [], 0
    for name, (package, code) in sorted(modules.items()):
        index[name] = package, at, len(code)
        codes.append(code)
        at += len(code)
    head = marshal.dumps(index)
    return b"".join([MAGIC_NUMBER, len(head).to_bytes(4, "little"), head, *codes])


class Finder:
    """A finder and loader for sys.meta_path. importlib calls its methods."""

    def __init__(self, data: bytes, folder: str) -> None:
        end = _HEAD + int.from_bytes(data[_HEAD - 4 : _HEAD], "little")
        self.index = marshal.loads(data[_HEAD:end])
        self.codes = memoryview(data)[end:]
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

    def exec_module(self, module: ModuleType) -> None:
        """Run the module's code."""
        _, at, size = self.index[module.__name__]
        exec(marshal.loads(self.codes[at : at + size]), module.__dict__)


def use(folder: str) -> bool:
    """Import from the archive in `folder` from now on. Returns whether there is one for this Python."""
    try:
        with open(f"{folder}/{NAME}", "rb", 0) as file:
            data = file.read()
    except OSError:
        return False  # a checkout, or an installation without it: each module is in its own file
    if not data.startswith(MAGIC_NUMBER):
        return False
    places: list[Any] = sys.meta_path
    places.insert(2, Finder(data, folder))  # behind the finders of built-in and frozen modules
    return True
