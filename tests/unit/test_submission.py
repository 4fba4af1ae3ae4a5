# SPDX-License-Identifier: BSD-3-Clause
"""The client's thorough look: which of several ways to ask counts, and what is refused before a job queues."""

from __future__ import annotations

import os
import struct

import pytest

from bollard.runtime.errors import BollardError
from bollard.runtime.local import submission
from bollard.runtime.request import forms, spec, spec_text


@pytest.fixture
def image(tmp_path):
    """The smallest file that looks like a squashfs image."""
    path = tmp_path / "img.sqfs"
    head = struct.pack(
        "<4sIIIIHHHHHHQQQQQQQQ",
        b"hsqs", 1, 0, 131072, 0, 6, 17, 0, 1, 4, 0, 0, 4096, 200, 2**64 - 1, 200, 200, 200, 2**64 - 1,
    )  # fmt: skip
    path.write_bytes(head.ljust(4096, b"\0"))
    return path


def checked(*values: tuple[str, str]) -> list[tuple[str, str]]:
    reader, writer = os.pipe()
    try:
        submission.check(spec_text.text(list(values)), writer)
        header, settled = spec_text.read(os.read(reader, 65536))
        asked = spec.make(settled)
        spec_text.refuse_other(header, asked)
        return settled
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize(
    ("given", "resolved"),
    [
        ([("image", "/i")], [("image", "/i")]),
        ([("BOLLARD_PWD", "/a")], [("pwd", "/a")]),
        ([("SINGULARITY_PWD", "/s"), ("APPTAINER_PWD", "/a")], [("pwd", "/a")]),
        ([("APPTAINER_PWD", "/a"), ("BOLLARD_PWD", "/b")], [("pwd", "/b")]),
        ([("pwd", "/option"), ("BOLLARD_PWD", "/b")], [("pwd", "/option")]),
        ([("APPTAINER_BINDPATH", "/a"), ("APPTAINER_BIND", "/b")], [("bind", "/b"), ("bind", "/a")]),
        ([("APPTAINER_BIND", "/a"), ("SINGULARITY_BIND", "/s")], [("bind", "/a")]),
        ([("bind", "/o"), ("APPTAINER_BIND", "/a")], [("bind", "/a"), ("bind", "/o")]),
        ([("mount", "o"), ("SINGULARITY_MOUNT", "s")], [("mount", "s"), ("mount", "o")]),
        ([("dns", "1"), ("APPTAINER_DNS", "2")], [("dns", "1")]),
        ([("ENROOT_MOUNT_HOME", "no")], [("no-home", "1")]),
        ([("ENROOT_MOUNT_HOME", "no"), ("PYXIS_CONTAINER_MOUNT_HOME", "1")], [("no-home", "0")]),
        ([("ENROOT_REMAP_ROOT", "y"), ("ENROOT_ROOTFS_WRITABLE", "y")], [("writable-tmpfs", "1"), ("fakeroot", "1")]),
        ([("env", "A=1"), ("env", "B=2")], [("env", "A=1"), ("env", "B=2")]),
    ],
)
def test_resolve(given, resolved):
    assert forms.resolve(given) == resolved


def test_no_home_where_the_working_directory_is_the_home(tmp_path):
    """The working directory of a job is shown, but not if it is the home that was to be left out."""
    (tmp_path / "home").mkdir()
    (tmp_path / "link").symlink_to("home")
    home = ("userhome", str(tmp_path / "home"))
    for cwd in ("home", "link", "home/."):
        given = [home, ("cwd", f"{tmp_path}/{cwd}")]
        assert ("no-mount", "cwd") in forms.resolve_for_job([*given, ("no-home", "1")])
        assert ("no-mount", "cwd") in forms.resolve_for_job([*given, ("PYXIS_CONTAINER_MOUNT_HOME", "0")])
        assert forms.resolve_for_job([*given, ("no-home", "0")]) == [*given, ("no-home", "0")]
        assert forms.resolve_for_job(given) == given
    below = [home, ("cwd", f"{tmp_path}/home/data"), ("no-home", "1")]
    assert forms.resolve_for_job(below) == below


def test_check_settles_the_image(image):
    values = dict(checked(("image", "img.sqfs"), ("asked", "img.sqfs"), ("cwd", str(image.parent))))
    info = image.stat()

    assert values["image"] == str(image)
    assert values["asked"] == "img.sqfs"
    assert values["id"] == f"{info.st_ino}.{info.st_size}.{info.st_mtime_ns}"


def test_check_believes_the_shim_about_an_image_it_has_seen():
    assert dict(checked(("image", "/no/such.sif"), ("id", "1.2.3")))["id"] == "1.2.3"


