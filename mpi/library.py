# SPDX-License-Identifier: BSD-3-Clause
"""Open the image's libpmix or libpmi2 with cffi in ABI mode; `pmix` and `pmi2` use this module."""

from __future__ import annotations

import glob
from typing import Any

try:
    from cffi import FFI
except ImportError:
    FFI = None  # type: ignore[assignment,misc]

from bollard.mpi.errors import WireupError


def open_library(
    library: str, declarations: str, names: tuple[str, ...], error: type[WireupError], hint: str
) -> tuple[Any, Any]:
    """Open a library; return the ffi object and the library.

    library: the name of the library for messages.
    declarations: its C declarations.
    names: file names to try in this order; a name with a ``/`` can be a glob pattern.
    error: the class of the error to raise.
    hint: the hint of this error.

    Keep the library as long as Python runs: cffi closes it with the last reference, and its threads would crash.

    Raises:
        WireupError: as ``error``, if cffi or the library is missing.
    """
    if FFI is None:
        raise error(f"this Python has no cffi, so {library.partition('.')[0]} cannot be called", hint)
    ffi = FFI()
    ffi.cdef(declarations)
    problems = []
    for name in names:
        for path in sorted(glob.glob(name)) if "/" in name else [name]:
            try:
                return ffi, ffi.dlopen(path)
            except OSError as problem:
                # Report a library that exists but cannot be loaded. Only the first part: cffi's text is long.
                if "No such file" not in str(problem):
                    problems.append(str(problem).partition(".  ")[0])
    raise error(f"no {library} here{': ' + problems[0] if problems else ''}", hint)
