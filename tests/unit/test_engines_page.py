# SPDX-License-Identifier: BSD-3-Clause
"""docs/engines.md is what docs/engines_page.py writes from the record of the last run."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"
SCRIPT = runpy.run_path(str(DOCS / "engines_page.py"))


def test_the_page_is_written_from_the_record():
    assert (DOCS / "engines.md").read_text() == SCRIPT["page"](), "run docs/engines_page.py"


def test_every_record_has_its_place_on_the_page():
    seen = json.loads(SCRIPT["RESULTS"].read_text())
    assert set(seen) <= {row.name for row in SCRIPT["ROWS"]} | {row[0] for row in SCRIPT["BETTER"]}


def test_a_row_without_a_record_has_no_tick(tmp_path, monkeypatch):
    empty = tmp_path / "results.json"
    empty.write_text("{}")
    monkeypatch.setitem(SCRIPT["table"].__globals__, "RESULTS", empty)
    assert not [line for line in SCRIPT["table"]() if "✓" in line]
