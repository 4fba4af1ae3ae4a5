# SPDX-License-Identifier: BSD-3-Clause
"""Images from elsewhere: the client fetches an image once, into the user's cache, and the nodes start it from there."""

from __future__ import annotations

import hashlib
import json

from cluster import CONTROLLER, PREFIX, Cluster, Work, good
from tarballs import tarball


def oci_archive(program: bytes) -> bytes:
    """Make the smallest OCI archive: one layer with one static program."""
    blobs: dict[str, bytes] = {}

    def blob(data: bytes, kind: str) -> dict[str, object]:
        name = hashlib.sha256(data).hexdigest()
        blobs[f"blobs/sha256/{name}"] = data
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{name}", "size": len(data)}

    layer = blob(tarball({"bin/probe": program}), "layer.v1.tar")
    config = {"architecture": "amd64", "os": "linux", "config": {"Env": ["OF_THE_IMAGE=yes"]}}
    document = {"schemaVersion": 2, "config": blob(json.dumps(config).encode(), "config.v1+json"), "layers": [layer]}
    index = {"schemaVersion": 2, "manifests": [blob(json.dumps(document).encode(), "manifest.v1+json")]}
    plain = {"index.json": json.dumps(index).encode(), "oci-layout": b'{"imageLayoutVersion": "1.0.0"}'}
    return tarball({**blobs, **plain})


def test_an_archive_becomes_an_image_once(cluster: Cluster, work: Work) -> None:
    program = cluster.path(CONTROLLER, f"{PREFIX}/bollard-enter").read_bytes()
    work.write("img.tar", oci_archive(program))
    env = {"BOLLARD_CACHEDIR": work.path}
    words = ["-n1", "--container=oci-archive:img.tar", "/bin/probe", "--print-environment"]
    first: dict[str, int] = {}
    for _ in range(2):
        said = good(cluster.srun(*words, cwd=work.path, env=env))
        assert "OF_THE_IMAGE=yes\0" in said and "BOLLARD_IMAGE=oci-archive:img.tar\0" in said
        made = {path.name: path.stat().st_mtime_ns for path in (work.here / "bollard/oci-tmp").iterdir()}
        first = first or made
        assert len(made) == 1 and made == first


def test_what_cannot_be_fetched_is_told_at_once(cluster: Cluster, work: Work) -> None:
    env = {"BOLLARD_CACHEDIR": work.path}
    done = cluster.srun("--container=oci-archive:no.tar", "true", cwd=work.path, env=env)
    assert (done.rc, len(done.complaints())) == (255, 1) and "no such file" in done.err, done
    env = {"BOLLARD_DISABLE_CACHE": "1"}
    done = cluster.srun("--container=some.registry#a/b:c", "true", cwd=work.path, env=env)
    assert done.rc == 255 and "docker://some.registry#a/b:c: the cache is disabled" in done.err, done
