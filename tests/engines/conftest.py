# SPDX-License-Identifier: BSD-3-Clause
"""The engines on the test cluster, and the file that says what ran.

A test that is not marked `every_run` needs an engine that takes minutes to install. It runs with --all-engines only,
which `make engines` gives. Such a run writes tests/engines/results.json, from which docs/engines_page.py makes its
table.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

os.environ.setdefault("BOLLARD_CLUSTER", "engines")
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "cluster")]

import engine_trees  # noqa: E402
from cluster import Cluster, Images, Result, Work, good  # noqa: E402
from fixtures import cluster  # noqa: E402

__all__ = ["cluster"]

RESULTS = HERE / "results.json"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("engines").addoption("--all-engines", action="store_true", help="also engines that install slowly")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "every_run: an engine that installs within a minute")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--all-engines"):
        left_out = [item for item in items if item.path.parent == HERE and not item.get_closest_marker("every_run")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def image(cluster: Cluster) -> str:
    """The path of the workflows' image: Debian 11, on nodes that have another release."""
    return Images(cluster).small


@pytest.fixture
def work(cluster: Cluster) -> Iterator[Work]:
    """A directory of alice that all nodes share, with Apptainer's names in `names`."""
    with cluster.work() as made:
        good(cluster.exec("bollard names names > /dev/null", cwd=made.path))
        yield made


class Login(NamedTuple):
    """Alice on the controller, with Apptainer's names first in PATH, then an engine's commands."""

    cluster: Cluster
    work: Work
    place: str  # of the engine's environment; "" for Debian's

    def run(self, script: str, seconds: float = 240, **env: str) -> Result:
        """Run a script of bash in the work directory."""
        path = ":".join((f"{self.work.path}/names", *([f"{self.place}/bin"] if self.place else []), "/usr/bin", "/bin"))
        return self.cluster.exec(script, cwd=self.work.path, env={"PATH": path, **env}, seconds=seconds)

    def good(self, script: str, seconds: float = 240, **env: str) -> str:
        """Run a script that must succeed; return what it printed. Engines tell their progress on stderr."""
        done = self.run(script, seconds, **env)
        assert done.rc == 0, f"{script}\n{done.out[-4000:]}\n{done.err[-6000:]}"
        return done.out

    def version(self, package: str) -> str:
        """Return the release of a package of PyPI."""
        return self.good(f"python3 -c 'import importlib.metadata as m; print(m.version(\"{package}\"))'").strip()


@pytest.fixture
def login(cluster: Cluster, work: Work) -> Callable[[str], Login]:
    """Return a function from an engine of PyPI, or "" for Debian's, to a login with its commands."""
    return lambda name: Login(cluster, work, engine_trees.show(cluster.suite, name) if name else "")


@pytest.fixture(scope="session")
def debian(cluster: Cluster) -> None:
    """Install Debian's Snakemake and cwltool on the controller."""
    cluster.front("add", "cwltool", "snakemake")
    cluster.front("add", "python3-setuptools")  # cwltool wants it, and its package only recommends it


@pytest.fixture(scope="session")
def seen(pytestconfig: pytest.Config) -> Iterator[dict[str, dict[str, str]]]:
    """What ran, by row of docs/engines.md: the release, and what it ran. Written when everything was run."""
    found: dict[str, dict[str, str]] = {}
    yield found
    if pytestconfig.getoption("--all-engines"):
        before = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        RESULTS.write_text(json.dumps({**before, **found}, indent=1, sort_keys=True) + "\n")
