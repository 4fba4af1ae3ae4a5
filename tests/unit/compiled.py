# SPDX-License-Identifier: BSD-3-Clause
"""One of the plugin's C files as a library that Python can call."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from cffi import FFI

from bollard.spank_plugin import build, toolchain

FOLDER = Path(__file__).resolve().parents[2] / "spank_plugin"


def load(name, folder, declarations, more="", others=()):
    """The (ffi, library) of `name`.c with the C text `more` behind it, compiled into `folder`; `declarations` say what
    of it is called; `others`: files that it needs."""
    source, output = folder / f"{name}.c", folder / f"{name}.so"
    build.write_headers(folder)
    source.write_text(f'#include "{FOLDER}/{name}.c"\n{more}\n')
    command = [os.environ.get("CC", "cc"), "-shared", "-fPIC", "-O1", "-g", "-std=gnu11", "-Wall", "-Wextra", "-Werror"]
    command += toolchain.sanitizers()
    command.append("-Wl,-Bsymbolic")  # else `step` is a function of the C library; the plugin keeps its names to itself
    sources = [source, *(FOLDER / f"{other}.c" for other in others)]
    subprocess.run([*command, f"-I{folder}", f"-I{FOLDER}", "-o", output, *sources], check=True)
    ffi = FFI()
    ffi.cdef(declarations)
    return ffi, ffi.dlopen(str(output))
