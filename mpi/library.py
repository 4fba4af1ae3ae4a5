# SPDX-License-Identifier: BSD-3-Clause
"""Open the image's libpmix or libpmi2 with cffi in ABI mode: what `pmix` and `pmi2` share."""

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
    """The ffi of the C ``declarations``, and ``library`` by the first of ``names`` that can be loaded; those with a
    ``/`` may be glob patterns.

    Raises ``error`` with ``hint`` if cffi or the library is missing, saying which. Keep the library for as long
    as Python runs: cffi closes it with its last reference, and its threads would crash.
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
                # A library that is there and does not fit is worth a word; cffi's text goes on for lines.
                if "No such file" not in str(problem):
                    problems.append(str(problem).partition(".  ")[0])
    raise error(f"no {library} here{': ' + problems[0] if problems else ''}", hint)
