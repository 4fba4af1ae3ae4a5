# SPDX-License-Identifier: BSD-3-Clause
"""Attacks by a user on the keeper, on root and on other users: each must fail.

The fixtures are those of tests/cluster; one of them checks that nothing is left on any node. `make cluster-test`
runs these tests too, and `make releases-test` runs them on every release.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
CLUSTER_TESTS = HERE.parent / "cluster"
sys.path.insert(0, str(CLUSTER_TESTS))

from fixtures import cluster, images, leftovers, work  # noqa: E402

__all__ = ["cluster", "images", "leftovers", "work"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == HERE:
            item.add_marker("every_release")
