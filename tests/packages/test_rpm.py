# SPDX-License-Identifier: BSD-3-Clause
"""The RPM packages, built by Debian's rpmbuild from the spec file for EL and SUSE: files, dependencies, scripts."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from conftest import TOP

FILES = "/usr/lib/bollard-files"


@pytest.fixture(scope="module")
def built(pytestconfig: pytest.Config) -> Path:
    """The directory of the packages, and of what rpm says of each."""
    if not pytestconfig.getoption("--installed"):
        command = [str(TOP / "packaging/packages"), "rpm"]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        assert done.returncode == 0, done.stdout
    return TOP / "dist/rpm"


def said(built: Path, package: str, what: str) -> list[str]:
    """What `rpm -qp` says of a package: its "list", "requires", "scripts", ..."""
    (found,) = built.glob(f"{package}-[0-9]*.x86_64.rpm.{what}")
    return found.read_text().splitlines()


def test_files(built: Path) -> None:
    """Each file is in one of the two packages; settings are kept at upgrades; nothing can be written by others."""
    command, plugin = set(said(built, "bollard", "list")), set(said(built, "bollard-slurm", "list"))
    assert command & plugin == set()
    assert {"/usr/bin/bollard", "/etc/bollard/bollard.yaml", f"{FILES}/command/bollard-enter"} <= command
    assert {f"{FILES}/slurm/spank_bollard.so", f"{FILES}/slurm/built", "/usr/lib/tmpfiles.d/bollard.conf"} <= plugin
    assert not [name for name in command if "slurm/" in name or name.endswith((".pyc", ".c"))]
    assert not [name for name in command | plugin if name.startswith("/etc/slurm")]
    for package in ("bollard", "bollard-slurm"):
        for line in said(built, package, "modes"):
            mode, user, group, *flags, name = line.split()
            assert (user, group) == ("root", "root") and mode[5] == "-" and mode[8] == "-" or mode[0] == "l", line
            assert (name == "/etc/bollard/bollard.yaml") == (flags == ["cn"]) or flags in ([], ["d"], ["l"]), line


def test_dependencies(built: Path) -> None:
    command, plugin = said(built, "bollard", "requires"), said(built, "bollard-slurm", "requires")
    for name in ("squashfuse", "python3-cffi", "python3-psutil", "python3-pyyaml"):
        assert name in command
    assert [line for line in command if line.startswith("python3 >= 3.")]
    assert not [line for line in command if "slurm" in line.lower()]
    assert [line for line in plugin if re.fullmatch(r"slurm >= \d\d\.\d\d", line)]
    assert [line for line in plugin if re.fullmatch(r"slurm < \d\d\.\d\d\.99", line)]
    assert [line for line in plugin if line.startswith("bollard = ")]
    assert [line for line in plugin if line.startswith("libpython3")]
    # Private libraries are no library of the system.
    for package in ("bollard", "bollard-slurm"):
        own = (package, f"config({package})")
        names = [line for line in said(built, package, "provides") if not line.startswith(own)]
        assert names == [], names


def test_scripts(built: Path) -> None:
    """Slurm's line goes before the plugin's files, and only where the package is removed."""
    program = f"python3 -IB {FILES}/command/python/bollard/spank_plugin/packaged.py"
    command, plugin = "\n".join(said(built, "bollard", "scripts")), "\n".join(said(built, "bollard-slurm", "scripts"))
    assert re.search(rf"postinstall scriptlet.*\n{program} assemble", command)
    assert re.search(rf'preuninstall scriptlet.*\n(#.*\n)*if \[ "\$1" = 0 \]; then\n    {program} remove', command)
    assert re.search(rf"postinstall scriptlet.*\n{program} assemble", plugin)
    assert re.search(rf'preuninstall scriptlet.*\n(#.*\n)*if \[ "\$1" = 0 \]; then\n    {program} detach', plugin)
    assert "squashfuse" in "\n".join(said(built, "bollard", "triggers"))


def test_names_on_suse() -> None:
    """The spec file names the packages of SUSE where they differ."""
    spec = (TOP / "packaging/bollard.spec").read_text()
    suse, others = spec[spec.index("%if 0%{?suse_version}") :].split("%else")[:2]
    assert "python3-PyYAML" in suse and "glibc-devel-static" in suse
    assert "python3-pyyaml" in others and "glibc-static" in others
