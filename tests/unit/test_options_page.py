# SPDX-License-Identifier: BSD-3-Clause
"""docs/options.md shows the table as it is."""

from __future__ import annotations

import runpy
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"


def test_the_tables_are_in_the_page():
    script = runpy.run_path(str(DOCS / "options_table.py"))
    page = (DOCS / "options.md").read_text()

    assert "\n".join(script["slurm_table"]()) in page, "run docs/options_table.py, and put what it prints there"
    assert "\n".join(script["command_table"]()) in page, "run docs/options_table.py, and put what it prints there"
