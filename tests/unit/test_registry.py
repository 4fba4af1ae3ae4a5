# SPDX-License-Identifier: BSD-3-Clause
"""What skopeo says, in one line; where logins come from; what is asked for by options and variables."""

from __future__ import annotations

import io
import json

import pytest

from bollard.runtime.build import definition
from bollard.runtime.errors import BollardError
from bollard.runtime.fetch import logins, reference, registry, sources

NAME = reference.parse("docker://host:5000/a/b:v1")


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("reading manifest v1 in host:5000/a/b: manifest unknown: manifest unknown", "no such image; check its name"),
        ("reading manifest v1 in host:5000/a/b: name unknown: repository name not known", "no such image; check"),
        ("requested access to the resource is denied", "no such image, or one that needs a login"),
        ("unauthorized: authentication required", "no such image, or one that needs a login"),
        ('pinging: Get "x": dial tcp 127.0.0.1:1: connection refused', "cannot be reached: connection refused"),
        ("pinging: dial tcp: lookup host: no such host", "host:5000 cannot be reached: no such host"),
        ("pinging: http: server gave HTTP response to HTTPS client", "host:5000 speaks plain HTTP; add --no-https"),
        (
            "pinging: x509: certificate signed by unknown authority",
            "host:5000 is not trusted: certificate signed by unknown authority",
        ),
        ("something new", "skopeo: something new; check the name"),
    ],
)
def test_what_skopeo_says(said, line):
    text = str(registry.explained(NAME, said))

    assert text.startswith("docker://host:5000/a/b:v1: ")
    assert line in text


def test_a_crash_of_skopeo_has_its_cause_in_the_first_line():
    text = b"runtime: x\nfatal error: failed to reserve page summary memory\n\nstack:\n\truntime/panic.go:1047\n"
    assert registry._last_line(text) == "fatal error: failed to reserve page summary memory"


def test_a_login_that_was_tried():
    assert "host:5000 refuses your login" in str(registry.explained(NAME, "unauthorized: x", tried=True))


@pytest.mark.parametrize(
    ("config", "host", "known"),
    [
        ({"auths": {"host:5000": {"auth": "x"}}}, "host:5000", True),
        ({"auths": {"https://host:5000/v2/": {"auth": "x"}}}, "host:5000", True),
        ({"auths": {"host:5000": {"auth": "x"}}}, "host", False),
        ({"auths": {"https://a.host/v1/": {"auth": "x"}}}, "", True),
        ({}, "", False),
        ({"credHelpers": {"host": "x"}}, "host", True),
        ({"credsStore": "secretservice"}, "host", True),
        ({}, "host", False),
        ([], "host", False),
        ({"auths": 7}, "host", False),
    ],
)
def test_whether_a_file_has_a_login(tmp_path, config, host, known):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))

    assert logins.knows(str(path), host) is known


def test_no_file_has_no_login(tmp_path):
    assert not logins.knows(str(tmp_path / "nothing"), "host")


def test_settings():
    assert sources.settings([], {}) == sources.Settings()
    given = [("no-https", "1"), ("authfile", "f"), ("library", "l"), ("arch", "aarch64"), ("disable-cache", "0")]
    environ = {
        "SINGULARITY_DOCKER_USERNAME": "s",
        "APPTAINER_DOCKER_USERNAME": "a",
        "DOCKER_PASSWORD": "p",
        "BOLLARD_LIBRARY": "other",
        "APPTAINER_DISABLE_CACHE": "1",
    }
    access = registry.Access("f", "a", "p", True)
    assert sources.settings(given, environ) == sources.Settings(access, False, False, "l", "arm64")
    assert sources.settings([], environ).disable_cache
    hosts = {"DOCKER_HOST": "tcp://d", "APPTAINER_DOCKER_HOST": "tcp://a"}
    assert sources.settings([], hosts).access.daemon == "tcp://a"
    assert sources.settings([("docker-host", "tcp://o")], hosts).access.daemon == "tcp://o"
    assert sources.settings([], {"DOCKER_HOST": "tcp://d"}).access.daemon == "tcp://d"
    assert sources.settings([], {"SINGULARITY_NO_HTTPS": "yes"}).access.insecure
    assert not sources.settings([], {"APPTAINER_NOHTTPS": "false"}).access.insecure


def test_a_login_that_is_asked_for(monkeypatch, capsys):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    asked = sources.Settings(login=True)
    monkeypatch.setattr("sys.stdin", Terminal("alice\n"))
    monkeypatch.setattr("getpass.getpass", lambda prompt: "secret")
    assert sources.with_login(NAME, asked).access == registry.Access(user="alice", password="secret")
    assert capsys.readouterr().err == "Docker user name: "
    monkeypatch.setattr("sys.stdin", io.StringIO())
    with pytest.raises(BollardError, match="needs a terminal"):
        sources.with_login(NAME, asked)
    assert sources.with_login(reference.parse("library://a"), asked) == asked


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Bootstrap: docker\nFrom: a:v1\nRegistry: host:5000/\nNamespace: /b\n", "docker://host:5000/b/a:v1"),
        ("Bootstrap: docker\nFrom: docker://a\n", "docker://a"),
        ("Bootstrap: ORAS\nFrom: host/a\n", "oras://host/a"),
        ("Bootstrap: library\nFrom: library://a/b/c\n", "library://a/b/c"),
        ("Bootstrap: docker-daemon\nFrom: a:latest\n", "docker-daemon:a:latest"),
    ],
)
def test_what_a_header_names(text, name):
    header = definition.parse(text.encode(), "img.def").stages[0].header

    assert sources.from_header(header).uri == name


def test_a_header_without_from():
    with pytest.raises(BollardError, match="Bootstrap: docker needs From"):
        sources.from_header({"bootstrap": "docker"})


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (b"[]", "is not a JSON object"),
        (b"{", "is not a JSON object"),
        (b'{"schemaVersion": 1}', "format of before 2016"),
        (b'{"manifests": [], "layers": []}', "is an index and an image at once"),
    ],
)
def test_manifests_that_are_not_used(document, words):
    with pytest.raises(BollardError, match=words):
        sources._object(document, "docker://x")


def test_a_login_for_no_named_registry():
    name = reference.parse("docker://alpine")
    with pytest.raises(BollardError, match="needs the registry's name"):
        registry.manifest(name, registry.Access(user="me", password="secret"))
