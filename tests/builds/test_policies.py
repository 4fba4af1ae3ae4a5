# SPDX-License-Identifier: BSD-3-Clause
"""The host's policy of which images may be fetched, with skopeo and Debian's docker-registry on 127.0.0.1."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import servers
from building import USER, Builder
from fetcher import Fetcher, words_of
from servers import Registry

SIF_LAYER = "application/vnd.sylabs.sif.layer.v1.sif"
ACCEPT, REJECT = [{"type": "insecureAcceptAnything"}], [{"type": "reject"}]
# A host without a policy of its own.
HIDDEN = ("sh", "-c", 'mount -t tmpfs none /etc/containers && exec "$@"', "sh")


@pytest.fixture(scope="module")
def registry(builder: Builder, program: str, layouts: dict[str, Path]) -> Iterator[Registry]:
    with servers.registry(program, builder.work.parent / "registry-policies") as found:
        found.push(layouts["one"], "tiny/one:v1")
        found.push(layouts["two"], "tiny/two:v1")
        yield found


def put(fetcher: Fetcher, text: object) -> Path:
    """The user's own policy, which comes before the system's."""
    path = fetcher.path / ".config/containers/policy.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    for place in (path, path.parent, path.parent.parent) if os.geteuid() == 0 else ():
        os.chown(place, USER, USER)
    return path


def scopes(**rules: object) -> dict[str, object]:
    return {"default": ACCEPT, "transports": {"docker": rules}}


def test_an_image_that_is_rejected(fetcher: Fetcher, registry: Registry, installed: str) -> None:
    path = put(fetcher, {"default": REJECT})
    uri = f"docker://{registry.host}/tiny/one:v1"
    line = f"{uri}: refused by the policy in {path}; use an image that the policy accepts"
    assert fetcher.refused("pull", "--no-https", "a.sif", uri).startswith(line)
    assert fetcher.refused("pull", "--no-https", "--disable-cache", "a.sif", uri).startswith(line)
    assert fetcher.refused("build", "--no-https", "a.sif", uri).startswith(line)
    assert fetcher.refused("exec", "--no-https", uri, "true", PYTHONPATH=installed).startswith(line)
    assert not (fetcher.path / "a.sif").exists() and not fetcher.kept("oci-tmp")
    assert not list(Path("/tmp").glob("bollard-policy-*"))


def test_a_signature_that_is_missing(fetcher: Fetcher, registry: Registry) -> None:
    (fetcher.path / "key").write_text("no key")
    rule = [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": str(fetcher.path / "key")}]
    path = put(fetcher, {"default": rule})
    uri = f"docker://{registry.host}/tiny/one:v1"
    line = fetcher.refused("pull", "--no-https", "a.sif", uri)
    assert line.startswith(f"{uri}: refused by the policy in {path}: A signature was required, but no signature exists")


def test_a_signature_that_the_policy_asks_for(fetcher: Fetcher, registry: Registry, tmp_path: Path) -> None:
    """skopeo verifies it, and does not try to copy it to the layout, which can hold none."""
    home, lookaside = tmp_path / "gpg", fetcher.path / "signatures"
    home.mkdir(mode=0o700)
    gpg = ["gpg", "--homedir", str(home), "--batch", "--passphrase", "", "--pinentry-mode", "loopback"]
    try:
        subprocess.run([*gpg, "--quick-generate-key", "lab@example.org", "ed25519", "sign", "never"], check=True)
        key = subprocess.run([*gpg, "--export"], check=True, capture_output=True).stdout
        (fetcher.path / "key").write_bytes(key)
        (fetcher.path / "key").chmod(0o644)
        name = f"{registry.host}/tiny/one"
        manifest = registry.manifest("tiny/one", "v1")
        (tmp_path / "manifest").write_bytes(manifest)
        argv = ["skopeo", "standalone-sign", "-o", str(tmp_path / "signature"), str(tmp_path / "manifest")]
        env = {**os.environ, "GNUPGHOME": str(home)}
        subprocess.run([*argv, f"{name}:v1", "lab@example.org"], check=True, env=env)
    finally:
        subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=False)
    digest = servers.digest(manifest).replace(":", "=")
    (lookaside / f"tiny/one@{digest}").mkdir(parents=True)
    shutil.copy(tmp_path / "signature", lookaside / f"tiny/one@{digest}/signature-1")
    subprocess.run(["chmod", "-R", "a+rX", str(lookaside)], check=True)
    rule = [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": str(fetcher.path / "key")}]
    place = put(fetcher, {"default": REJECT, "transports": {"docker": {registry.host: rule}}})
    (place.parent / "registries.d").mkdir()
    text = f"docker:\n  {registry.host}:\n    lookaside: file://{lookaside}\n"  # containers-registries.d(5)
    (place.parent / "registries.d/lab.yaml").write_text(text)
    fetcher.done("pull", "--no-https", "a.sif", f"docker://{name}:v1")
    assert words_of(fetcher.path / "a.sif") == "one"
    line = fetcher.refused("pull", "--no-https", "b.sif", f"docker://{registry.host}/tiny/two:v1")
    assert "A signature was required, but no signature exists" in line


def test_a_rule_for_signatures_of_cosign_lets_no_unsigned_image_pass(fetcher: Fetcher, registry: Registry) -> None:
    """Debian 12's skopeo is built without sigstore: it refuses every image of such a rule."""
    (fetcher.path / "key").write_text("no key")
    path = put(fetcher, {"default": [{"type": "sigstoreSigned", "keyPath": str(fetcher.path / "key")}]})
    uri = f"docker://{registry.host}/tiny/one:v1"
    line = fetcher.refused("pull", "--no-https", "--disable-cache", "a.sif", uri)
    assert line.startswith(f"{uri}: refused by the policy in {path}: "), line


