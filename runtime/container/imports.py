# SPDX-License-Identifier: BSD-3-Clause
"""The end of imports: a process in a container loads no code and starts no program.

From `pivot_root` on "/" is the image's, with the user's binds over it. A module or a program that were looked up there
would be anybody's, and would run with the keeper's capabilities, memory and record. So `complete` imports all that is
needed from then on, and `end` makes every later import, and every start of a program, fail.
"""

from __future__ import annotations

import sys

# What functions need after `end`, beyond what the keeper's modules import themselves. Imported late: meanwhile the file
# server starts.
NEEDED = (
    "bollard.runtime.shell.interpreter",
    "bollard.runtime.shell.syntax",
    "bollard.runtime.shell.words",
)

# Audit events (docs.python.org, "Audit events table") of code that is loaded, and of programs that are started.
_LOADS = frozenset(("import", "compile", "exec", "code.__new__", "marshal.load", "marshal.loads", "ctypes.dlopen"))
_STARTS = frozenset(("os.exec", "os.posix_spawn", "os.spawn", "os.system", "subprocess.Popen", "pty.spawn"))


def complete() -> None:
    """Import what is needed after `end`."""
    for name in NEEDED:
        __import__(name)


def end(programs: bool = False) -> None:
    """From here on an import that is not loaded already raises ImportError, for good; so does the start of a program,
    unless `programs` are allowed. Nothing prints a traceback, for that opens source files by their paths."""
    for places in (sys.path, sys.meta_path, sys.path_hooks):
        places.clear()
    sys.path_importer_cache.clear()
    sys.stderr = sys.__stderr__ = None  # type: ignore[misc]  # Python's C code then prints nothing
    sys.excepthook = sys.unraisablehook = _say_nothing
    forbidden = _LOADS if programs else _LOADS | _STARTS

    def refuse(event: str, arguments: tuple[object, ...]) -> None:
        if event in forbidden:
            raise ImportError(f"{event} {arguments[0] if arguments else ''} in a container")

    sys.addaudithook(refuse)  # none can be removed


def _say_nothing(*_: object) -> None:
    pass
