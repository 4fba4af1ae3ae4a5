# SPDX-License-Identifier: BSD-3-Clause
"""Read OCI-SIF, the layout in which SingularityCE keeps an OCI image in a SIF file.

    root index (OCI index) ──► manifest ──► configuration
                                       └──► layers, the lowest first: squashfs; the last may be ext3

Each is an object of the file, named by its SHA-256. The small ones are checked against it here, because they decide
what is mounted. The layers are not: that would read the whole file at each start. All are in one group, so that a
signature of the group covers them.
"""

from __future__ import annotations

import hashlib
import json

from bollard.runtime.errors import BollardError
from bollard.runtime.image import sif

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

_LAYER: Final = "application/vnd.sylabs.image.layer.v1."
_FILESYSTEMS: Final = {_LAYER + "squashfs": sif.FS_SQUASHFS, _LAYER + "ext3": sif.FS_EXT3}
_INDEX: Final = "application/vnd.oci.image.index.v1+json"
_EMPTY: Final = "application/vnd.oci.empty.v1+json"
# Overlayfs takes more, but Docker and containerd do not make more than 127.
LAYERS_MAX: Final = 128
_JSON_MAX: Final = 8 << 20  # bytes
_INDEXES_MAX: Final = 4  # an index in an index, and so on
_BLOCK: Final = 1 << 20
_AGAIN: Final = "copy or pull it again"


class Layer:
    """A layer: fstype is sif.FS_SQUASHFS or FS_EXT3; offset and size in bytes; digest is "sha256:HEX"."""

    __slots__ = ("digest", "fstype", "offset", "size")

    def __init__(self, fstype: int, item: sif.Descriptor) -> None:
        self.fstype = fstype
        self.offset = item.offset
        self.size = item.size
        self.digest = _name(item)


class Contents:
    """An image in an OCI-SIF file.

    layers: the squashfs layers, the lowest first.
    writable: the ext3 layer above them, or None.
    config: the section "config" of the image's configuration: Env, Entrypoint, Cmd, Labels and others.
    arch: Go's name of the architecture, or None.
    digest: of the manifest, "sha256:HEX".
    """

    __slots__ = ("arch", "config", "digest", "layers", "writable")

    def __init__(self, layers: list[Layer], config: dict[str, Any], digest: str) -> None:
        self.layers = [layer for layer in layers if layer.fstype == sif.FS_SQUASHFS]
        self.writable = next((layer for layer in layers if layer.fstype == sif.FS_EXT3), None)
        self.config = _object(config.get("config"))
        arch = config.get("architecture")
        self.arch = sif.arch_name(arch) if isinstance(arch, str) and arch else None
        self.digest = digest


def read(fd: int, found: sif.Sif) -> Contents:
    """Return the image in an OCI-SIF file.

    fd: the file, open for reading.
    found: its header and descriptors; `sif.is_oci` is true for it.

    Raises:
        BollardError: the file is damaged, holds several images or none, or layers of another kind.
    """
    root = sif.oci_root(found)
    blobs: dict[str, sif.Descriptor] = {}
    for item in found.descriptors:
        if item.datatype == sif.OCI_BLOB and item.group == root.group:
            blobs.setdefault(_name(item), item)
    entry = _manifest(fd, found, root, blobs)
    manifest = _json(fd, found, _blob(found, blobs, entry, "its manifest"), "its manifest")
    reference = _object(manifest.get("config"))
    if reference.get("mediaType") == _EMPTY or manifest.get("artifactType"):
        raise BollardError(f"{found.name}: holds data, not a container", "bind it with --bind, or name another image")
    layers = _layers(found, blobs, manifest)
    config = _json(fd, found, _blob(found, blobs, reference, "its configuration"), "its configuration")
    return Contents(layers, config, str(entry["digest"]))


def measured(fd: int, contents: Contents, name: str) -> str:
    """Return the digest of the manifest as 64 hexadecimal digits, after each layer was compared with its own.

    fd: the file, open for reading.
    contents: from `read`.
    name: the image's name for messages.

    Raises:
        BollardError: a layer does not match its digest, or cannot be read.
    """
    for layer in [*contents.layers, *([contents.writable] if contents.writable else [])]:
        if _sha256(fd, layer.offset, layer.size, name) != layer.digest:
            raise BollardError(f"{name}: damaged: a layer does not match its digest {layer.digest}", _AGAIN)
    return contents.digest.partition(":")[2]


