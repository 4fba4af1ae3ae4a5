#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Build the files of the packages below a directory. debian/rules and packaging/bollard.spec call it.

    python3 packaging/stage.py DIRECTORY

The packages' own lists say which of the two has which file; spank_plugin/packaged.py tells what these files become.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
import tempfile
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
sys.dont_write_bytecode = True
found = importlib.util.spec_from_file_location(
    "bollard", str(TOP / "runtime/_root/__init__.py"), submodule_search_locations=[str(TOP)]
)
assert found and found.loader
sys.modules["bollard"] = importlib.util.module_from_spec(found)
found.loader.exec_module(sys.modules["bollard"])

from bollard.runtime.cli import completion, manual  # noqa: E402
from bollard.runtime.request import site_config  # noqa: E402
from bollard.spank_plugin import build, build_inside, install, installation, packaged, toolchain, version  # noqa: E402


def stage(root: Path, prefix: str) -> None:
    """Make all files below `root`, for trees at `prefix`."""
    toolchain.require(copies=False)
    files = root / packaged.FILES.lstrip("/")
    command, plugin = files / packaged.COMMAND, files / packaged.SLURM
    number = version.version(TOP)
    for part, make in ((command, _command), (plugin, _plugin)):
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        with tempfile.TemporaryDirectory() as work:
            make(part, Path(work), prefix)
    python = {"bollard": number, "python": ".".join(map(str, sys.version_info[:2]))}
    (command / packaged.BUILT).write_text(json.dumps(python))
    slurm = {**python, "slurm": toolchain.slurm_version(), "library": toolchain.python_name()}
    (plugin / packaged.BUILT).write_text(json.dumps(slurm))
    for path in files.rglob("*"):
        if not path.is_symlink():
            program = path.is_dir() or path.name in (*install.MODES, build_inside.PROGRAM)
            path.chmod(0o755 if program else 0o644)
    _outside(root, prefix)


def _command(part: Path, work: Path, prefix: str) -> None:
    build.make_command(part, work)
    install.make_names(installation.Where(prefix, names=True), part)
    for path in (part / "python/bollard/spank_plugin").iterdir():
        if path.suffix in (".c", ".h", ".map"):
            path.unlink()  # a package is not built again where it is installed
        elif path.read_text().startswith("#!"):
            path.write_text(path.read_text().partition("\n")[2])  # a module here, and not a program


def _plugin(part: Path, work: Path, prefix: str) -> None:
    build.make_plugin(part, work, prefix, "/etc/slurm")


def _outside(root: Path, prefix: str) -> None:
    """Write the command, its manual and completion, bollard.yaml and the rule for old records."""
    texts = {
        "usr/bin/bollard": install.command_text(prefix),
        "usr/lib/tmpfiles.d/bollard.conf": install.PRUNING,
        "etc/bollard/bollard.yaml": site_config.default_text(),
        "usr/share/bash-completion/completions/bollard": completion.script("bash"),
    }
    for name, text in texts.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755 if name.startswith("usr/bin") else 0o644)
    manual.write(root / "usr/share/man/man1")


if __name__ == "__main__":
    stage(Path(sys.argv[1]).absolute(), installation.Where().prefix)
