# SPDX-License-Identifier: BSD-3-Clause
"""Fixtures of every test on the cluster, and the check that no test leaves anything on it.

The conftest.py of tests/cluster, tests/hostile, tests/stress and tests/engines import what they need.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator

import pytest
from cluster import Cluster, Images, Work
from leftovers import Snapshot


@functools.cache
def _ready(suite: str, installed: bool) -> Cluster:
    found = Cluster(suite)
    found.front("up", "--plugin")
    if not installed:
        found.front("plugin")
    return found


@pytest.fixture(scope="session")
def cluster(pytestconfig: pytest.Config) -> Cluster:
    """The cluster, with all nodes idle and this checkout's plugin installed."""
    # To pytest, the fixture of each conftest.py is another one; the plugin is built for the first.
    return _ready(pytestconfig.getoption("--suite"), pytestconfig.getoption("--installed"))


@pytest.fixture(scope="session")
def images(cluster: Cluster) -> Images:
    return Images(cluster)


@pytest.fixture(autouse=True)
def leftovers(cluster: Cluster) -> Iterator[None]:
    """Check after every test that nothing of it is left on any node, and that every node is in service."""
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
    """A directory of alice that all nodes share."""
    with cluster.work() as made:
        yield made
