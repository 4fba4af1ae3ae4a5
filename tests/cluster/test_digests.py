# SPDX-License-Identifier: BSD-3-Clause
"""The digest of an image is settled when a job is submitted; the site's cache; one fetch for many.

A container library on ctl is a directory of files behind Python's own web server: its log counts what was fetched.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

import pytest
from cluster import CONTROLLER, Cluster, Images, Running, Work, good, until

PORT = 18432
NAME = f"ctl:{PORT}/alice/tools/app"
SHARED = "/home/bollard-test-cache"


class Library:
    """The files of a library in a directory that all nodes see."""

    def __init__(self, cluster: Cluster, work: Work) -> None:
        self.cluster, self.work = cluster, work
        self.server: Running | None = None

    def put(self, tag: str, data: bytes) -> str:
        """Let the tag mean this image; return its digest."""
        digest = hashlib.sha256(data).hexdigest()
        for name in (tag, f"sha256.{digest}"):
            place = f"library/v1/imagefile/alice/tools/app:{name}"
            self.work.write(f"library/v1/images/alice/tools/app:{name}", self.said(digest, len(data)), 0o644)
            self.work.write(place, data, 0o644)
        return digest

    def said(self, digest: str, size: int) -> str:
        return json.dumps({"data": {"hash": f"sha256.{digest}", "size": size}})

    def start(self) -> None:
        words = ["python3", "-u", "-m", "http.server", "--directory", f"{self.work.path}/library", str(PORT)]
        command = f"exec {' '.join(words)} > {self.work.path}/library.log 2>&1"
        self.server = self.cluster.start(command, cwd=self.work.path)
        until(lambda: self.cluster.exec(f"exec 3<>/dev/tcp/ctl/{PORT}").rc == 0, "the library")

    def stop(self) -> None:
        if self.server:
            self.server.terminate()
            self.server.result()
            self.server = None

    def fetched(self) -> int:
        """How many times an image was fetched so far."""
        return self.work.read("library.log").count("GET /v1/imagefile/")


@pytest.fixture
def library(cluster: Cluster, images: Images, work: Work) -> Iterator[Library]:
    found = Library(cluster, work)
    for folder in ("images", "imagefile"):
        (work.here / f"library/v1/{folder}/alice/tools").mkdir(parents=True)
    good(cluster.exec(f"chown -R alice {work.path}/library", user="root"))
    found.start()
    yield found
    found.stop()


def two_images(cluster: Cluster, images: Images, work: Work) -> list[bytes]:
    """Two images that differ by one object."""
    data = cluster.path(CONTROLLER, images.small).read_bytes()
    work.write("other.sif", data, 0o644)
    work.write("note", "another image\n", 0o644)
    good(cluster.exec("bollard sif add other.sif note --datatype 7", cwd=work.path))
    return [data, (work.here / "other.sif").read_bytes()]


def sources(cluster: Cluster, job: int) -> set[str]:
    """The names with a digest that the records of a job have, on all nodes."""
    text = "".join(
        cluster.exec(f"cat /var/log/bollard/{job}.* 2>/dev/null", node, "root").out for node in cluster.nodes()
    )
    return {word[7:] for word in text.split() if word.startswith("source=")}


def env_of(work: Work) -> dict[str, str]:
    return {"BOLLARD_CACHEDIR": work.path, "BOLLARD_NOHTTPS": "1"}


def test_a_tag_that_moves_changes_nothing_in_a_job(
    cluster: Cluster, images: Images, work: Work, library: Library
) -> None:
    first, second = two_images(cluster, images, work)
    one = library.put("v1", first)
    uri, env = f"library://{NAME}:v1", env_of(work)
    step = f"srun -Q --container={uri} true"
    script = f"{step} && {work.pause('moved')} && srun -Q -N2 --container={uri} true && echo $SLURM_JOB_ID"
    with cluster.start(["salloc", "-Q", "-N2", "bash", "-c", script], cwd=work.path, env=env) as running:
        work.wait_for("moved")
        two = library.put("v1", second)
        assert one != two
        work.go_on("moved")
        done = running.result()
    job = int(good(done))
    assert sources(cluster, job) == {f"library://{NAME}:sha256.{one}"}
    said = good(cluster.exec(["bollard", "job", "--collect", str(job)]))
    assert f"from library://{NAME}:sha256.{one}\n" in said
    # Another job gets what the tag means now; the digest that `bollard job` names gives the first image again.
    later = int(good(cluster.srun(f"--container={uri}", "printenv", "SLURM_JOB_ID", cwd=work.path, env=env)))
    until(lambda: sources(cluster, later), "the record")
    assert sources(cluster, later) == {f"library://{NAME}:sha256.{two}"}
    library.stop()
    pinned = f"--container=library://{NAME}:sha256.{one}"
    good(cluster.srun(pinned, "true", cwd=work.path, env=env))
    line = cluster.srun(f"--container={uri}", "true", cwd=work.path, env=env)
    assert (line.rc, len(line.complaints())) == (255, 1), line
    assert f"{uri}: the server cannot be reached" in line.err


def test_all_elements_of_an_array_run_one_image(
    cluster: Cluster, images: Images, work: Work, library: Library
) -> None:
    """Each element resolves the tag by itself; the first decides, also for those that start when it has moved."""
    first, second = two_images(cluster, images, work)
    one = library.put("v1", first)
    script = f"#!/bin/sh\nsrun -Q --container=library://{NAME}:v1 true\n"
    job = cluster.sbatch(script, work, "--array=0-3%1", env=env_of(work))
    until(lambda: list(work.here.glob("bollard/pin/*")), "the first element's decision")
    library.put("v1", second)
    ids = good(cluster.exec(["squeue", "-h", "-r", "-t", "all", "-j", str(job), "-o", "%A"])).split()
    cluster.ended(job)
    for number in set(ids):
        cluster.ended(int(number))
        assert sources(cluster, int(number)) <= {f"library://{NAME}:sha256.{one}"}
    assert library.fetched() == 1


def test_a_batch_script_keeps_the_digest_of_its_submit(
    cluster: Cluster, images: Images, work: Work, library: Library
) -> None:
    first, second = two_images(cluster, images, work)
    one = library.put("v1", first)
    job = cluster.sbatch("#!/bin/sh\ntrue\n", work, f"--container=library://{NAME}:v1", "--hold", env=env_of(work))
    library.put("v1", second)
    library.stop()
    good(cluster.exec(["scontrol", "release", str(job)]))
    assert cluster.ended(job)["JobState"] == "COMPLETED"
    assert sources(cluster, job) == {f"library://{NAME}:sha256.{one}"}


def test_the_sites_cache(cluster: Cluster, images: Images, work: Work, library: Library) -> None:
    """Root fills it. Users start from it without a server and without a copy of their own, and cannot change it."""
    data = two_images(cluster, images, work)[0]
    one = library.put("v1", data)
    text = f"cache.shared: {SHARED}\ncache.shared-max: 100G\ncache.max: 100G\n"
    try:
        good(cluster.exec(f"mkdir -m 755 {SHARED}; mkdir -p /etc/bollard", user="root"))
        good(cluster.exec("cat > /etc/bollard/bollard.yaml; bollard site configure", user="root", stdin=text.encode()))
        uri, env = f"library://{NAME}:v1", env_of(work)
        words = ["bollard", "cache", "pull", "--shared", uri]
        path = good(cluster.exec(words, user="root", env={"BOLLARD_NOHTTPS": "1"}))
        assert path == f"{SHARED}/library/sha256.{one}\n"
        refused = cluster.exec(["bollard", "cache", "pull", "--shared", uri], env=env)
        assert (refused.rc, refused.err) == (
            255, f"bollard: cache.shared {SHARED}: belongs to another user; let its owner fill it\n"
        )  # fmt: skip
        refused = cluster.exec(["bollard", "cache", "pull", "--shared", f"http://{NAME}"], user="root")
        assert "the site's cache takes only what a digest names" in refused.err
        assert "1 container file(s)" in good(cluster.exec(["bollard", "cache", "list", "--shared"]))
        library.stop()
        pinned = f"library://{NAME}:sha256.{one}"
        words = ["-n2", "-N2", f"--container={pinned}", "sh", "-c", "echo $BOLLARD_CONTAINER"]
        assert set(good(cluster.srun(*words, cwd=work.path, env=env)).split()) == {path.strip()}
        assert not list((work.here / "bollard/library").iterdir())
        assert cluster.exec(f"touch {path.strip()} {SHARED}/library/x").rc != 0
    finally:
        cluster.exec(f"rm -rf {SHARED} /etc/bollard; bollard site configure", user="root")


def test_many_ask_and_one_fetches(cluster: Cluster, images: Images, work: Work, library: Library) -> None:
    """Jobs of four nodes, submitted at once from an empty cache."""
    library.put("v1", two_images(cluster, images, work)[0])
    step = f"srun -Q -N1 --container=library://{NAME}:v1 true"
    done = cluster.exec(f"for i in 1 2 3 4; do {step} & done; wait", cwd=work.path, env=env_of(work))
    good(done)
    assert library.fetched() == 1
    assert not list((work.here / "bollard/tmp").glob("fetch-*"))
