# SPDX-License-Identifier: BSD-3-Clause
"""Debian packages of the suite, built from this checkout, and a cluster whose nodes have no plugin.

`make packages-test` runs these tests. The cluster has a name of its own, so that it runs beside the others.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

os.environ.setdefault("BOLLARD_CLUSTER", "packages")
TOP = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "tests/cluster"))

from cluster import Cluster, Images, Work  # noqa: E402


class Packages(NamedTuple):
    """The directory, as nodes see it, of two packages of one version."""

    path: str
    version: str


@pytest.fixture(scope="session")
def built(pytestconfig: pytest.Config) -> Path:
    """The directory of the suite's packages, built now and checked by lintian; with --installed, as they are."""
    suite: str = pytestconfig.getoption("--suite")
    if not pytestconfig.getoption("--installed"):
        command = [str(TOP / "packaging/packages"), "deb", suite]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        assert done.returncode == 0, done.stdout
    return TOP / "dist" / suite


@pytest.fixture(scope="session")
def cluster(pytestconfig: pytest.Config) -> Iterator[Cluster]:
    found = Cluster(pytestconfig.getoption("--suite"))
    found.front("up", "--no-plugin", "--nodes", "2")
    yield found
    found.front("down")


@pytest.fixture(scope="session")
def images(cluster: Cluster) -> Images:
    return Images(cluster)


@pytest.fixture
def work(cluster: Cluster) -> Iterator[Work]:
    with cluster.work() as made:
        yield made


@pytest.fixture(scope="session")
def versions(built: Path, cluster: Cluster) -> list[Packages]:
    """The packages as they were built, and twice more with a later version and the same files."""
    made = []
    for later in ("", "+later1", "+later2"):
        folder = cluster.path("ctl", "/images") / f"packages{later}"
        folder.mkdir(exist_ok=True)
        for old in folder.iterdir():
            old.unlink()
        for package in ("bollard", "bollard-slurm"):
            (origin,) = built.glob(f"{package}_*.deb")
            version = repacked(origin, folder, later)
        made.append(Packages(f"/images/packages{later}", version))
    return made


REPACK = r"""
set -eu
dpkg-deb -R "$1" "$2/tree"
cd "$2/tree"
version=$(sed -n 's/^Version: //p' DEBIAN/control)
sed -i "s/^Version: .*/&$4/; s/bollard (= [^)]*/&$4/" DEBIAN/control
python=$(find usr/lib/bollard-files -path '*/python/bollard/__init__.py')
for file in $python usr/lib/bollard-files/*/built; do
    sed -i 's/^\(__version__ = "[^"]*\)/\1'"$4"'/; s/\("bollard": "[^"]*\)/\1'"$4"'/' "$file"
done
dpkg-deb --root-owner-group -Znone -b . "$3/$(basename "$1")" > /dev/null
echo "$version$4"
cd /; rm -rf "$2/tree"
"""


def repacked(origin: Path, folder: Path, later: str) -> str:
    """Write the package `origin` into `folder`, with `later` behind its version; returns its version."""
    work = folder / "work"
    work.mkdir()
    words = [str(origin), str(work), str(folder), later]
    done = subprocess.run(["sh", "-c", REPACK, "repack", *words], capture_output=True, text=True, check=False)
    work.rmdir()
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
