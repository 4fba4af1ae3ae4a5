# SPDX-License-Identifier: BSD-3-Clause
"""The table that `bollard site check` makes of the nodes' answers."""

from __future__ import annotations

import json

from bollard.spank_plugin import cluster_check, finding
from bollard.spank_plugin.finding import FAILURE, OK, Finding


def report(node, *rows):
    return {
        "node": node,
        "status": finding.status([Finding("", state, "") for _, state in rows]),
        "bollard": "1.0",
        "checks": [{"check": name, "state": state, "text": f"{name} is bad", "fix": "mend"} for name, state in rows],
    }


def test_a_table_of_nodes():
    """Nodes with equal states share a column, and a cause that many have is one line."""
    lines = [json.dumps(report(f"n{number}", ("kernel", OK), ("munge", OK))) for number in range(1, 9)]
    lines += ["a greeting", json.dumps(report("n9.cluster", ("kernel", OK), ("munge", FAILURE)))]
    lines += [json.dumps(report("n10", ("kernel", OK), ("munge", FAILURE)))]
    names = [f"n{number}" for number in range(1, 12)]
    found = cluster_check.reports(lines, names)
    assert [row["node"] for row in found] == [*names[:8], "n9.cluster", *names[9:]]
    assert cluster_check.table(found) == [
        "check   n1 and 7 more  n9 and 1 more  n11",
        "answer  ok             ok             no answer",
        "munge   ok             failure        -",
        "8 of 11 nodes: no failure; bollard 1.0",
        "n9 and 1 more: failure: munge: munge is bad; mend",
        "n11: no answer; srun -w n11 bollard site check",
    ]
    assert cluster_check.status(found) == 1 and cluster_check.status(found[:8]) == 0
    assert cluster_check.table(found[:8]) == ["8 of 8 nodes: no failure; bollard 1.0"]
    assert sorted(names, key=cluster_check._order) == names
