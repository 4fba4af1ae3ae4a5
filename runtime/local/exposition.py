# SPDX-License-Identifier: BSD-3-Clause
"""The numbers of `stats.py` in the text format that Prometheus reads, and as JSON.

The format: prometheus.io/docs/instrumenting/exposition_formats. Names and units follow its rules, which `promtool check
metrics` checks. A label whose values are known has a sample for each of them, also where it is 0.
"""

from __future__ import annotations

from bollard import __version__
from bollard.runtime.local import stats

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from bollard.runtime.local.stats import Stats

    # Labels and value of one sample.
    Sample = tuple[dict[str, str], float]


def text(found: Stats) -> str:
    """Return the numbers in Prometheus' text format."""
    totals = found.totals
    lines = [
        *_metric("bollard_info", "gauge", "The installed release.", [({"version": __version__}, 1)]),
        *_metric("bollard_containers", "gauge", "Containers of jobs that run now.", [({}, found.containers)]),
        *_metric("bollard_container_tasks", "gauge", "Tasks that run in containers now.", [({}, found.tasks)]),
        *_metric("bollard_mute_keepers", "gauge", "Keepers that did not answer in time.", [({}, found.mute)]),
        *_metric("bollard_records", "gauge", "Record files in /var/log/bollard.", [({}, found.records)]),
        *_metric(
            "bollard_file_servers", "gauge", "File servers of images and layers that run now.",
            [({"program": name}, row.running) for name, row in sorted(found.servers.items())],
        ),
        *_metric(
            "bollard_file_server_memory_bytes", "gauge", "Resident memory of file servers.",
            [({"program": name}, row.memory) for name, row in sorted(found.servers.items())],
        ),
    ]  # fmt: skip
    if found.cache is not None:
        lines += _metric("bollard_cache_bytes", "gauge", "Size of the shared cache of images.", [({}, found.cache)])
    lines += _metric("bollard_starts_total", "counter", "Containers that started.", _sum(totals, "starts"))
    lines += _metric("bollard_tasks_total", "counter", "Tasks that entered containers.", _sum(totals, "tasks"))
    failures = totals.get("failures", {})
    lines += _metric(
        "bollard_failures_total", "counter", "Containers that could not be made, or were killed, by cause.",
        [({"cause": cause}, failures.get(cause, 0)) for cause in stats.CAUSES],
    )  # fmt: skip
    verdicts = totals.get("verdicts", {})
    lines += _metric(
        "bollard_policy_verdicts_total", "counter", "Verdicts of the policy of images.",
        [({"mode": word.partition(":")[0], "verdict": word.partition(":")[2]}, verdicts.get(word, 0))
         for word in stats.VERDICTS],
    )  # fmt: skip
    lines += _metric(
        "bollard_image_starts_total", "counter", "Containers that started, by the SHA-256 digest of their image.",
        [({"digest": digest}, number) for digest, number in sorted(totals.get("images", {}).items())],
    )  # fmt: skip
    lines.append("# HELP bollard_start_seconds Time of a container's start, by phase.")
    lines.append("# TYPE bollard_start_seconds histogram")
    for phase in stats.PHASES:
        lines += _histogram("bollard_start_seconds", phase, found)
    return "\n".join(lines) + "\n"


def _sum(totals: stats.Totals, name: str) -> list[Sample]:
    return [({}, totals.get(name, {}).get("", 0))]


def _metric(name: str, kind: str, help_text: str, samples: list[Sample]) -> list[str]:
    if not samples:
        return []
    lines = [f"# HELP {name} {help_text}", f"# TYPE {name} {kind}"]
    return lines + [f"{name}{_labels(labels)} {_number(value)}" for labels, value in samples]


def _histogram(name: str, phase: str, found: Stats) -> list[str]:
    row, below, lines = found.totals.get("buckets", {}), 0.0, []
    for bound in stats.BUCKETS:
        below += row.get(f"{phase} {bound}", 0)
        lines.append(f"{name}_bucket{_labels({'phase': phase, 'le': bound})} {_number(below)}")
    seconds = found.totals.get("seconds", {}).get(phase, 0)
    labels = _labels({"phase": phase})
    return [*lines, f"{name}_sum{labels} {_number(seconds)}", f"{name}_count{labels} {_number(below)}"]


def _labels(labels: dict[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:.6f}"


def plain(found: Stats) -> dict[str, Any]:
    """Return the numbers as the object that `bollard site stats --json` prints."""
    totals = found.totals
    histogram = {
        phase: {
            "seconds": totals.get("seconds", {}).get(phase, 0),
            "buckets": {bound: totals.get("buckets", {}).get(f"{phase} {bound}", 0) for bound in stats.BUCKETS},
        }
        for phase in stats.PHASES
    }
    return {
        "bollard": __version__,
        "containers": found.containers,
        "tasks": found.tasks,
        "mute": found.mute,
        "servers": {name: row._asdict() for name, row in sorted(found.servers.items())},
        "cache": found.cache,
        "records": found.records,
        "starts": totals.get("starts", {}).get("", 0),
        "entered": totals.get("tasks", {}).get("", 0),
        "failures": {cause: totals.get("failures", {}).get(cause, 0) for cause in stats.CAUSES},
        "verdicts": {word: totals.get("verdicts", {}).get(word, 0) for word in stats.VERDICTS},
        "images": totals.get("images", {}),
        "phases": histogram,
    }
