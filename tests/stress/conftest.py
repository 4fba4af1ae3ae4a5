# SPDX-License-Identifier: BSD-3-Clause
"""Many at once, and cancelled at any moment: `make stress`. Not a part of `make test`, for it takes half an hour.

What a test starts, it starts from one program on the controller (drive.py), so that thousands of steps cost no
thousand of commands. Whatever happens at random follows from the seed, which is printed.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
CLUSTER_TESTS = HERE.parent / "cluster"
sys.path.insert(0, str(CLUSTER_TESTS))

from cluster import Cluster  # noqa: E402

# The fixtures of tests/cluster, and with them its promise that nothing is left on any node.
from fixtures import images, leftovers, work  # noqa: E402

__all__ = ["images", "leftovers", "work"]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("stress", "how much")
    group.addoption("--cancels", type=int, default=1000, help="steps that are cancelled (default: %(default)s)")
    group.addoption("--crowd", type=int, default=200, help="steps at once on a node (default: %(default)s)")
    group.addoption("--crowd-images", type=int, default=20, help="images of these (default: %(default)s)")
    group.addoption("--named", type=int, default=50, help="steps in named containers (default: %(default)s)")
    group.addoption("--names", type=int, default=5, help="names of these (default: %(default)s)")
    group.addoption("--starts", type=int, default=1000, help="of each image with links (default: %(default)s)")
    group.addoption("--pairs", type=int, default=300, help="seconds of steps beside restarts (default: %(default)s)")
    group.addoption("--forgotten", type=float, default=600, help="seconds after a flow's end (default: %(default)s)")
    group.addoption("--seed", type=int, default=None, help="of all that is random (default: another each time)")


@pytest.fixture(scope="session")
def cluster(pytestconfig: pytest.Config) -> Cluster:
    """As in tests/cluster; with --installed nothing is touched of a cluster that is up."""
    found = Cluster(pytestconfig.getoption("--suite"))
    if not pytestconfig.getoption("--installed"):
        found.front("up", "--plugin")
        found.front("plugin")
    return found


@pytest.fixture(scope="session")
def seed(pytestconfig: pytest.Config) -> int:
    given = pytestconfig.getoption("--seed")
    return random.SystemRandom().randrange(1 << 32) if given is None else int(given)
