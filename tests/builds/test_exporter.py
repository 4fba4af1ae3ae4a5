# SPDX-License-Identifier: BSD-3-Clause
"""The numbers of `bollard site stats`, read by Debian's node_exporter and checked by promtool."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

from bollard.runtime.local import exposition, stats

TOP = Path(__file__).resolve().parents[2]
DIGEST = "ab" * 32
FOUND = stats.Stats(
    2, 9, 1, {"squashfuse": stats.Servers(2, 12 << 20)}, 1 << 30, 4,
    {
        "starts": {"": 5}, "tasks": {"": 40}, "failures": {"image": 2}, "verdicts": {"enforce:refused": 1},
        "images": {DIGEST: 5}, "seconds": {"fork": 0.02, "all": 0.1}, "buckets": {"fork 0.005": 5, "all 0.025": 5},
    },
)  # fmt: skip


def test_promtool_has_nothing_to_say() -> None:
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=exposition.text(FOUND), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_node_exporter_serves_them(tmp_path: Path) -> None:
    stats.write(str(tmp_path / "bollard.prom"), exposition.text(FOUND))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["--collector.disable-defaults", "--collector.textfile", f"--collector.textfile.directory={tmp_path}"]
    exporter = subprocess.Popen(
        ["prometheus-node-exporter", *words, f"--web.listen-address=127.0.0.1:{port}"], stderr=subprocess.DEVNULL
    )
    try:
        text = _scraped(f"http://127.0.0.1:{port}/metrics", exporter)
    finally:
        exporter.terminate()
        exporter.wait()
    assert "node_textfile_scrape_error 0" in text
    served = {line for line in text.splitlines() if line.startswith("bollard_")}
    for line in exposition.text(FOUND).splitlines():
        name, _, value = line.rpartition(" ")
        if line[0] != "#":
            names = [found.rpartition(" ")[2] for found in served if _same(found.rpartition(" ")[0], name)]
            assert [float(found) for found in names] == [float(value)], line


def _same(one: str, other: str) -> bool:
    """Whether two names are equal, with labels in any order."""
    return sorted(re.split("[{},]", one)) == sorted(re.split("[{},]", other))


def _scraped(address: str, exporter: subprocess.Popen[bytes]) -> str:
    for _ in range(600):
        assert exporter.poll() is None, "node_exporter has ended"
        try:
            with urllib.request.urlopen(address, timeout=30) as answer:
                return str(answer.read().decode())
        except OSError:
            time.sleep(0.1)  # it does not listen yet
    raise AssertionError("node_exporter does not answer")


def test_the_dashboard_asks_for_what_there_is() -> None:
    board = json.loads((TOP / "contrib/grafana/bollard.json").read_text())
    text = exposition.text(FOUND)
    asked = {
        name
        for panel in board["panels"]
        for target in panel.get("targets", [])
        for name in re.findall(r"bollard_\w+", target["expr"])
    }
    assert asked and all(f"\n{name}" in text for name in asked), asked
