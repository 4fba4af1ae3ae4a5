# SPDX-License-Identifier: BSD-3-Clause
"""`.dev/bollard`: the packages as `bollard.*`, by links into the checkout, for tests and type checkers.

The folders of the checkout are named `runtime`, `mpi` and `spank_plugin`; what is installed is named
`bollard.runtime` and so on. Every file is linked by itself, so that the compiled `_linux` can lie among the
links and the checkout stays free of binaries. Takes milliseconds when there is nothing to do.

    python3 tests/dev_tree.py        make or refresh it
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
DEV = TOP / ".dev"
FOLDERS = ("runtime", "mpi", "spank_plugin")


def make() -> Path:
    """Bring the links and the compiled module up to date; returns the directory to put on sys.path."""
    package = DEV / "bollard"
    package.mkdir(parents=True, exist_ok=True)
    handle = os.open(DEV, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        wanted = {package / "__init__.py": TOP / "runtime/_root/__init__.py"}
        for folder in FOLDERS:
            for source in (TOP / folder).rglob("*"):
                place = source.relative_to(TOP)
                if source.is_file() and "_root" not in place.parts and "cache" not in str(place.parent):
                    wanted[package / place] = source
        _link(package, wanted)
        _compile(package / "runtime/system")
    finally:
        os.close(handle)
    return DEV


def _link(package: Path, wanted: dict[Path, Path]) -> None:
    for path in package.rglob("*"):
        if path.is_symlink() and path not in wanted:
            path.unlink()
    for path, source in wanted.items():
        target = os.path.relpath(source, path.parent)
        if path.is_symlink() and os.readlink(path) == target:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        path.symlink_to(target)


def _compile(folder: Path) -> None:
    """The system calls for this Python, when they are older than their source or for another one."""
    module = folder / ("_linux" + sysconfig.get_config_var("EXT_SUFFIX"))
    names = ("runtime/system/linux_build.py", "spank_plugin/ownership.h", "spank_plugin/build.py")
    sources = [TOP / name for name in names]
    if module.exists() and module.stat().st_mtime > max(source.stat().st_mtime for source in sources):
        return
    program = (
        "import sys; from pathlib import Path; sys.path.insert(0, 'spank_plugin'); import build; "
        "build.build_syscalls(Path(sys.argv[1]), Path(sys.argv[1]))"
    )
    with tempfile.TemporaryDirectory(dir=DEV) as scratch:
        subprocess.run([sys.executable, "-c", program, scratch], cwd=TOP, stdin=subprocess.DEVNULL, check=True)
        (Path(scratch) / module.name).rename(module)


if __name__ == "__main__":
    print(make())
