# SPDX-License-Identifier: BSD-3-Clause
"""SIF files for tests: what `sif_write.Writer` makes of bytes at hand."""

from __future__ import annotations

from bollard.runtime.image import sif_write


def write(target, objects, partition, arch, *, force=False):
    """Write the SIF file `target` with the bytes `partition` as its filesystem."""
    with sif_write.Writer(str(target), arch, objects, force=force) as writer:
        with open(writer.path, "r+b") as file:
            file.seek(writer.offset)
            file.write(partition)
        writer.finish()