def test_an_image_on_the_nodes_alone_is_theirs_to_judge():
    assert "id" not in dict(checked(("image", "/tmp/no-such-directory/img.sif")))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([("image", "/no/such.sif")], "no such file"),
        ([("image", "/w/oci-archive:/no/a.tar"), ("asked", "oci-archive:/no/a.tar")], "no such file or directory"),
        ([("image", "oras://"), ("asked", "oras://")], "names no image"),
        ([("image", "/i"), ("BOLLARD_BIND", "a:b")], "must begin with /"),
        ([("cwd", "/")], "no image named"),
    ],
)
def test_mistakes_are_told(values, words):
    with pytest.raises(BollardError, match=words):
        checked(*values)


@pytest.mark.parametrize("words", ["--image /other", "--opts --contain", "--help"])
def test_what_opts_cannot_say(image, words):
    with pytest.raises(BollardError, match="means nothing there"):
        checked(("image", str(image)), ("opts", words))


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("--authfile=logins.json", "skopeo login"),
        ("--docker-login", "BOLLARD_DOCKER_USERNAME"),
        ("--docker-host=tcp://127.0.0.1:1", "BOLLARD_DOCKER_HOST"),
        ("--no-https", "BOLLARD_NOHTTPS"),
        ("--disable-cache", "bollard pull"),
    ],
)
def test_container_opts_that_would_be_ignored_are_refused(words, hint):
    with pytest.raises(BollardError) as caught:
        forms.resolve([("opts", words)])
    assert words.partition("=")[0] in caught.value.message and hint in caught.value.hint


@pytest.mark.parametrize(
    ("given", "alone"),
    [
        ([], False),
        ([("bind", "/a:/b")], False),
        ([("save", "/tmp/none.sif")], False),
        ([("writable-tmpfs", "1")], True),
        ([("compat", "1")], True),
        ([("contain", "1")], True),
        ([("scratch", "/s")], True),
        ([("mounts", "tmpfs:/t")], True),
        ([("unshare", "net")], True),
        ([("entrypoint", "1")], True),
        ([("writable-tmpfs", "1"), ("name", "lab")], False),
        ([("contain", "1"), ("overlay", "/o.img")], False),
        ([("contain", "1"), ("overlay", "/o.img:ro")], True),
    ],
)
def test_a_container_in_which_something_can_be_left_is_its_steps_own(image, given, alone):
    settled = dict(checked(("image", str(image)), ("cwd", "/"), ("once", "7"), *given))

    assert ("once" in settled) == alone


@pytest.mark.parametrize("contain", ["0", "1"])
def test_a_terminal_matters_where_dev_is_the_containers_own(image, contain):
    settled = dict(checked(("image", str(image)), ("cwd", "/"), ("pty", "1"), ("contain", contain)))

    assert ("pty" in settled) == (contain == "1")


@pytest.mark.parametrize(
    "name",
    [
        "ubuntu",
        "ubuntu:24.04",
        "docker.io/library/ubuntu:24.04",
        "registry.example/nvidia/pytorch:24.01-py3",
        "a@sha256:" + "0" * 64,
    ],
)
def test_names_of_registries(name):
    assert submission._is_registrys(name)


@pytest.mark.parametrize(
    "name", ["", "img.sif", "./ubuntu", "/a:b", "../a", "~/a:b", "dir/image", "a b", "Name", "x.sqsh", "a:b:c:", "-x"]
)
def test_names_of_files(name):
    assert not submission._is_registrys(name)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("", "--container-opts has no value"),
        ("--bind=", "--bind: its value is empty"),
        ("--contain --overlay ''", "--overlay: its value is empty"),
    ],
)
def test_container_opts_that_say_nothing(words, reason):
    with pytest.raises(BollardError, match=reason):
        forms.resolve([("opts", words)])


def test_a_file_that_is_replaced_gets_a_line(image, capfd):
    checked(("image", str(image)), ("asked", str(image)), ("cwd", "/"), ("save", str(image)))
    assert "replaces the image" in capfd.readouterr().err
    link = image.with_name("link")
    link.symlink_to(image)
    with pytest.raises(BollardError, match="is the image itself"):
        checked(("image", str(image)), ("asked", str(image)), ("cwd", "/"), ("save", str(link)))


@pytest.mark.parametrize(
    "uri", ["docker://debian:12", "docker://host:5000/a/b:v1", "library://host:1/a/b/c:v1", "oras://host/a:v1"]
)
def test_a_uri_is_fetched_and_its_digest_goes_along(monkeypatch, image, uri):
    """No name of a registry is made of it."""
    from bollard.runtime.build import conversion

    asked = []

    def fetched(name, settings, job):
        asked.append((name, job))
        return conversion.Pulled(str(image), lambda: None, f"{name}@sha256:x")

    monkeypatch.setattr(conversion, "image_in_job", fetched)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    found = dict(checked(("image", uri), ("asked", uri), ("cwd", "/"), ("userhome", "/")))
    assert asked == [(uri, "")], "this program is not srun, so it is no step of the job around it"
    assert (found["image"], found["asked"], found["source"]) == (str(image), uri, f"{uri}@sha256:x")
