# SPDX-License-Identifier: BSD-3-Clause
"""SIF images with damage: in the header, in the descriptors, in the superblock, in their length."""

from __future__ import annotations

import json
import os
import random
import struct
import tempfile
from typing import Any

import oci_sif_files

from bollard.runtime.image import image, oci_config, sif, sif_write

_EDGES = (
    0,
    1,
    2,
    47,
    48,
    584,
    585,
    4096,
    32176,
    1 << 31,
    (1 << 32) - 1,
    1 << 62,
    (1 << 63) - 1,
    1 << 63,
    (1 << 64) - 1,
)


def _superblock() -> bytes:
    raw = bytearray(4096)
    struct.pack_into("<4sIIIIHHHHHHQQ", raw, 0, b"hsqs", 1, 0, 131072, 0, 6, 17, 0, 1, 4, 0, 0, 4096)
    for at in (48, 56, 64, 72, 80, 88):
        struct.pack_into("<Q", raw, at, 200)
    return bytes(raw)


def _valid() -> bytes:
    objects = [
        sif_write.Object(sif.DEFFILE, "", b"bootstrap: scratch\n"),
        sif_write.Object(sif.GENERIC_JSON, sif.METADATA_NAME, b'{"type":"container"}'),
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "valid.sif")
        with sif_write.Writer(path, os.uname().machine, objects) as writer:
            with open(writer.path, "r+b") as file:
                file.seek(writer.offset)
                file.write(_superblock())
            writer.finish()
        with open(path, "rb") as file:
            return file.read()


_VALID = _valid()
_TABLE = sif.TABLE_OFFSET


def _oci_sif(chance: random.Random) -> bytes:
    """An OCI-SIF file with damage in its documents, whose digests are right, so that they are read."""
    layers = [(oci_sif_files.SQUASHFS, _superblock())] * chance.randrange(1, 4)
    blobs, index = oci_sif_files.documents(layers, {"Env": ["A=b"], "Labels": {"a": "b"}})
    manifest = json.loads(blobs[-1])
    wrong = ("null", "0", "-1", str(1 << 70), '""', '"x"', "[]", "{}", "[[]]", '{"digest": 1}', f'"sha256:{"0" * 64}"')
    for document in (manifest, index):
        while chance.randrange(2):
            place: Any = document
            while True:
                keys = list(place) if isinstance(place, dict) else list(range(len(place)))
                key = chance.choice(keys) if keys else None
                if key is None or not isinstance(place[key], (dict, list)) or chance.randrange(3) == 0:
                    break
                place = place[key]
            if key is not None:
                place[key] = json.loads(chance.choice(wrong))
    blobs[-1] = json.dumps(manifest).encode()
    listed = index.get("manifests")
    if isinstance(listed, list) and listed and isinstance(listed[0], dict) and chance.randrange(4):
        listed[0].update(oci_sif_files.entry(blobs[-1], oci_sif_files.MANIFEST))
    return oci_sif_files.packed(blobs, index, {chance.randrange(1, 8): chance.randrange(3)})


def make(chance: random.Random) -> bytes:
    if chance.randrange(4) == 0:
        return _oci_sif(chance)
    raw = bytearray(_VALID)
    for _ in range(chance.randrange(1, 6)):
        what = chance.randrange(6)
        if what == 0:
            struct.pack_into("<Q", raw, 64 + 8 * chance.randrange(8), chance.choice(_EDGES))
        elif what == 1:
            slot = _TABLE + sif.DESCRIPTOR_SIZE * chance.randrange(4)
            struct.pack_into("<Q", raw, slot + 17 + 8 * chance.randrange(7), chance.choice(_EDGES))
        elif what == 2:
            slot = _TABLE + sif.DESCRIPTOR_SIZE * chance.randrange(5)
            struct.pack_into(
                "<I", raw, slot + chance.choice((0, 5, 9, 13, 201, 205)), chance.choice(_EDGES) & 0xFFFFFFFF
            )
        elif what == 3:
            start = chance.choice((0, _TABLE, len(raw) - 4096))
            raw[min(start + chance.randrange(700), len(raw) - 1)] = chance.randrange(256)
        elif what == 4:
            part = len(_VALID) - 4096
            struct.pack_into("<H", raw, part + 2 * chance.randrange(48), chance.choice(_EDGES) & 0xFFFF)
        else:
            length = chance.choice((0, 1, 41, 42, 127, 128, 4096, 32176, chance.randrange(len(_VALID))))
            return bytes(raw[:length])
    return bytes(raw)


def check(data: bytes) -> None:
    """What a keeper does with an image, and what `inspect` does."""
    fd = os.memfd_create("fuzz.sif", os.MFD_CLOEXEC)
    try:
        os.write(fd, data)
        opened = image.open_image(f"/proc/self/fd/{fd}", os.uname().machine)
        try:
            assert 0 <= opened.offset <= len(data)
            assert opened.offset + opened.size <= len(data)
            opened.metadata()
            if opened.oci:
                assert all(layer.offset + layer.size <= len(data) for layer in opened.oci.layers)
                assert set(oci_config.scripts(opened.oci.config)) == {"env/10-docker2singularity.sh", "runscript"}
                oci_config.labels(opened.oci.config)
        finally:
            opened.close()
    finally:
        os.close(fd)
