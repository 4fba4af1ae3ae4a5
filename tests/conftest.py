# SPDX-License-Identifier: BSD-3-Clause
"""For all tests: `bollard.*` is this checkout, whatever else is installed; the suite of the test cluster."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import dev_tree  # noqa: E402

_DEV = str(dev_tree.make())
sys.path.insert(0, _DEV)
# For interpreters that tests start.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (_DEV, os.environ.get("PYTHONPATH"))))


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("cluster", "the test cluster")
    group.addoption("--suite", default="bookworm", help="Debian suite of the cluster (default: %(default)s)")
    group.addoption(
        "--installed",
        action="store_true",
        help="test the plugin that is on the nodes; without it, this checkout is installed there first",
    )
    parser.getgroup("peers", "Apptainer").addoption("--apptainer-tree", help="file tree with apptainer (tests/peers)")
