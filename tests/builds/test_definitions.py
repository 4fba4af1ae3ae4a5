# SPDX-License-Identifier: BSD-3-Clause
"""Real definition files, built without privileges, each passing its own %test. Needs Debian's mirror and PyPI."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest
from building import Builder
from conftest import DEFINITIONS
from tarballs import tarball

from bollard.runtime.image import image, sif

# What a definition's image is made from, so that each runs alone too.
NEEDS = {
    "compiler": "base",
    "interpreter": "python",
    "mpi": "compiler",
    "oci": "compiler",
    "stages": "compiler",
    "static": "compiler",
}
FAILED: set[str] = set()
NAMES = sorted(path.stem for path in DEFINITIONS.glob("*.def"))


def built(builder: Builder, name: str) -> Path:
    """The image of a definition, built if it is not there yet."""
    path = builder.work / f"{name}.sif"
    assert name not in FAILED, f"{name}.def has failed already"
    if not path.exists():
        if name != "base":
            built(builder, NEEDS.get(name, "base"))
        FAILED.add(name)
        builder.build(*options(builder, name), path.name, f"{name}.def")
        FAILED.remove(name)
        assert builder.leftovers() == []
    return path


def options(builder: Builder, name: str) -> list[str]:
    if name == "arguments":
        (builder.work / "sizes").write_text("SIZE=small\nSIZE = large\n")
        return ["--build-arg", "VERSION=2.5", "--build-arg", "COLOUR=blue", "--build-arg-file", "sizes"]
    if name == "oci":
        return ["--build-arg", f"ARCHIVE={archive(builder, 'oci.tar').name}:latest"]
    return []


@pytest.mark.parametrize("name", NAMES)
def test_it_builds_and_passes_its_own_test(builder: Builder, name: str) -> None:
    path = built(builder, name)
    assert path.stat().st_mode & 0o777 == 0o755
    opened = image.open_image(str(path), os.uname().machine)
    try:
        assert opened.compression == "zstd"
        attributes = json.loads(opened.metadata() or b"")["data"]["attributes"]
        found = sif.read(opened.fd, path.stat().st_size)
    finally:
        opened.close()
    assert "test" in attributes
    assert attributes["deffile"].strip()
    assert attributes["labels"]["org.label-schema.usage.singularity.deffile.bootstrap"]
    kinds = [item.datatype for item in found.descriptors]
    documents = [sif.GENERIC_JSON] * (2 if name == "oci" else 1)
    assert kinds == [sif.DEFFILE, *documents, sif.GENERIC, sif.SBOM, sif.GENERIC_JSON, sif.PARTITION]


def test_there_are_enough() -> None:
    assert len(NAMES) >= 12


def test_apps_are_told_of(builder: Builder) -> None:
    opened = image.open_image(str(built(builder, "apps")))
    apps = json.loads(opened.metadata() or b"")["data"]["attributes"]["apps"]
    opened.close()
    assert set(apps) == {"cow", "dog-1.0"}
    assert apps["cow"]["labels"] == {"Colour": "brown", "SCIF_APP_NAME": "cow"}
    assert "moo" in apps["cow"]["helpfile"]
    assert "sleep 60" in apps["dog-1.0"]["startscript"]


def test_owners_are_root_and_modes_are_kept(builder: Builder) -> None:
    """Without subordinate ids everything is root's; setuid bits and closed directories stay."""
    path = built(builder, "owners")
    opened = image.open_image(str(path))
    opened.close()
    argv = ["unsquashfs", "-lln", "-o", str(opened.offset), str(path), "opt"]
    listing = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    lines = {line.split()[-1]: line.split()[:2] for line in listing.splitlines() if "squashfs-root/opt/" in line}
    assert lines["squashfs-root/opt/true"] == ["-rwsr-xr-x", "0/0"]
    assert lines["squashfs-root/opt/closed"] == ["d---------", "0/0"]
    assert "squashfs-root/opt/null" not in lines


def archive(builder: Builder, name: str) -> Path:
    """An OCI archive with a shell: the second layer overwrites, whites out and makes a directory opaque."""
    blobs: dict[str, bytes] = {}

    def blob(data: bytes, kind: str) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = data
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(data)}

    compiler = built(builder, "compiler")
    opened = image.open_image(str(compiler))
    opened.close()
    argv = ["unsquashfs", "-o", str(opened.offset), "-cat", str(compiler), "usr/bin/busybox"]
    busybox = subprocess.run(argv, capture_output=True, check=True).stdout
    assert busybox.startswith(b"\x7fELF")
    first = {
        "bin/busybox": busybox,
        "opt/layers": b"first\n",
        "opt/removed": b"x",
        "opt/opaque/old": b"x",
        "opt/closed/file": b"x",
    }
    second = {"opt/layers": b"second\n", "opt/.wh.removed": b"", "opt/opaque/.wh..wh..opq": b"", "opt/opaque/new": b"y"}
    links = {f"bin/{name}": "busybox" for name in ("sh", "grep", "tr", "echo", "test", "cat")}
    config = {
        "architecture": sif.arch_name(os.uname().machine),
        "os": "linux",
        "config": {
            "Env": ["PATH=/usr/bin:/bin", 'COLOUR=blue "sky"', "not a name=1"],
            "Entrypoint": ["/bin/echo", "entry"],
            "Cmd": ["default"],
            "Labels": {"vendor": "nobody"},
        },
        "rootfs": {"type": "layers", "diff_ids": []},
    }
    layers = [
        blob(gzip.compress(tarball(first, links)), "layer.v1.tar+gzip"),
        blob(tarball(second), "layer.v1.tar"),
    ]
    manifest = {
        "schemaVersion": 2,
        "config": blob(json.dumps(config).encode(), "config.v1+json"),
        "layers": layers,
    }
    entry = blob(json.dumps(manifest).encode(), "manifest.v1+json")
    entry["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
    index = {"schemaVersion": 2, "manifests": [entry]}
    files = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": json.dumps(index).encode(), **blobs}
    path = builder.work / name
    path.write_bytes(tarball(files))
    return path
