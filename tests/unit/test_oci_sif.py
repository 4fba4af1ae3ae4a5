# SPDX-License-Identifier: BSD-3-Clause
"""Reading OCI-SIF files: what is in them, and one clear line for each class of bad input."""

from __future__ import annotations

import json
import os
import shutil

import oci_sif_files as files
import pytest
import signed_images
from test_main import command, refused

from bollard.runtime.container import oci_layers
from bollard.runtime.errors import BollardError
from bollard.runtime.image import image, image_sbom, oci_sif, sif
from bollard.runtime.local import metadata
from bollard.runtime.request import trust_rule
from bollard.runtime.trust import evidence

CONFIG = {
    "Env": ["PATH=/opt/bin:/bin", "GREETING=hello $you", "BAD-NAME=1"],
    "Entrypoint": ["/opt/app"],
    "Cmd": ["--all"],
    "Labels": {"maintainer": "lab"},
}


@pytest.fixture(scope="module")
def layers(tmp_path_factory):
    """Two squashfs layers."""
    made = []
    for name in ("lower", "upper"):
        tree = tmp_path_factory.mktemp(name)
        (tree / "bin").mkdir()
        (tree / f"bin/{name}").write_text(name)
        made.append((files.SQUASHFS, files.squashfs(tree)))
    return made


@pytest.fixture
def path(tmp_path):
    return tmp_path / "img.oci.sif"


def written(path, layers, config=None, arch="amd64"):
    return files.write(path, *files.documents(layers, CONFIG if config is None else config, arch))


def test_the_layers_in_their_order(path, layers):
    opened = image.open_image(str(written(path, layers)), "x86_64")
    try:
        assert opened.kind == image.SQUASHFS and opened.is_sif and opened.arch == "amd64" and opened.oci
        data = path.read_bytes()
        found = [data[layer.offset : layer.offset + layer.size] for layer in opened.oci.layers]
        assert found == [text for _, text in layers] and opened.offset == opened.oci.layers[0].offset
        assert opened.oci.config == CONFIG and opened.overlays == []
        manifest = files.documents(layers, CONFIG)[0][-1]
        assert f"sha256:{opened.digest()}" == files.digest(manifest)
        assert oci_sif.measured(opened.fd, opened.oci, "x") == opened.digest()
    finally:
        opened.close()


def test_an_ext3_layer(path, layers):
    opened = image.open_image(str(written(path, [*layers, (files.EXT3, b"ext3" * 300)])))
    try:
        assert opened.oci and len(opened.oci.layers) == 2 and opened.overlays == [opened.oci.writable]
        assert opened.overlays[0].fstype == 2 and opened.overlays[0].size == 1200
    finally:
        opened.close()


def test_a_changed_layer_is_found(path, layers):
    written(path, layers)
    opened = image.open_image(str(path))
    assert opened.oci
    with path.open("r+b") as file:
        file.seek(opened.oci.layers[1].offset + 2000)
        file.write(b"changed")
    with pytest.raises(BollardError, match="damaged: a layer does not match its digest sha256:"):
        oci_sif.measured(opened.fd, opened.oci, "img")
    opened.close()


def test_inspect(path, layers):
    attributes, whole = metadata.read(str(written(path, layers)))
    assert whole and attributes["labels"] == {"maintainer": "lab"}
    assert "set -- '/opt/app' \"$@\"" in attributes["runscript"]
    assert 'export PATH="/opt/bin:/bin"' in attributes["environment"]["/.singularity.d/env/10-docker2singularity.sh"]
    assert "maintainer: lab" in command("inspect", str(path)).stdout
    assert "/opt/app" in command("inspect", "--runscript", str(path)).stdout


def test_sif_list(path, layers):
    lines = command("sif", "list", str(written(path, layers))).stdout.splitlines()
    assert [line.split("|")[-1] for line in lines[3:]] == ["OCI.Blob"] * 4 + ["OCI.RootIndex"]


