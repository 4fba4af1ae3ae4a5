# SPDX-License-Identifier: BSD-3-Clause
"""One of the plugin's C files as a library that Python can call."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from cffi import FFI

FOLDER = Path(__file__).resolve().parents[2] / "spank_plugin"


def load(name, folder, declarations):
    """The (ffi, library) of `name`.c, compiled into `folder`; `declarations` say what of it is called."""
    output = folder / f"{name}.so"
    command = [os.environ.get("CC", "cc"), "-shared", "-fPIC", "-O1", "-g", "-std=gnu11", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([*command, "-o", output, FOLDER / f"{name}.c"], check=True)
    ffi = FFI()
    ffi.cdef(declarations)
    return ffi, ffi.dlopen(str(output))
