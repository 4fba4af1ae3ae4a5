# SPDX-License-Identifier: BSD-3-Clause
"""The archive of the keeper's modules: what is in it, and what is imported from it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import test_imports

from bollard.runtime import archive
from bollard.spank_plugin import build

TOP = Path(__file__).resolve().parents[2]
LATE = {"bollard.runtime.host_slurm"}  # made for each installation


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """The packages as an installation has them, with an archive."""
    folder = tmp_path_factory.mktemp("archive")
    build.copy_python(folder)
    build.make_archive(folder / "python", "/opt/there/python")
    return folder / "python"


def finder(tree: Path) -> archive.Finder:
    """The archive of `tree`; the test's process closes it at its end."""
    return archive.Finder(os.open(tree / archive.NAME, os.O_RDONLY), "")


def run(tree: Path, text: str) -> str:
    code = f"import sys; sys.path.insert(0, {str(tree)!r})\nfrom bollard.runtime import archive\n{text}"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.strip()


def test_it_has_what_a_keeper_imports_at_its_start(tree: Path):
    found = finder(tree)
    index = found.index

    def is_late(name: str) -> bool:
        return name.startswith("bollard.runtime.trust")  # with a policy of the site only

    assert {name for name in test_imports.node_path() if not is_late(name)} - set(index) - LATE == set()
    start = [name for name, _, _ in found.start()]
    assert {"bollard.runtime.container.keeper", "bollard.runtime.request.plan_records"} < set(start) <= set(index)
    assert len(start) < 2 * len(index) / 3 and len(set(start)) == len(start)
    assert all((tree / name.replace(".", "/")).exists() == package for name, (package, _, _) in index.items())


def test_modules_come_from_it(tree: Path):
    shown = run(
        tree,
        f"print(archive.use({str(tree)!r}))\n"
        "from bollard.runtime import request\nfrom bollard.runtime.request import plan\n"
        "print(type(plan.__loader__).__name__, plan.__file__, plan.make.__code__.co_filename, plan.__doc__)\n"
        "print(request.__path__)",
    ).splitlines()

    file = f"{tree}/bollard/runtime/request/plan.py"
    assert shown == [
        "True", f"Finder {file} /opt/there/python/bollard/runtime/request/plan.py None",
        f"['{tree}/bollard/runtime/request']",
    ]  # fmt: skip


def test_the_start_is_made_at_once_and_in_order(tree: Path):
    """Nothing of it is imported by importlib, whose loader is `exec_module`; and it is as importlib makes it."""
    stub = "import types; s = sys.modules; s['bollard.runtime.system._linux'] = stub = types.ModuleType('_linux')\n"
    stub += "from unittest import mock; stub.ffi = stub.lib = mock.MagicMock()\n"
    stub += "s['bollard.runtime.host_slurm'] = types.ModuleType('host_slurm'); import bollard.runtime\n"
    stub += "bollard.runtime.host_slurm = s['bollard.runtime.host_slurm']\n"
    shown = run(
        tree,
        f"{stub}print(archive.use({str(tree)!r}))\n"
        "alone = []; archive.Finder.exec_module = lambda self, module: alone.append(module.__name__)\n"
        "archive.start(); known = set(sys.modules)\n"
        "from bollard.runtime.container import step; import bollard.runtime.request.plan as plan\n"
        "print(alone, set(sys.modules) - known, plan.__file__, plan.__package__, plan.__spec__.name)\n"
        "fd = archive._finders[0].fd; archive.end(); archive.end()\n"
        "import os; print(os.path.exists(f'/proc/self/fd/{fd}'))",
    ).splitlines()

    file = f"{tree}/bollard/runtime/request/plan.py"
    assert shown == ["True", f"[] set() {file} bollard.runtime.request bollard.runtime.request.plan", "False"]


def test_others_come_from_their_files(tree: Path):
    text = "from bollard.runtime.fetch import reference; print(type(reference.__loader__).__name__)"
    shown = run(tree, f"archive.use({str(tree)!r}); {text}")

    assert shown == "SourceFileLoader"


@pytest.mark.parametrize("content", [None, b"", b"\0" * 4096])
def test_without_one_for_this_python(tree: Path, tmp_path: Path, content: bytes | None):
    if content is not None:
        (tmp_path / archive.NAME).write_bytes(content)

    assert run(tree, f"print(archive.use({str(tmp_path)!r})); from bollard.runtime.request import plan") == "False"


def test_the_code_is_that_of_the_modules(tree: Path):
    found = finder(tree)
    start = {name: (package, code) for name, package, code in found.start()}
    for name, (package, _, _) in found.index.items():
        source = tree / (name.replace(".", "/") + ("/__init__.py" if package else ".py"))
        path = f"/opt/there/python/{source.relative_to(tree)}"
        code = compile(source.read_bytes(), path, "exec", dont_inherit=True, optimize=2)
        assert found.code(name) == code, name
        assert start.get(name, (package, code)) == (package, code)
