# SPDX-License-Identifier: BSD-3-Clause
"""Images that cosign has signed with a plain key. The documents are written here, as cosign 2 and 3 write them."""

from __future__ import annotations

import base64
import http.server
import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import servers
from building import Builder
from fetcher import Fetcher, words_of
from servers import Registry

from bollard.runtime.trust import cosign, dsse

SIMPLE = "application/vnd.dev.cosign.simplesigning.v1+json"
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
INDEX = "application/vnd.oci.image.index.v1+json"
KIND = ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")  # as cosign makes keys


class Signer:
    """A pair of keys, made and used by openssl."""

    def __init__(self, folder: Path, *kind: str) -> None:
        folder.mkdir()
        self.private, self.public = folder / "cosign.key", folder / "cosign.pub"
        subprocess.run(["openssl", "genpkey", *kind, "-out", self.private], check=True, capture_output=True)
        subprocess.run(["openssl", "pkey", "-in", self.private, "-pubout", "-out", self.public], check=True)
        folder.chmod(0o755)
        self.public.chmod(0o644)

    def sign(self, data: bytes) -> str:
        argv = ["openssl", "dgst", "-sha256", "-sign", str(self.private)]
        return base64.b64encode(subprocess.run(argv, input=data, capture_output=True, check=True).stdout).decode()


def simple(
    digest: str, kind: str = "cosign container image signature", repository: str = "127.0.0.1:1/tiny/one"
) -> bytes:
    critical = {"identity": {"docker-reference": repository}, "image": {"docker-manifest-digest": digest}, "type": kind}
    return json.dumps({"critical": critical, "optional": None}).encode()


def attach(registry: Registry, digest: str, documents: list[tuple[bytes, str]], name: str = "tiny/one") -> None:
    """Put documents of simple signing and their signatures beside an image."""
    layers = [{**servers.entry(data, SIMPLE), "annotations": {"dev.cosignproject.cosign/signature": made}}
              for data, made in documents]  # fmt: skip
    registry.put(name, f"{digest.replace(':', '-')}.sig", layers, [data for data, _ in documents])


def bundle(signer: Signer, digest: str, predicate: str = "https://sigstore.dev/cosign/sign/v1") -> bytes:
    kind = "application/vnd.in-toto+json"
    statement = {
        "_type": "https://in-toto.io/Statement/v1", "predicateType": predicate, "predicate": {},
        "subject": [{"digest": {"sha256": digest.partition(":")[2]}}],
    }  # fmt: skip
    payload = json.dumps(statement).encode()
    made = signer.sign(b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(payload), payload))
    envelope = {"payload": base64.b64encode(payload).decode(), "payloadType": kind, "signatures": [{"sig": made}]}
    material = {"publicKey": {"hint": "x"}, "tlogEntries": []}
    return json.dumps({"mediaType": BUNDLE, "verificationMaterial": material, "dsseEnvelope": envelope}).encode()


def attach_bundle(registry: Registry, digest: str, text: bytes) -> None:
    """Put a bundle beside an image, for a registry without a list of referrers."""
    other = registry.put("tiny/one", "bundle", [servers.entry(text, BUNDLE)], [text])
    listed: dict[str, Any] = {"mediaType": servers.OCI_MANIFEST, "digest": other, "size": 1,
                              "artifactType": "application/vnd.oci.empty.v1+json"}  # fmt: skip
    index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [listed]}).encode()
    # The size is that of the manifest; a registry checks only that the manifest is there.
    registry._request("PUT", f"/v2/tiny/one/manifests/{digest.replace(':', '-')}", index, INDEX)


@pytest.fixture(scope="module")
def signer(builder: Builder) -> Signer:
    return Signer(builder.work.parent / "signer", *KIND)


