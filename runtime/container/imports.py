# SPDX-License-Identifier: BSD-3-Clause
"""Refuse imports and starts of programs to the keeper's processes inside a container.

After pivot_root(2) "/" is the image's root, with the user's binds in it. A module or program from there could have been
written by anyone. It would run with the keeper's capabilities, memory and record. So `complete` imports everything
that is needed later, and `end` makes every later import and every start of a program fail.
"""

from __future__ import annotations

import sys

from bollard.runtime import archive

# Modules that functions import only when they run, and that are needed after `end`. They are imported while the file
# server starts.
NEEDED = (
    "bollard.runtime.shell.interpreter",
    "bollard.runtime.shell.syntax",
    "bollard.runtime.shell.words",
)

# Audit events (docs.python.org, "Audit events table") for loaded code, and for started programs.
_LOADS = frozenset(("import", "compile", "exec", "code.__new__", "marshal.load", "marshal.loads", "ctypes.dlopen"))
_STARTS = frozenset(("os.exec", "os.posix_spawn", "os.spawn", "os.system", "subprocess.Popen", "pty.spawn"))


def complete() -> None:
    """Import the modules that are needed after `end`."""
    for name in NEEDED:
        __import__(name)


def end(programs: bool = False) -> None:
    """Make every import of a new module raise ImportError from here on; it cannot be undone.

    The start of a program raises too, unless `programs` is true. Tracebacks are no longer printed, because Python opens
    source files by path for them.
    """
    for places in (sys.path, sys.meta_path, sys.path_hooks):
        places.clear()
    sys.path_importer_cache.clear()
    archive.end()
    sys.stderr = sys.__stderr__ = None  # type: ignore[misc]  # Python's C code then prints nothing
    sys.excepthook = sys.unraisablehook = _say_nothing
    forbidden = _LOADS if programs else _LOADS | _STARTS

    def refuse(event: str, arguments: tuple[object, ...]) -> None:
        if event in forbidden:
            raise ImportError(f"{event} {arguments[0] if arguments else ''} in a container")

    sys.addaudithook(refuse)  # Python has no way to remove an audit hook


def _say_nothing(*_: object) -> None:
    pass
