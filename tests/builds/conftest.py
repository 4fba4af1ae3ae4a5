# SPDX-License-Identifier: BSD-3-Clause
"""Builds as a user without privileges, whoever runs the tests: the command, the settings of this machine, a place."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import dev_tree
import pytest
import servers
import small_trees
from building import USER, Builder, machine_binds
from fetcher import Fetcher

TOP = Path(__file__).resolve().parents[2]
DEFINITIONS = Path(__file__).resolve().parent.parent / "definitions"


@pytest.fixture(scope="session")
def builder() -> Iterator[Builder]:
    # Not pytest's directory: each session of root's closes that to everybody else.
    top = Path(tempfile.mkdtemp(prefix="bollard-test-build-"))
    top.chmod(0o755)
    # Copies: the checkout may lie where the user cannot read.
    shutil.copytree(dev_tree.make(), top / "lib", symlinks=False)
    shutil.copytree(DEFINITIONS, top / "work", symlinks=True)
    (top / "temporary").mkdir()
    binds = machine_binds(top)
    if os.geteuid() == 0:
        subprocess.run(["chown", "-R", f"{USER}:{USER}", str(top / "work"), str(top / "temporary")], check=True)
    yield Builder(top / "work", top / "temporary", binds)
    subprocess.run(["rm", "-rf", str(top)], check=True)


@pytest.fixture
def fetcher(builder: Builder) -> Fetcher:
    path = builder.work / f"case-{time.monotonic_ns()}"
    path.mkdir()
    if os.geteuid() == 0:
        os.chown(path, USER, USER)
    return Fetcher(path, builder)


@pytest.fixture(scope="session")
def program(builder: Builder) -> str:
    """Debian's docker-registry."""
    return servers.program(builder.work.parent)


@pytest.fixture(scope="session")
def layouts(builder: Builder) -> dict[str, Path]:
    base = servers.programs()
    return {words: servers.layout(builder.work.parent / f"layout-{words}", words, base) for words in ("one", "two")}


@pytest.fixture(scope="session")
def installed(builder: Builder) -> str:
    """PYTHONPATH of an installation that can start containers."""
    prefix = builder.work.parent / "installed"
    code = "import sys; from pathlib import Path; sys.path.insert(0, 'spank_plugin'); import build\n"
    code += "out = Path(sys.argv[1]); (out / 'session').mkdir(parents=True); (out / 'session/README').touch()\n"
    code += "build.copy_python(out); build.build_launcher(out); build.copy_server(out)\n"
    code += "build.build_syscalls(out / 'python/bollard/runtime/system', out)"
    subprocess.run([sys.executable, "-c", code, str(prefix)], cwd=TOP, check=True)
    subprocess.run(["chmod", "-R", "a+rX", str(prefix)], check=True)
    return f"{prefix}/python"


@pytest.fixture(scope="session")
def sif_file(builder: Builder, layouts: dict[str, Path]) -> bytes:
    path = builder.work / "of-layout.sif"
    builder.build(path, f"oci:{layouts['one']}:latest")
    return path.read_bytes()


@pytest.fixture(scope="session")
def shell() -> str:
    """%files of a tree in which a shell runs: programs of this machine and their libraries."""
    lines, libraries = [], set()
    for name in small_trees.PROGRAMS:
        path = shutil.which(name, path="/bin:/usr/bin")
        assert path
        lines.append(f"    {path} /bin/{name}")
        for library in re.findall(r"(/\S+) \(0x", subprocess.run(["ldd", path], capture_output=True, text=True).stdout):
            libraries.add(library)
    return "\n".join(["Bootstrap: scratch", "%files", *lines, *(f"    {name}" for name in sorted(libraries)), ""])


@pytest.fixture
def place(builder: Builder) -> Path:
    """An empty directory for one test, in which the builds run."""
    path = builder.work / f"case-{time.monotonic_ns()}"
    path.mkdir()
    small_trees.owned(path)
    return path


@pytest.fixture
def sandbox(builder: Builder, place: Path, shell: str) -> Path:
    text = shell + "%post\n    echo one > /made\n%labels\n    Colour blue\n%help\n    first\n"
    builder.build("--sandbox", place / "box", small_trees.write(place, text))
    return place / "box"