@pytest.fixture(scope="module")
def stranger(builder: Builder) -> Signer:
    return Signer(builder.work.parent / "stranger", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048")


@pytest.fixture
def image(builder: Builder, program: str, layouts: dict[str, Path], fetcher: Fetcher) -> Iterator[tuple[Registry, str]]:
    """A registry with one image, and the digest of its manifest."""
    with servers.registry(program, builder.work.parent / f"cosign-{fetcher.path.name}") as found:
        yield found, found.push(layouts["one"], "tiny/one:v1")


@pytest.mark.parametrize("new", [False, True], ids=["simple signing", "bundle"])
def test_signed(
    fetcher: Fetcher, image: tuple[Registry, str], signer: Signer, layouts: dict[str, Path], new: bool
) -> None:
    registry, digest = image
    uri = f"docker://{registry.host}/tiny/one:v1"
    if new:
        attach_bundle(registry, digest, bundle(signer, digest))
    else:
        text = simple(digest, repository=f"{registry.host}/tiny/one")
        attach(registry, digest, [(text, signer.sign(text))])
    pinned = f"docker://{registry.host}/tiny/one@{digest}"
    said = fetcher.done("verify", "--no-https", "--key", signer.public, uri)
    assert said.startswith(f"{pinned}\nis signed with the key SHA256:"), said
    told = json.loads(fetcher.done("verify", "--json", "--no-https", "--key", signer.public, uri))
    assert (told["image"], told["signatures"]) == (pinned, 1)
    fetcher.done("pull", "--no-https", "--key", signer.public, "a.sif", uri)
    assert words_of(fetcher.path / "a.sif") == "one"
    registry.push(layouts["two"], "tiny/one:v1")  # the tag moves to an image that nobody has signed
    assert "has no signature of cosign for sha256:" in fetcher.refused(
        "pull", "--no-https", "--key", signer.public, "b.sif", uri
    )
    assert not (fetcher.path / "b.sif").exists()
    assert fetcher.done("verify", "--no-https", "--key", signer.public, pinned).startswith(pinned)


Attach = Callable[[Registry, str, Signer, Signer], None]


def _by_stranger(registry: Registry, digest: str, signer: Signer, stranger: Signer) -> None:
    text = simple(digest)
    attach(registry, digest, [(text, stranger.sign(text))])


def _attestation(registry: Registry, digest: str, signer: Signer, stranger: Signer) -> None:
    attach_bundle(registry, digest, bundle(signer, digest, "https://slsa.dev/provenance/v1"))


def _of_another_repository(registry: Registry, digest: str, signer: Signer, stranger: Signer) -> None:
    text = simple(digest, repository="registry.example/other/one")
    attach(registry, digest, [(text, signer.sign(text))])


def _too_large(registry: Registry, digest: str, signer: Signer, stranger: Signer) -> None:
    text, filler = simple(digest, repository=f"{registry.host}/tiny/one"), bytes(9 << 20)
    notes = {"dev.cosignproject.cosign/signature": signer.sign(text)}
    layers = [{**servers.entry(text, SIMPLE), "annotations": notes}, servers.entry(filler, "application/x")]
    registry.put("tiny/one", f"{digest.replace(':', '-')}.sig", layers, [text, filler])


@pytest.mark.parametrize(
    ("put", "line"),
    [
        (lambda *_: None, "has no signature of cosign for sha256:"),
        (_by_stranger, "none of 1 signatures is good: another key has signed it"),
        (_of_another_repository, "it is about registry.example/other/one, not "),
        (_too_large, "names more than 8388608 bytes"),
        (_attestation, "it is an attestation, not a signature of the image"),
    ],
)
def test_refused(
    fetcher: Fetcher, image: tuple[Registry, str], signer: Signer, stranger: Signer, put: Attach, line: str
) -> None:
    registry, digest = image
    put(registry, digest, signer, stranger)
    uri = f"docker://{registry.host}/tiny/one:v1"
    said = fetcher.refused("verify", "--no-https", "--key", signer.public, uri)
    assert said.startswith(f"{uri}: ") and line in said, said


class Referring(http.server.ThreadingHTTPServer):
    """A registry with a list of referrers, before one without: it passes on what it is asked for else.

    entries: pages of the list. faults: answers of the list's address instead of it, one for each request.
    realm: where to get a token; "" if none is needed.
    """

    daemon_threads = True

    def __init__(self, behind: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind = behind
        self.pages: list[list[dict[str, Any]]] = []
        self.fault: tuple[int, bytes, dict[str, str]] | None = None
        self.realm = ""
        self.logins: list[tuple[str, str]] = []  # path and authorization of each request

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Referring

    def do_GET(self) -> None:
        given = self.headers.get("Authorization", "")
        self.server.logins.append((self.path, given))
        if self.path.startswith("/token?"):
            return self._send(200, json.dumps({"token": "a-token"}).encode())
        if self.server.realm and given != "Bearer a-token":
            scope = 'service="stub",scope="repository:tiny/one:pull"'
            return self._send(401, b"{}", {"WWW-Authenticate": f'Bearer realm="{self.server.realm}",{scope}'})
        if "/referrers/" in self.path:
            return self._referrers()
        request = urllib.request.Request(f"http://{self.server.behind}{self.path}", method=self.command)
        request.add_header("Accept", self.headers.get("Accept", "*/*"))
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            answer = direct.open(request, timeout=60)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            names = ("Content-Type", "Content-Length", "Docker-Content-Digest")
            self._send(answer.status, answer.read(), {name: answer.headers[name] or "" for name in names})

    do_HEAD = do_GET

    def _referrers(self) -> None:
        if self.server.fault:
            return self._send(*self.server.fault)
        path, _, page = self.path.partition("?page=")
        number = int(page or 0)
        more = {"Link": f'<{path}?page={number + 1}>; rel="next"'} if number + 1 < len(self.server.pages) else {}
        document = {"schemaVersion": 2, "mediaType": INDEX, "manifests": self.server.pages[number]}
        self._send(200, json.dumps(document).encode(), {"Content-Type": INDEX, **more})

    def _send(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def referring(image: tuple[Registry, str]) -> Iterator[Referring]:
    server = Referring(image[0].host)
    with servers.serving(server):
        yield server


def refer(registry: Registry, text: bytes) -> dict[str, Any]:
    """Put a bundle into the registry; return what a list of referrers has of it."""
    other = registry.put("tiny/one", "bundle", [servers.entry(text, BUNDLE)], [text])
    return {"mediaType": servers.OCI_MANIFEST, "digest": other, "size": 1, "artifactType": BUNDLE}


@pytest.mark.parametrize("login", ["", "none", "password"])
def test_a_list_of_referrers(
    fetcher: Fetcher, image: tuple[Registry, str], referring: Referring, signer: Signer, stranger: Signer, login: str
) -> None:
    """Its second page has the signature; the first has one by another key. The token's server gets the password."""
    registry, digest = image
    others = [bundle(signer, digest, "https://slsa.dev/provenance/v1"), bundle(stranger, digest)]
    referring.pages = [[refer(registry, text) for text in others], [refer(registry, bundle(signer, digest))]]
    referring.realm = f"http://{referring.host}/token" if login else ""
    secret = {"BOLLARD_DOCKER_USERNAME": "alice", "BOLLARD_DOCKER_PASSWORD": "hush"} if login == "password" else {}
    uri = f"docker://{referring.host}/tiny/one:v1"
    said = fetcher.done("verify", "--no-https", "--key", signer.public, uri, **secret)
    assert said.startswith(f"docker://{referring.host}/tiny/one@{digest}\n"), said
    basic = f"Basic {base64.b64encode(b'alice:hush').decode()}"
    sent = {given for path, given in referring.logins if path.startswith("/token?")}
    assert sent == ({basic} if secret else {""} if login else set())
    assert all(given != basic for path, given in referring.logins if not path.startswith("/token?"))


@pytest.mark.parametrize(
    ("status", "data", "headers", "line"),
    [
        (404, b"", {}, "has no signature of cosign for sha256:"),
        (500, b"", {}, "its list of referrers: HOST answers 500"),
        (403, b"", {}, "its list of referrers needs a login"),
        (200, b"[]", {}, "its list of referrers is not an index"),
        (200, b"[" * 100000, {}, "its list of referrers is not an index"),
        (200, b'{"manifests": [{"digest": "md5:x"}]}', {}, "is no SHA-256 digest"),
        (200, b'{"manifests": [{"digest": "sha256:%s"}]}' % (b"7" * 64), {}, "no such image"),
        (200, b'{"manifests": []}', {"Link": '<http://127.0.0.1:1/next>; rel="next"'}, "goes on elsewhere"),
        (200, b'{"manifests": []}', {"Link": '</next>; rel="next"'}, "its list of referrers: HOST answers 404"),
        (307, b"", {"Location": "file:///etc/passwd"}, "307"),
        (401, b"", {"WWW-Authenticate": "Negotiate"}, "wants a login of an unknown kind, Negotiate"),
        (401, b"", {"WWW-Authenticate": 'Bearer realm="file:///etc/passwd"'}, "wants a login of an unknown kind"),
        (401, b"", {"WWW-Authenticate": 'Basic realm="stub"'}, "its list of referrers needs a login"),
        (200, bytes(5 << 20), {}, "sends over 4194304 bytes"),
    ],
)  # fmt: skip
def test_a_faulty_list_of_referrers(
    fetcher: Fetcher, referring: Referring, signer: Signer, status: int, data: bytes, headers: dict[str, str], line: str
) -> None:
    referring.fault = status, data, headers
    uri = f"docker://{referring.host}/tiny/one:v1"
    said = fetcher.refused("verify", "--no-https", "--key", signer.public, uri)
    assert said.startswith(f"{uri}: has no signature of cosign") and line.replace("HOST", referring.host) in said, said


OTHER = f"sha256:{'5' * 64}"


@pytest.mark.parametrize(
    ("text", "change", "fault"),
    [
        (simple(OTHER), str, ""),
        (simple(OTHER), lambda made: f"*{made}", "its signature is not base64"),
        (simple(OTHER), lambda made: base64.b64encode(b"x").decode(), "another key has signed it"),
        (simple(f"sha256:{'6' * 64}"), str, "it is about another image"),
        (simple(OTHER, "atomic container signature"), str, "it is not a signature of an image"),
        (b"[]", str, "it is no document of simple signing"),
        (b"[" * 100000, str, "it is no document of simple signing"),
    ],
)  # fmt: skip
def test_documents(signer: Signer, text: bytes, change: Callable[[str], str], fault: str) -> None:
    key = dsse.public_key(str(signer.public))
    assert cosign.fault_of_simple(text, change(signer.sign(text)), key, OTHER) == fault


def test_bundles(signer: Signer, stranger: Signer) -> None:
    key = dsse.public_key(str(signer.public))
    two = json.loads(bundle(signer, OTHER))
    two["dsseEnvelope"]["signatures"] += json.loads(bundle(stranger, OTHER))["dsseEnvelope"]["signatures"]
    for text, fault in (
        (bundle(signer, OTHER), ""),
        (json.dumps(two).encode(), "it is no bundle of one signature"),
        (bundle(signer, f"sha256:{'6' * 64}"), "it is about another image"),
        (bundle(stranger, OTHER), "another key has signed it"),
        (bundle(signer, OTHER).replace(b"in-toto", b"in_toto"), "it is no bundle of one signature"),
        (b'{"dsseEnvelope": []}', "it is no bundle with an envelope"),
        (b"x", "it is no bundle with an envelope"),
    ):
        assert cosign.fault_of_bundle(text, key, OTHER) == fault


def test_wrong_use(fetcher: Fetcher, signer: Signer) -> None:
    assert "by which key?" in fetcher.refused("verify", "docker://127.0.0.1:1/x:v1")
    said = fetcher.refused("verify", "--sif-id=1", "--key", signer.public, "docker://127.0.0.1:1/x:v1")
    assert "--sif-id: is about SIF files" in said
    assert "holds no public key" in fetcher.refused("verify", "--key", "/etc/hostname", "docker://127.0.0.1:1/x:v1")
    said = fetcher.refused("pull", "--key", signer.public, "https://127.0.0.1:1/x.sif")
    assert "cosign signs images of registries" in said
