# SPDX-License-Identifier: BSD-3-Clause
"""Which policy decides about an image, and what skopeo is given of it."""

from __future__ import annotations

import json

import pytest

from bollard.runtime.errors import BollardError
from bollard.runtime.fetch import cache, reference, skopeo_policy

DIGEST = "sha256:" + "a" * 64
INDEX = "sha256:" + "b" * 64
ACCEPT = [{"type": "insecureAcceptAnything"}]
REJECT = [{"type": "reject"}]


def of_host(tmp_path, scopes, name, digest=DIGEST, default=ACCEPT):
    place = tmp_path / ".config/containers"
    place.mkdir(parents=True, exist_ok=True)
    text = scopes if isinstance(scopes, str) else json.dumps({"default": default, "transports": {"docker": scopes}})
    (place / "policy.json").write_text(text)
    return skopeo_policy.of_host(reference.parse(name), digest, {"HOME": str(tmp_path)})


def rules(found):
    return json.loads(found.text)["transports"]["docker"]


def test_the_users_file_comes_before_the_systems(tmp_path):
    system = tmp_path / "system.json"
    environ = {"HOME": str(tmp_path)}
    assert skopeo_policy.host_file(environ, str(system)) == ""
    system.write_text("{}")
    assert skopeo_policy.host_file(environ, str(system)) == str(system)
    own = tmp_path / ".config/containers/policy.json"
    own.parent.mkdir(parents=True)
    own.symlink_to("nowhere")  # there, and not to be passed over
    assert skopeo_policy.host_file(environ, str(system)) == str(own)
    with pytest.raises(BollardError, match=f"{own}: is not a usable policy: No such file"):
        skopeo_policy.of_host(reference.parse("docker://host:1/a"), DIGEST, environ)


@pytest.mark.parametrize(
    ("name", "scope"),
    [
        ("docker://host:1/ns/a:v1", "host:1/ns/a:v1"),
        ("docker://host:1/ns/a", "host:1/ns/a:latest"),
        ("oras://host:1/ns/a:v1", "host:1/ns/a:v1"),
        (f"docker://host:1/ns/a@{INDEX}", f"host:1/ns/a@{INDEX}"),
        (f"docker://host:1/ns/a:v1@{INDEX}", "host:1/ns/a:v1"),
    ],
)
def test_a_rule_for_a_tag_is_one_for_the_digest_that_is_fetched(tmp_path, name, scope):
    assert rules(of_host(tmp_path, {scope: REJECT}, name))[f"host:1/ns/a@{DIGEST}"] == REJECT


def test_another_key_asks_the_policy_again(tmp_path, monkeypatch):
    key, name = tmp_path / "key.gpg", reference.parse("docker://host:1/ns/a")
    signed = [{"type": "signedBy", "keyType": "GPGKeys", "keyPaths": [str(key)]}]

    def accepted(content):
        key.unlink(missing_ok=True)
        if content:
            key.write_bytes(content)
        return skopeo_policy.is_accepted(
            of_host(tmp_path, {}, "docker://host:1/ns/a", default=signed), name, DIGEST, store
        )

    with cache.opened({"BOLLARD_CACHEDIR": str(tmp_path / "cache")}) as store:
        assert not accepted(b"one")
        skopeo_policy.accept(of_host(tmp_path, {}, "docker://host:1/ns/a", default=signed), name, DIGEST, store)
        assert [accepted(content) for content in (b"one", b"two", b"", b"one")] == [True, False, False, True]
        monkeypatch.chdir(tmp_path)  # a file with the name of a word of the policy is no key
        (tmp_path / "signedBy").touch()
        assert accepted(b"one")


def test_all_rules_that_are_about_the_image_count(tmp_path):
    scopes = {"host:1/ns/a:v1": ACCEPT, f"host:1/ns/a@{DIGEST}": REJECT}
    assert rules(of_host(tmp_path, scopes, "docker://host:1/ns/a:v1"))[f"host:1/ns/a@{DIGEST}"] == ACCEPT + REJECT


@pytest.mark.parametrize(
    ("name", "scope"),
    [
        ("docker://host:1/ns/a:v1", "host:1/ns/a"),
        ("docker://host:1/ns/a:v1", "host:1/ns/a:v2"),
        ("docker://host:1/ns/a:v1", "other/ns/a:v1"),
        (f"docker://host:1/ns/a@{INDEX}", "host:1/ns/a:latest"),
        ("docker-daemon:ns/a:v1", "host:1/ns/a:v1"),
    ],
)
def test_other_rules_are_left_as_they_are(tmp_path, name, scope):
    found = of_host(tmp_path, {scope: REJECT}, name)
    assert rules(found) == {scope: REJECT}


@pytest.mark.parametrize(
    ("name", "scope"),
    [
        ("docker://a:v1", "host.test/library/a:v1"),
        ("docker://ns/a:v1", "host.test/ns/a:v1"),
        ("docker://index.host.test/a:v1", "host.test/library/a:v1"),
        ("docker://host.test/a:v1", "host.test/library/a:v1"),
    ],
)
def test_a_rule_that_may_be_about_the_image_is_not_passed_over(tmp_path, name, scope):
    with pytest.raises(BollardError, match=f"has a rule for {scope}, which may be the same image"):
        of_host(tmp_path, {scope: REJECT}, name)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"transports": 5}', '{"default": [], "default": []}', "[" * 100_000])
def test_what_is_no_policy(tmp_path, text):
    with pytest.raises(BollardError, match=r"policy\.json: is not a usable policy: ."):
        of_host(tmp_path, text, "docker://host:1/a")


def test_an_acceptance_is_of_one_policy_and_one_image(tmp_path):
    name = reference.parse("docker://host:1/a:v1")
    first = of_host(tmp_path, {"x": ACCEPT}, name.uri)
    with cache.opened({"BOLLARD_CACHEDIR": str(tmp_path / "cache"), "HOME": str(tmp_path)}) as store:
        assert not skopeo_policy.is_accepted(first, name, DIGEST, store)
        skopeo_policy.accept(first, name, DIGEST, store)
        assert skopeo_policy.is_accepted(first, name, DIGEST, store)
        assert not skopeo_policy.is_accepted(first, name, INDEX, store)
        assert not skopeo_policy.is_accepted(first, reference.parse("docker://host:1/b:v1"), DIGEST, store)
        assert not skopeo_policy.is_accepted(of_host(tmp_path, {"y": ACCEPT}, name.uri), name, DIGEST, store)
        assert skopeo_policy.is_accepted(skopeo_policy.Policy("", b"{}"), name, DIGEST, store)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (
            "Source image rejected: Running image docker://h/a@sha256:1 is rejected by policy.",
            "docker://h/a: refused by the policy in /p",
        ),
        (
            "copying system image from manifest list: Source image rejected: A signature was required, but none exists",
            "docker://h/a: refused by the policy in /p: A signature was required, but none exists",
        ),
        (
            'Error loading trust policy: invalid policy in "/tmp/x": Unknown key "defaul"',
            '/p: is not a usable policy: Unknown key "defaul"',
        ),
    ],
)
def test_what_skopeo_says_of_a_policy(said, message):
    found = skopeo_policy.refused(skopeo_policy.Policy("/p", b""), reference.parse("docker://h/a"), said)
    assert found is not None and found.message == message and found.hint


def test_what_is_not_about_the_policy():
    assert (
        skopeo_policy.refused(skopeo_policy.Policy("/p", b""), reference.parse("docker://h/a"), "manifest unknown")
        is None
    )
