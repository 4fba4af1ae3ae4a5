# SPDX-License-Identifier: BSD-3-Clause
"""Install what `bollard exec` needs at a prefix, from this checkout, without Slurm and without root.

    python3 tests/gpu/make_tree.py PREFIX [CARRIED]     make the installation, and PREFIX/bin/bollard
    python3 tests/gpu/make_tree.py --pack CARRIED       compile what a machine without a compiler needs

CARRIED is the folder that `check.sh --pack` fills. What cannot be compiled on this machine is taken from there, with a
line that says so.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
# Compiled with Python's stable ABI (cffi's default), so one file suits every Python from 3.9 on.
SYSCALLS = "_linux.abi3.so"
PROGRAMS = ("bollard-enter", "bollard-cat")
COMMAND = """\
#!{python} -ISXutf8
import sys
sys.path.insert(0, {prefix!r} + "/python")
from bollard.runtime.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def unpack_wheels(carried: Path | None, target: Path) -> None:
    """Unpack those of the carried wheels that suit this Python, where it has no such module."""
    own = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    for wheel in sorted(carried.glob("*.whl")) if carried else ():
        tag = wheel.name.split("-")[2]
        module = {"pycparser": "pycparser", "cffi": "cffi"}.get(wheel.name.split("-")[0], "")
        if not module or tag not in (own, "py3", "py2.py3") or _has(module):
            continue
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(target)
        print(f"carried wheel: {wheel.name}")


def _has(module: str) -> bool:
    try:
        __import__(module)
    except ImportError:
        return False
    return True


def compile_syscalls(folder: Path) -> None:
    """Make the extension module in `folder`, under the name of the stable ABI."""
    import build  # spank_plugin/build.py

    with tempfile.TemporaryDirectory() as work:
        build.build_syscalls(folder, Path(work))
    made = folder / ("_linux" + sysconfig.get_config_var("EXT_SUFFIX"))
    made.rename(folder / SYSCALLS)


def make(prefix: Path, carried: Path | None) -> None:
    """Make the installation at `prefix`, which must not exist."""
    import build

    (prefix / "session").mkdir(parents=True)
    build.copy_python(prefix)
    system = prefix / "python/bollard/runtime/system"
    for what, make_it, names, folder in (
        ("the launcher", lambda: build.build_launcher(prefix), PROGRAMS, prefix),
        ("the system calls", lambda: compile_syscalls(system), (SYSCALLS,), system),
    ):
        try:
            make_it()
            print(f"compiled here: {what}")
        except Exception as error:  # whatever the reason is, the carried file may do
            if not carried or not all((carried / name).exists() for name in names):
                sys.exit(f"{what} cannot be compiled here ({error}), and nothing is carried: see check.sh --pack")
            print(f"carried, because it cannot be compiled here ({error}): {what}")
            for name in names:
                shutil.copy(carried / name, folder / name)
    for name in PROGRAMS:
        (prefix / name).chmod(0o755)
    (prefix / "bin").mkdir()
    command = prefix / "bin/bollard"
    command.write_text(COMMAND.format(python=os.path.realpath(sys.executable), prefix=str(prefix)))
    command.chmod(0o755)
    for path in prefix.rglob("*"):  # another user may run it, whatever the umask and the checkout's modes are
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH | (0o111 * path.is_dir()))


def pack(carried: Path) -> None:
    """Compile the launcher and the system calls into `carried`."""
    import build

    build.build_launcher(carried)
    compile_syscalls(carried)
    for path in carried.iterdir():
        if path.name in (*PROGRAMS, SYSCALLS):
            subprocess.run(["strip", str(path)], check=False)


def main() -> None:
    if sys.argv[1] == "--pack":
        sys.path.insert(0, str(TOP / "spank_plugin"))
        return pack(Path(sys.argv[2]))
    prefix, carried = Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None
    with tempfile.TemporaryDirectory() as wheels:
        unpack_wheels(carried, Path(wheels))
        sys.path[:0] = [str(TOP / "spank_plugin"), wheels]
        make(prefix, carried)


if __name__ == "__main__":
    main()
