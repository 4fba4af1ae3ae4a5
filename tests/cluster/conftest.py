# SPDX-License-Identifier: BSD-3-Clause
"""The cluster for these tests, and which of them run on every release."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from fixtures import cluster, images, leftovers, work  # noqa: E402

__all__ = ["cluster", "images", "leftovers", "work"]

# What meets Slurm, and so is run on every release (`-m every_release`, `make releases-test`): whole files, or
# functions of them. Each release has about four minutes.
EVERY_RELEASE: dict[str, tuple[str, ...]] = {
    "test_batch.py": (),
    "test_container_entrypoint.py": (),
    "test_container_layers.py": (),
    "test_container_name.py": (),
    "test_container_options.py": (),
    "test_container_save.py": (),
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
