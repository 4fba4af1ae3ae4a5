# SPDX-License-Identifier: BSD-3-Clause
"""Names of images that lie elsewhere: their parts, their default file names, and what is none."""

from __future__ import annotations

import pytest

from bollard.runtime.errors import BollardError
from bollard.runtime.fetch import library, reference
from bollard.runtime.image import image

HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("uri", "scheme", "name", "file"),
    [
        ("docker://alpine", "docker", "alpine", "alpine_latest.sif"),
        ("docker:alpine:3", "docker", "alpine:3", "alpine_3.sif"),
        ("DOCKER:///alpine", "docker", "alpine", "alpine_latest.sif"),
        ("docker://host:5000/a/b:v1", "docker", "host:5000/a/b:v1", "b_v1.sif"),
        (f"docker://a/b@sha256:{HEX}", "docker", f"a/b@sha256:{HEX}", f"b@sha256_{HEX}.sif"),
        ("oras://host/a:v1", "oras", "host/a:v1", "a_v1.sif"),
        ("library://a/b/c:x,y", "library", "a/b/c:x,y", "c_x.sif"),
        ("library:a/b/c", "library", "a/b/c", "c_latest.sif"),
        ("docker-daemon:a:b", "docker-daemon", "a:b", "a_b.sif"),
        ("docker-archive:/x/a b.tar", "docker-archive", "/x/a b.tar", "a b.tar_latest.sif"),
        ("oci-archive:a.tar:v1", "oci-archive", "a.tar:v1", "a.tar_v1.sif"),
        ("oci:///x/layout", "oci", "/x/layout", "layout_latest.sif"),
        ("https://host/a/img.sif?x=1#y", "https", "host/a/img.sif?x=1#y", "img.sif"),
    ],
)
def test_names(uri, scheme, name, file):
    found = reference.parse(uri)

    assert (found.uri, found.scheme, found.name) == (uri, scheme, name)
    assert reference.file_name(found) == file


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("nosuch://x", "nosuch://x: nosuch images cannot be fetched; known are docker, oras, library"),
        ("docker://", "names no image; write docker://NAME"),
        ("oci:", "names no image; write oci:NAME"),
        ("docker:/alpine", "docker:/alpine: is not the name of an image; write docker://alpine"),
        ("oras:/h/x", "oras:/h/x: is not the name of an image; write oras://h/x"),
        ("docker:///", "names no image; write docker://NAME"),
        ("docker://-a", "is not the name of an image"),
        ("docker://a b", "is not the name of an image"),
        ("docker://a\n", r"docker://a\n: is not the name of an image"),
        ("https:host", "names no image"),
    ],
)
def test_what_is_no_name(uri, words):
    with pytest.raises(BollardError) as caught:
        reference.parse(uri)

    assert words in str(caught.value)


def test_an_address_that_ends_with_no_file():
    with pytest.raises(BollardError, match="does not end with a file's name"):
        reference.file_name(reference.parse("https://host/"))


def test_digests():
    assert reference.digest(reference.parse("docker://a:v1")) == ""
    assert reference.digest(reference.parse(f"docker://a:v1@sha256:{HEX}")) == f"sha256:{HEX}"
    for text in ("sha256:12", f"sha256:{HEX.upper()}", f"md5:{HEX}", ""):
        with pytest.raises(BollardError, match="is not a SHA-256 digest"):
            reference.digest(reference.parse(f"docker://a@{text}"))


@pytest.mark.parametrize(
    ("name", "repository", "registry"),
    [
        ("alpine", "alpine", ""),
        ("alpine:3", "alpine", ""),
        ("some/one:v1", "some/one", ""),
        ("host:5000/a/b:v1", "host:5000/a/b", "host:5000"),
        ("host:5000/a", "host:5000/a", "host:5000"),
        ("localhost/a", "localhost/a", "localhost"),
        (f"a.example/b:v@sha256:{HEX}", "a.example/b", "a.example"),
    ],
)
def test_parts_of_a_registrys_name(name, repository, registry):
    assert (reference.repository(name), reference.registry(name)) == (repository, registry)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("one", ("", "one", "latest")),
        ("one:", ("", "one", "latest")),
        ("a/b/one:v1,v2", ("", "a/b/one", "v1")),
        ("host:8000/a/b/one:v1", ("host:8000", "a/b/one", "v1")),
    ],
)
def test_paths_of_a_library(name, path):
    assert reference.library_path(reference.parse(f"library://{name}")) == path


@pytest.mark.parametrize("name", ["a/../b", "a:-x", "a:b:c", ":x"])
def test_what_is_no_path_of_a_library(name):
    with pytest.raises(BollardError, match="is not (a|the) name"):
        reference.library_path(reference.parse(f"library://{name}"))


def test_a_tag_that_is_a_digest():
    assert library.pinned(reference.parse(f"library://a/b/c:sha256.{HEX}")) == HEX
    assert library.pinned(reference.parse("library://a/b/c:v1")) == ""


@pytest.mark.parametrize("word", ["docker://a", "oci:a", "docker-archive:a.tar", "nosuch://x", "instance://x"])
def test_what_is_taken_for_a_uri(word):
    assert image.is_uri(word)


@pytest.mark.parametrize("word", ["img.sif", "a:b", "/a/docker://b", "./oci:x", "", "docker"])
def test_what_is_taken_for_a_path(word):
    assert not image.is_uri(word)


def test_enroots_forms():
    assert reference.parse("docker://me@host:5000#a/b:c").name == "host:5000/a/b:c"
    assert reference.parse("docker://host#a").name == "host/a"
    assert reference.parse("dockerd://a:b").scheme == "docker-daemon"
    with pytest.raises(BollardError) as caught:
        reference.parse("podman://lab/app:1")
    assert "`podman save --format oci-archive -o FILE.tar lab/app:1`" in caught.value.hint


def test_an_address_of_ipv6():
    """skopeo takes none; a web server may have one."""
    with pytest.raises(BollardError, match="an IPv6 address cannot name a registry; use the name of its host"):
        reference.parse("docker://[::1]:5000/lab/img:v1")
    assert reference.parse("https://[::1]:8443/img.sif").name == "[::1]:8443/img.sif"


def test_a_digest_in_capitals():
    with pytest.raises(BollardError) as caught:
        reference.digest(reference.parse("docker://host/i@sha256:" + "AB" * 32))
    assert caught.value.hint == f"write @sha256:{'ab' * 32}, in lower case"


@pytest.mark.parametrize("uri", ["docker://host/a/../b", "oras://host/./b:1", "docker://host/.."])
def test_a_name_with_dots_alone(uri):
    with pytest.raises(BollardError, match="is not the name of an image"):
        reference.parse(uri)
