# SPDX-License-Identifier: BSD-3-Clause
"""docs/mpi.md has the table that the measured results make."""

from __future__ import annotations

import runpy
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_table_is_what_was_measured() -> None:
    lines = runpy.run_path(str(DOCS / "mpi_matrix.py"))["table"]()
    assert "\n".join(lines) in (DOCS / "mpi.md").read_text(), "put there what docs/mpi_matrix.py table prints"
