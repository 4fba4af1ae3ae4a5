# SPDX-License-Identifier: BSD-3-Clause
"""OCI-SIF images of SingularityCE's layout, in steps and by hand: their layers, and their configuration."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import oci_sif_files as files
import pytest
from cluster import CONTROLLER, Cluster, Images, Work, good

CONFIG = {
    "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/bin", "OF_THE_IMAGE=y es"],
    "Entrypoint": ["/opt/bin/app"],
    "Cmd": ["--all"],
    "Labels": {"lab": "north"},
}


def root_filesystem(cluster: Cluster, images: Images) -> bytes:
    """The squashfs of a small image."""
    from bollard.runtime.image import image

    path = cluster.path(CONTROLLER, images.small)
    opened = image.open_image(str(path))
    try:
        return os.pread(opened.fd, opened.size, opened.offset)
    finally:
        opened.close()


def layer(place: Path, texts: dict[str, str], opaque: str = "", *pseudo: str) -> tuple[str, bytes]:
    """A layer with these files; a directory of it is opaque, as SingularityCE marks it."""
    for name, text in texts.items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    for folder in (place, *(path for path in place.rglob("*") if path.is_dir())):
        folder.chmod(0o755)
    if opaque:
        os.setxattr(place / opaque, "trusted.overlay.opaque", b"y")
    return files.SQUASHFS, files.squashfs(place, *pseudo)


@pytest.fixture(scope="module")
def layers(cluster: Cluster, images: Images) -> Iterator[list[tuple[str, bytes]]]:
    """A root filesystem, files, and a layer that hides some of them."""
    with tempfile.TemporaryDirectory(prefix="oci-sif-") as made:
        places = [Path(made, name) for name in ("middle", "upper")]
        for place in places:
            place.mkdir()
        middle = {"srv/data/old": "old", "srv/data/sub/old": "old", "srv/gone": "gone", "srv/kept": "middle"}
        upper = {
            "opt/bin/app": '#!/bin/sh\necho "app $* $OF_THE_IMAGE"\n',
            "srv/data/new": "new",
            "srv/data/sub/new": "new",
            "srv/kept": "upper",
            "etc/passwd": "root:x:0:0::/root:/bin/sh\nfromlayer:x:7000:7000::/:/bin/sh\n",
        }
        yield [
            (files.SQUASHFS, root_filesystem(cluster, images)),
            layer(places[0], middle),
            layer(places[1], upper, "srv/data", "srv/gone c 644 0 0 0 0"),
        ]


@pytest.fixture
def several(layers: list[tuple[str, bytes]], work: Work) -> str:
    files.write(work.here / "img.oci.sif", *files.documents(layers, CONFIG))
    return f"{work.path}/img.oci.sif"


@pytest.mark.every_release
def test_layers_in_a_step(cluster: Cluster, several: str) -> None:
    script = "find /srv -type f | sort; cat /srv/kept; echo; grep fromlayer /etc/passwd; id -un; echo $OF_THE_IMAGE"
    said = good(cluster.srun("-n1", f"--container={several}", "sh", "-c", script)).splitlines()
    assert said == [
        "/srv/data/new", "/srv/data/sub/new", "/srv/kept", "upper", "fromlayer:x:7000:7000::/:/bin/sh", "alice", "y es",
    ]  # fmt: skip


def test_by_hand(cluster: Cluster, several: str, work: Work) -> None:
    assert good(cluster.exec(["bollard", "run", several])) == "app --all y es\n"
    assert good(cluster.exec(["bollard", "run", several, "one"])) == "app one y es\n"
    assert "lab: north\n" in good(cluster.exec(["bollard", "inspect", several]))
    assert "OCI.RootIndex" in good(cluster.exec(["bollard", "sif", "list", several]))
    # A layer of the user's lies above the image's.
    script = 'echo mine > /srv/kept && cat /srv/kept "/srv/data/new"'
    done = cluster.srun("-n1", f"--container={several}", "--container-writable", "sh", "-c", script)
    assert good(done) == "mine\nnew"
    refused = cluster.exec(["bollard", "exec", several, "sh", "-c", "echo x > /srv/kept"])
    assert refused.rc != 0 and "Read-only" in refused.err, refused
    done = cluster.exec(["bollard", "build", f"{work.path}/new.sif", several])
    assert done.rc == 255 and "is an OCI-SIF image with 3 layers, and only one layer can be converted" in done.err, done


def test_the_pre_flight_sees_all_layers(cluster: Cluster, several: str) -> None:
    told = json.loads(cluster.exec(["bollard", "doctor", "--json", several]).out)
    assert all("cannot be looked into" not in row["text"] for row in told["checks"]), told


def test_one_layer(cluster: Cluster, layers: list[tuple[str, bytes]], work: Work) -> None:
    """As SingularityCE makes it unless --keep-layers is given. It becomes a SIF file too."""
    config = {"Env": ["OF_THE_IMAGE=one"], "Cmd": ["printenv", "OF_THE_IMAGE"]}
    files.write(work.here / "one.sif", *files.documents(layers[:1], config))
    path = f"{work.path}/one.sif"
    assert good(cluster.exec(["bollard", "run", path])) == "one\n"
    assert good(cluster.srun("-n1", f"--container={path}", "printenv", "OF_THE_IMAGE")) == "one\n"
    good(cluster.exec(["bollard", "build", f"{work.path}/new.sif", path]))
    assert good(cluster.exec(["bollard", "run", f"{work.path}/new.sif"])) == "one\n"


def test_an_ext3_layer(cluster: Cluster, layers: list[tuple[str, bytes]], work: Work) -> None:
    """As `singularity overlay create` adds it: it hides what is below, and takes writes if they are asked for."""
    alice = work.here.stat()
    with tempfile.TemporaryDirectory(prefix="oci-sif-ext3-") as made:
        for name, text in {"upper/srv/kept": "overlay", "upper/srv/mine": "mine"}.items():
            file = Path(made, "tree", name)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        Path(made, "tree/work").mkdir()
        owner = f"{alice.st_uid}:{alice.st_gid}"  # of all that it holds: nobody else is known in the container
        subprocess.run(["chown", "-R", owner, f"{made}/tree"], check=True)
        words = ["mke2fs", "-q", "-t", "ext3", "-E", f"root_owner={owner}", "-d", f"{made}/tree", f"{made}/layer", "8m"]
        subprocess.run(words, check=True, capture_output=True)
        ext3 = (files.EXT3, Path(made, "layer").read_bytes())
    files.write(work.here / "ext3.sif", *files.documents([layers[0], layers[1], ext3], CONFIG))
    os.chown(work.here / "ext3.sif", alice.st_uid, alice.st_gid)
    path = f"{work.path}/ext3.sif"
    show = ("sh", "-c", 'cat /srv/kept /srv/mine "/srv/gone"; echo x 2> /dev/null > /srv/new && echo wrote')
    assert "overlaymine" in cluster.exec(["bollard", "exec", path, *show]).out
    done = cluster.srun("-n1", f"--container={path}", *show)
    assert done.out == "overlayminegone" and "Read-only" not in done.out, done
    good(cluster.exec(["bollard", "exec", "--writable", path, "sh", "-c", "echo new > /srv/mine"]))
    assert good(cluster.srun("-n1", f"--container={path}", "cat", "/srv/mine")) == "new\n"


def test_damaged_layers(cluster: Cluster, layers: list[tuple[str, bytes]], work: Work) -> None:
    """A layer that its file server cannot read ends the start with one line; the record finds a changed layer."""
    blobs, index = files.documents(layers[:2], CONFIG)
    data = files.write(work.here / "bad.sif", blobs, index).read_bytes()
    at = data.index(layers[1][1]) + 96
    work.write("bad.sif", data[:at] + bytes(len(layers[1][1]) - 96) + data[at + len(layers[1][1]) - 96 :])
    done = cluster.srun("-n1", f"--container={work.path}/bad.sif", "true")
    assert done.rc == 255 and len(done.complaints()) == 1 and "damaged" in done.err, done
