# SPDX-License-Identifier: BSD-3-Clause
"""The part of `bollard site check` about GPUs: whether containers on this node get a driver for its cards."""

from __future__ import annotations

from collections.abc import Iterator

from bollard.runtime.container import gpu
from bollard.runtime.request import site

_NAMES = {"nv": "NVIDIA", "rocm": "AMD"}


def findings(prefix: str) -> Iterator[tuple[bool, str, str]]:
    """Yield (whether it is a failure, what was found, what mends it) for each kind of GPU that this node has."""
    here, known = site.load(prefix), gpu.of_machine()
    for kind, name in _NAMES.items():
        files = gpu.device_files(kind)
        if not files:
            continue
        libraries = [mount for mount in gpu.binds(kind, known, False) if ".so" in mount.target]
        if libraries:
            yield False, f"{name}: {files[0]}, {len(libraries)} libraries of the driver; gpu: {here.gpu}", ""
        elif kind == "nv":
            yield (
                True,
                f"{name}: {files[0]} is there, but the loader knows no driver; containers start without",
                "install the driver's libraries of the kernel module's release, and run ldconfig",
            )
        else:
            yield False, f"{name}: {files[0]}; no libraries of the node's, so the image's are used", ""
