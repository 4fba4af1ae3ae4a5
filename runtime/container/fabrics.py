# SPDX-License-Identifier: BSD-3-Clause
"""The site's fabrics (`fabrics` of bollard.yaml) on this node: providers of libfabric, their devices and variables.

This module is imported only on a node whose site has fabrics.
"""

from __future__ import annotations

import os

from bollard.runtime.request.plan_records import BIND, OMIT, Mount

PROVIDERS = "libfabric"  # the directory of providers in MPI_LIBRARIES


class Fabric:
    """One fabric: files and variables. `devices` may end with `*`."""

    __slots__ = ("devices", "environment", "libraries", "name", "provider")

    def __init__(self, name: str) -> None:
        self.name = name
        self.provider: list[str] = []
        self.libraries: list[str] = []
        self.devices: list[str] = []
        self.environment: list[str] = []

    def components(self) -> list[str]:
        """Return the names of the providers' files in MPI_LIBRARIES."""
        return [f"{PROVIDERS}/{os.path.basename(path)}" for path in self.provider]

    def variables(self) -> list[tuple[bytes, bytes]]:
        """Return the variables of tasks that can use the fabric."""
        pairs = [entry.partition("=") for entry in self.environment]
        return [(name.encode(), os.fsencode(value)) for name, _, value in pairs]


def of_site(lines: tuple[str, ...]) -> list[Fabric]:
    """Return the fabrics of the lines FABRIC:KIND:VALUE (fabric_config.py) that this node has, by their devices.

    A fabric without devices is on every node.
    """
    found: dict[str, Fabric] = {}
    for text in lines:
        name, kind, value = text.split(":", 2)
        getattr(found.setdefault(name, Fabric(name)), kind).append(value)
    return [fabric for fabric in found.values() if not fabric.devices or device_files(fabric)]


def device_files(fabric: Fabric) -> list[str]:
    """Return the paths of a fabric's devices on this node."""
    found = []
    for path in fabric.devices:
        folder, _, begin = path.rstrip("*").rpartition("/")
        if not path.endswith("*"):
            found += [path] if os.path.exists(path) else []
            continue
        try:
            found += [f"{folder}/{name}" for name in sorted(os.listdir(folder)) if name.startswith(begin)]
        except OSError:
            continue  # a node without that fabric
    return found


def device_binds(fabrics: list[Fabric]) -> list[Mount]:
    """Return the binds of the fabrics' devices, for a container with a /dev of its own."""
    paths = dict.fromkeys(path for fabric in fabrics for path in device_files(fabric))
    return [Mount(BIND, path, path, devices=True, if_missing=OMIT) for path in paths]
