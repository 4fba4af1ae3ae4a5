# SPDX-License-Identifier: BSD-3-Clause
"""Content keys: a job with the same key as one that has succeeded need not run again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping

from bollard.runtime.flow import batch, graph
from bollard.runtime.flow.batch import Image
from bollard.runtime.flow.flow import Flow

# What a job may use of the machine changes nothing in its result.
_NOT_CONTENT = (
    "line", "image", "image_secret", "needs", "threads", "sockets", "affinity", "memory", "by_core", "exclusive",
    "timeout", "attempts", "requeue", "slurm", "array",
)  # fmt: skip


def keys(flow: Flow, images: Mapping[str, Image]) -> dict[str, str]:
    """Return the key of each job and each transfer: of image, command, environment, mounts, files and what it needs.

    The numbers of an array are no part of its own key: each element has its own state. They are part of the key of
    a job that needs the whole array.
    """
    found: dict[str, str] = {}
    parts: dict[str, object] = {}
    places = {volume.name: [volume.shelf, volume.persistent] for volume in flow.volumes}
    arrays = {job.name: job.array[:2] for job in flow.jobs if job.is_array}
    for volume in flow.volumes:
        place = places[volume.name]
        texts = [text for name, text in flow.files if any(move.uri == f"file://{name}" for move in volume.ingress)]
        parts[f"{volume.name}.in"] = [place, [batch.move_plain(move) for move in volume.ingress], texts]
        parts[f"{volume.name}.out"] = [place, [batch.move_plain(move) for move in volume.egress]]
    for job in flow.jobs:
        data = {name: value for name, value in dataclasses.asdict(job).items() if name not in _NOT_CONTENT}
        mounted = [places.get(name, name) for name, _ in job.mounts]
        parts[job.name] = [images[job.image].digest, data, mounted]
    by_element = {(job.name, need.name) for job in flow.jobs for need in job.needs if need.each}
    edges = batch.edges(flow)
    for name in graph.order(edges):
        whole = [arrays.get(other) if (name, other) not in by_element else None for other in edges[name]]
        text = json.dumps([parts[name], [found[other] for other in edges[name]], whole], sort_keys=True)
        found[name] = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return found
