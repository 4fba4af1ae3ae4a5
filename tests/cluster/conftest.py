# SPDX-License-Identifier: BSD-3-Clause
"""The cluster for these tests, and the check that no test leaves anything on it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from cluster import Cluster, Images, Work  # noqa: E402
from leftovers import Snapshot  # noqa: E402

# What meets Slurm, and so is run on every release (`-m every_release`, `make releases-test`): whole files, or
# functions of them. Each release has about four minutes.
EVERY_RELEASE: dict[str, tuple[str, ...]] = {
    "test_batch.py": (),
    "test_container_options.py": (),
    "test_fetched.py": (),
    "test_flow.py": ("test_failures_stay_in_their_branch", "test_arrays", "test_many_nodes"),
    "test_image_programs.py": (),
    "test_inside.py": (),
    "test_mpi.py": ("test_images_of_other_releases",),
    "test_packages.py": (),
    "test_plain.py": ("test_no_variable_of_ours", "test_help_has_the_options"),
    "test_plan.py": (),
    "test_sites.py": (),
    "test_slurm_inside.py": (
        "test_commands_in_an_image_of_any_release",
        "test_commands_in_an_image_without_a_c_library",
        "test_a_step_from_inside_in_another_container",
        "test_mpirun_is_srun",
    ),
    "test_slurm_options.py": (),
    "test_taskprolog.py": (),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        functions = EVERY_RELEASE.get(item.path.name)
        if functions is not None and (not functions or getattr(item, "originalname", item.name) in functions):
            item.add_marker("every_release")


@pytest.fixture(scope="session")
def cluster(pytestconfig: pytest.Config) -> Cluster:
    """The cluster, with all nodes idle and this checkout's plugin installed."""
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