def test_a_rule_for_one_tag(fetcher: Fetcher, registry: Registry) -> None:
    """Which counts although the image is fetched by its digest."""
    put(fetcher, scopes(**{f"{registry.host}/tiny/one:v1": REJECT}))
    uri = f"docker://{registry.host}/tiny/one:v1"
    assert "refused by the policy" in fetcher.refused("pull", "--no-https", "a.sif", uri)
    fetcher.done("pull", "--no-https", "a.sif", uri.replace("one", "two"))
    put(fetcher, {"default": REJECT, "transports": {"docker": {f"{registry.host}/tiny/one:v1": ACCEPT}}})
    fetcher.done("pull", "--no-https", "b.sif", uri)
    assert "refused by the policy" in fetcher.refused("pull", "--no-https", "c.sif", uri.replace("one", "two"))


def test_what_the_cache_has_is_asked_about_again(
    fetcher: Fetcher, registry: Registry, sif_file: bytes, installed: str
) -> None:
    registry.put("sif/asked", "v1", [servers.entry(sif_file, SIF_LAYER)], [sif_file])
    for uri in (f"docker://{registry.host}/tiny/one:v1", f"oras://{registry.host}/sif/asked:v1"):
        words = ("exec", "--no-https", uri, "cat", "/opt/words")
        put(fetcher, scopes())
        assert fetcher.done(*words, PYTHONPATH=installed) == "one"
        put(fetcher, {"default": REJECT})
        assert "refused by the policy" in fetcher.refused(*words, PYTHONPATH=installed)
        put(fetcher, scopes(other=REJECT))
        assert fetcher.done(*words, PYTHONPATH=installed) == "one"


def test_a_policy_that_is_none(fetcher: Fetcher, registry: Registry) -> None:
    for text in ("{", '{"defaul": []}'):
        path = put(fetcher, text)
        line = fetcher.refused("pull", "--no-https", "a.sif", f"docker://{registry.host}/tiny/one:v1")
        assert line.startswith(f"{path}: is not a usable policy: "), line
        assert "bollard-policy-" not in line


def test_what_is_said(fetcher: Fetcher, registry: Registry) -> None:
    path = put(fetcher, scopes())
    uri = f"docker://{registry.host}/tiny/one:v1"
    said = f"bollard: {uri}: the policy in {path} is asked\n"
    assert fetcher.run("pull", "--no-https", "--disable-cache", "a.sif", uri)[::2] == (0, "")
    assert fetcher.run("pull", "--no-https", "--disable-cache", "-v", "b.sif", uri)[::2] == (0, said)
    assert fetcher.run("-v", "build", "--no-https", "--disable-cache", "c.sif", uri)[::2] == (0, said)


def test_a_host_without_a_policy(fetcher: Fetcher, registry: Registry) -> None:
    own = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    hidden = fetcher.builder._replace(work=fetcher.path, prefix=("unshare", "--mount", *own, *HIDDEN))
    env = {"BOLLARD_CACHEDIR": str(fetcher.path / "cache"), "PYTHONPATH": str(fetcher.builder.work.parent / "lib")}
    uri = f"docker://{registry.host}/tiny/one:v1"
    said = f"bollard: {uri}: accepted: this host has no policy.json\n"
    assert hidden.run("pull", "--no-https", "--disable-cache", "a.sif", uri, **env)[::2] == (0, "")
    assert hidden.run("pull", "--no-https", "--verbose", "b.sif", uri, **env)[::2] == (0, said)
    assert words_of(fetcher.path / "a.sif") == words_of(fetcher.path / "b.sif") == "one"