def test_another_architecture(path, layers):
    written(path, layers, arch="arm64")
    with pytest.raises(BollardError, match="built for arm64, this node is amd64"):
        image.open_image(str(path), "x86_64")


def bad(change):
    """An OCI-SIF file whose documents `change` has changed: (blobs, index) -> arguments of files.write."""

    def make(path, layers):
        return files.write(path, *change(*files.documents(layers, CONFIG)))

    return make


def manifest_with(**values):
    """The arguments for a manifest with other values."""

    def change(blobs, index):
        text = json.dumps({**json.loads(blobs[-1]), **values}).encode()
        return [*blobs[:-1], text], {**index, "manifests": [files.entry(text, files.MANIFEST)]}

    return bad(change)


def other_layers(edit):
    """The arguments for a manifest whose list of layers `edit` returns."""

    def change(blobs, index):
        found = json.loads(blobs[-1])
        text = json.dumps({**found, "layers": edit(found["layers"])}).encode()
        return [*blobs[:-1], text], {**index, "manifests": [files.entry(text, files.MANIFEST)]}

    return bad(change)


def flipped(path, layers):
    """One byte of the configuration is changed."""
    data = written(path, layers).read_bytes()
    path.write_bytes(data.replace(b"hello $you", b"hello $me!"))


def two_roots(path, layers):
    data = bytearray(written(path, layers).read_bytes())
    data[4096:4098] = files.ROOT_INDEX.to_bytes(2, "little")
    path.write_bytes(data)


