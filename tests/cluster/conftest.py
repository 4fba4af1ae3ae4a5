# SPDX-License-Identifier: BSD-3-Clause
"""The cluster for these tests, and the promise that no test leaves anything on it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from cluster import Cluster, Images, Work  # noqa: E402
from leftovers import Snapshot  # noqa: E402


@pytest.fixture(scope="session")
def cluster(pytestconfig: pytest.Config) -> Cluster:
    """All nodes idle, this checkout's plugin on them."""
    found = Cluster(pytestconfig.getoption("--suite"))
    found.front("up", "--plugin")
    if not pytestconfig.getoption("--installed"):
        found.front("plugin")
    return found


@pytest.fixture(scope="session")
def images(cluster: Cluster) -> Images:
    return Images(cluster)


@pytest.fixture(autouse=True)
def leftovers(cluster: Cluster) -> Iterator[None]:
    """After every test, whatever it did: nothing of it is left on any node, and every node is in service."""
    before = Snapshot(cluster)
    yield
    for job in cluster.jobs:
        cluster.exec(["scancel", "-Q", str(job)], user="root")
    cluster.jobs.clear()
    for terminal in cluster.terminals:
        terminal.close()
    cluster.terminals.clear()
    end = time.monotonic() + 30
    while (left := before.news()) and time.monotonic() < end:
        time.sleep(0.1)
    assert not left, left


@pytest.fixture
def work(cluster: Cluster) -> Iterator[Work]:
    """A directory of alice's on all nodes."""
    with cluster.work() as made:
        yield made
