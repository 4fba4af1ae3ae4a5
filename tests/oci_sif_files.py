# SPDX-License-Identifier: BSD-3-Clause
"""OCI-SIF files as SingularityCE lays them out: blobs, and last the root index. Written without bollard's own code."""

from __future__ import annotations

import hashlib
import json
import struct
import subprocess
from pathlib import Path
from typing import Any

SQUASHFS = "application/vnd.sylabs.image.layer.v1.squashfs"
EXT3 = "application/vnd.sylabs.image.layer.v1.ext3"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
ROOT_INDEX, BLOB = 0x400A, 0x400B
_TABLE, _NO_TIME = 4096, -62135596800


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def entry(data: bytes, kind: str, **more: Any) -> dict[str, Any]:
    """What a manifest or an index says about a blob."""
    return {"mediaType": kind, "size": len(data), "digest": digest(data), **more}


def documents(
    layers: list[tuple[str, bytes]], config: dict[str, Any], arch: str = "amd64"
) -> tuple[list[bytes], dict[str, Any]]:
    """The blobs of an image of (media type, bytes) layers, the manifest last; and its root index."""
    text = json.dumps({"architecture": arch, "os": "linux", "config": config}).encode()
    manifest = {
        "schemaVersion": 2, "mediaType": MANIFEST, "config": entry(text, CONFIG),
        "layers": [entry(data, kind) for kind, data in layers],
    }  # fmt: skip
    last = json.dumps(manifest).encode()
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry(last, MANIFEST)]}
    return [*(data for _, data in layers), text, last], index


def write(path: Path, blobs: list[bytes], index: bytes | dict[str, Any], groups: dict[int, int] | None = None) -> Path:
    """Write an OCI-SIF file; as `packed`."""
    path.write_bytes(packed(blobs, index, groups))
    return path


def packed(blobs: list[bytes], index: bytes | dict[str, Any], groups: dict[int, int] | None = None) -> bytes:
    """The bytes of an OCI-SIF file. `groups`: number of the object from 1 -> its group, 1 for those not named."""
    root = index if isinstance(index, bytes) else json.dumps(index).encode()
    objects = [(BLOB, data) for data in blobs] + [(ROOT_INDEX, root)]
    total = len(objects) + 8
    start = at = _TABLE + total * 585
    table = b""
    for number, (kind, data) in enumerate(objects, 1):
        group = 0xF0000000 | (groups or {}).get(number, 1)
        table += struct.pack(
            "<i?IIIqqqqqqq128s384s", kind, True, number, group, 0, at, len(data), len(data), _NO_TIME, _NO_TIME, 0, 0,
            b"", digest(data).encode(),
        )  # fmt: skip
        at += len(data)
    header = struct.pack(
        "<32s10s3s3s16sqqqqqqqq", b"", b"SIF_MAGIC\0", b"01\0", b"00\0", b"", _NO_TIME, _NO_TIME, 8, total, _TABLE,
        total * 585, start, at - start,
    )  # fmt: skip
    whole = header.ljust(_TABLE, b"\0") + table.ljust(total * 585, b"\0")
    return whole + b"".join(data for _, data in objects)


def squashfs(tree: Path, *pseudo: str) -> bytes:
    """A squashfs of `tree`, whose owner becomes root; each of `pseudo` is a line of mksquashfs's pseudo files."""
    target = tree.parent / f"{tree.name}.sqfs"
    words = [word for line in pseudo for word in ("-p", line)]
    subprocess.run(
        ["mksquashfs", tree, target, "-all-root", "-noappend", "-quiet", "-no-progress", *words],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    data = target.read_bytes()
    target.unlink()
    return data