BAD = {
    "no image": (bad(lambda blobs, index: (blobs, {**index, "manifests": []})), "holds 0 OCI images"),
    "two images": (
        bad(lambda blobs, index: (blobs, {**index, "manifests": index["manifests"] * 2})), "holds 2 OCI images",
    ),
    "an index that is no list": (bad(lambda blobs, index: (blobs, {**index, "manifests": "x"})), "holds 0 OCI images"),
    "two root indexes": (two_roots, "damaged: it has 2 root indexes"),
    "no JSON": (bad(lambda blobs, index: (blobs, b"{")), "damaged: its root index is not JSON"),
    "no object": (bad(lambda blobs, index: (blobs, b"[]")), "damaged: its root index is no JSON object"),
    "deep JSON": (bad(lambda blobs, index: (blobs, b"[" * 100000)), "damaged: its root index is not JSON"),
    "large JSON": (
        bad(lambda blobs, index: (blobs, b" " * (8 << 20) + b"{}")), "damaged: its root index has 8388610 bytes",
    ),
    "the manifest is missing": (bad(lambda blobs, index: (blobs[:-1], index)), "damaged: its manifest, sha256:"),
    "a layer is missing": (bad(lambda blobs, index: (blobs[1:], index)), "damaged: layer 1, sha256:"),
    "the configuration is missing": (
        bad(lambda blobs, index: ([*blobs[:-2], blobs[-1]], index)), "damaged: its configuration, sha256:",
    ),
    "a changed configuration": (flipped, "damaged: its configuration does not match its digest"),
    "a layer outside of the group": (
        bad(lambda blobs, index: (blobs, index, {1: 2})), "is not in the root index's group",
    ),
    "another size": (
        other_layers(lambda layers: [{**layers[0], "size": 7}]), "damaged: layer 1 should have 7 bytes, object 1 has",
    ),
    "no layers": (manifest_with(layers=[]), "has 0 layers, 1 to 128 are supported"),
    "too many layers": (other_layers(lambda layers: layers * 65), "has 130 layers, 1 to 128 are supported"),
    "layers that are no list": (manifest_with(layers={"a": 1}), "has 0 layers"),
    "a layer that is no object": (manifest_with(layers=["x"]), "layer 1 is None, not squashfs"),
    "a layer as a tar": (
        other_layers(lambda layers: [{**layers[0], "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip"}]),
        "layer 1 is 'application/vnd.oci.image.layer.v1.tar+gzip', not squashfs; pull it again",
    ),
    "ext3 below": (
        other_layers(lambda layers: [{**layers[0], "mediaType": files.EXT3}, layers[1]]),
        "damaged: layer 1 is ext3, which only the last one above another may be",
    ),
    "a layer without a digest": (
        other_layers(lambda layers: [{"mediaType": files.SQUASHFS}]), "layer 1, without a digest, is not in",
    ),
    "data": (manifest_with(artifactType="application/vnd.sylabs.data"), "holds data, not a container"),
    "no squashfs": (
        lambda path, layers: written(path, [(files.SQUASHFS, b"x" * 5000)]),
        "damaged: no squashfs in its system partition",
    ),
    "truncated": (
        lambda path, layers: path.write_bytes(written(path, layers).read_bytes()[:-1]), "truncated:",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_damaged_oci_sif_file_is_refused_in_one_line(path, layers, name):
    make, wanted = BAD[name]
    make(path, layers)
    line = refused("plan", str(path))
    assert line.startswith(f"{path}: ") and wanted in line, line


def test_what_is_not_done_with_it(path, layers):
    written(path, layers)
    assert "is an OCI-SIF image, and only" not in refused("build", f"{path}.sif", str(path))
    line = refused("overlay", "create", str(path))
    assert "is an OCI-SIF image" in line, line


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    return signed_images.Keys(tmp_path_factory.mktemp("keys"))


class TestTrust:
    """A site's policy sees it as unsigned unless somebody has signed it, and no SBOM of anybody's is about it."""

    def signers(self, path, keys, monkeypatch):
        monkeypatch.setattr(evidence, "GPGV", shutil.which("gpgv"))
        fd, found = image.open_sif(str(path))
        try:
            return evidence.signers_of(fd, found, trust_rule.Policy("enforce", "bollard.yaml", 1, keys.ring, ()))
        finally:
            os.close(fd)

    def test_a_signature_covers_the_layers(self, path, layers, keys, monkeypatch):
        written(path, layers)
        assert self.signers(path, keys, monkeypatch) == frozenset()
        keys.sign(path)
        assert self.signers(path, keys, monkeypatch) == {keys.public["good"].fingerprint}
        opened = image.open_image(str(path), "x86_64")  # it still runs
        assert opened.oci
        at = opened.oci.layers[1].offset + 200
        opened.close()
        with path.open("r+b") as file:
            file.seek(at)
            byte = file.read(1)
            file.seek(at)
            file.write(bytes([byte[0] ^ 1]))
        assert self.signers(path, keys, monkeypatch) == frozenset()

    def test_it_has_no_sbom(self, path, layers):
        fd, found = image.open_sif(str(written(path, layers)))
        assert image_sbom.text_of(fd, found) is None
        os.close(fd)


def test_the_search_for_opaque_directories_is_bounded(tmp_path, monkeypatch):
    """A hostile squashfs shows one directory at any number of paths."""
    for name in ("a/b", "a/c", "d"):
        (tmp_path / name).mkdir(parents=True)
    layer = oci_sif.Layer(sif.FS_SQUASHFS, sif.Descriptor(bytes(sif.DESCRIPTOR_SIZE)))
    with open(__file__, "rb") as file:  # any file whose superblock does not say that there are no attributes

        def searched():
            return oci_layers._opaque(file.fileno(), layer, str(tmp_path), "x.sif")

        assert searched() == []
        monkeypatch.setattr(oci_layers, "_DIRECTORIES_MAX", 4)
        with pytest.raises(BollardError, match="^x.sif: a layer has over 4 directories"):
            searched()
        monkeypatch.setattr(oci_layers, "_DIRECTORIES_MAX", 5)
        assert searched() == []
        marked = lambda path, follow_symlinks: [oci_layers._OPAQUE] if path.endswith(("b", "c", "d")) else []  # noqa: E731
        monkeypatch.setattr(os, "listxattr", marked)
        assert sorted(searched()) == ["a/b", "a/c", "d"]
        monkeypatch.setattr(oci_layers, "_OPAQUE_MAX", 2)
        with pytest.raises(BollardError, match="over 2 opaque directories"):
            searched()