def _manifest(fd: int, found: sif.Sif, root: sif.Descriptor, blobs: dict[str, sif.Descriptor]) -> dict[str, Any]:
    """Return the entry of the one manifest in the root index."""
    index = _json(fd, found, root, "its root index")
    for _ in range(_INDEXES_MAX):
        listed = index.get("manifests")
        entries = [item for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []
        if len(entries) != 1:
            raise BollardError(f"{found.name}: holds {len(entries)} OCI images", "name a file that holds one")
        if entries[0].get("mediaType") != _INDEX:
            return entries[0]
        index = _json(fd, found, _blob(found, blobs, entries[0], "its index"), "its index")
    raise _damaged(found, f"over {_INDEXES_MAX} indexes in each other")


def _layers(found: sif.Sif, blobs: dict[str, sif.Descriptor], manifest: dict[str, Any]) -> list[Layer]:
    listed = manifest.get("layers")
    entries = listed if isinstance(listed, list) else []
    if not 0 < len(entries) <= LAYERS_MAX:
        raise BollardError(f"{found.name}: has {len(entries)} layers, 1 to {LAYERS_MAX} are supported", "squash them")
    layers = []
    for number, entry in enumerate(map(_object, entries), 1):
        kind = entry.get("mediaType")
        fstype = _FILESYSTEMS.get(kind) if isinstance(kind, str) else None
        if fstype is None:
            text = f"{found.name}: layer {number} is {ascii(kind)[:80]}, not squashfs"
            raise BollardError(text, "pull it again with `singularity pull --oci`")
        if fstype == sif.FS_EXT3 and (number < len(entries) or number == 1):
            raise _damaged(found, f"layer {number} is ext3, which only the last one above another may be")
        layers.append(Layer(fstype, _blob(found, blobs, entry, f"layer {number}")))
    return layers


def _blob(found: sif.Sif, blobs: dict[str, sif.Descriptor], entry: dict[str, Any], what: str) -> sif.Descriptor:
    digest = entry.get("digest")
    item = blobs.get(digest) if isinstance(digest, str) else None
    if item is None:
        shown = ascii(digest)[1:-1][:80] if isinstance(digest, str) else "without a digest"
        raise _damaged(found, f"{what}, {shown}, is not in the root index's group")
    if entry.get("size") != item.size:
        wanted = ascii(entry.get("size"))[:20]
        raise _damaged(found, f"{what} should have {wanted} bytes, object {item.id} has {item.size}")
    return item


def _json(fd: int, found: sif.Sif, item: sif.Descriptor, what: str) -> dict[str, Any]:
    if item.size > _JSON_MAX:
        raise _damaged(found, f"{what} has {item.size} bytes, {_JSON_MAX} are allowed")
    if _sha256(fd, item.offset, item.size, found.name) != _name(item):
        raise _damaged(found, f"{what} does not match its digest")
    try:
        loaded = json.loads(sif.pread(fd, item.size, item.offset, found.name))
    except (ValueError, RecursionError):
        raise _damaged(found, f"{what} is not JSON") from None
    if not isinstance(loaded, dict):
        raise _damaged(found, f"{what} is no JSON object")
    return loaded


def _name(item: sif.Descriptor) -> str:
    """Return the digest that names the object, "sha256:HEX"."""
    return item.extra.split(b"\0", 1)[0].decode("ascii", "backslashreplace")


def _sha256(fd: int, offset: int, size: int, name: str) -> str:
    total, end = hashlib.sha256(), offset + size
    while offset < end:
        total.update(sif.pread(fd, min(_BLOCK, end - offset), offset, name))
        offset += _BLOCK
    return f"sha256:{total.hexdigest()}"


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _damaged(found: sif.Sif, what: str) -> BollardError:
    return BollardError(f"{found.name}: damaged: {what}", _AGAIN)
