# SPDX-License-Identifier: BSD-3-Clause
"""Endpoints in remote.yaml, and a library on 127.0.0.1 that takes pushes and does wrong when it is told to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import endpoint
import pytest
import servers
import yaml
from endpoint import PASSWORD, TOKEN, Endpoint, Fault
from fetcher import Fetcher
from servers import ARCH
from test_login import User

from bollard.runtime.errors import BollardError
from bollard.runtime.fetch import cache, library, reference, sources

DIRECT = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
REF = "library://alice/tools/app"


@pytest.fixture
def site() -> Iterator[Endpoint]:
    with endpoint.endpoint() as found:
        yield found


@pytest.fixture
def user(fetcher: Fetcher, sif_file: bytes) -> User:
    (fetcher.path / "img.sif").write_bytes(sif_file)
    return User(*fetcher)


def log_in(user: User, site: Endpoint) -> None:
    assert user.run("remote", "add", "-i", "--no-login", "own", f"http://{site.host}", **DIRECT) == (0, "", "")
    status, out, err = user.said(f"{TOKEN}\n", "remote", "login", "--password-stdin", "own", **DIRECT)
    assert (status, out, err) == (0, "", "")


def kept(user: User) -> dict[str, object]:
    path = user.path / ".apptainer/remote.yaml"
    assert path.stat().st_mode & 0o777 == 0o600
    found: dict[str, object] = yaml.safe_load(path.read_text())
    return found


def test_the_life_of_an_endpoint(user: User, site: Endpoint) -> None:
    log_in(user, site)
    own = {"URI": site.host, "Token": TOKEN, "System": False, "Exclusive": False, "Insecure": True}
    assert kept(user) == {"Active": "own", "Remotes": {"own": own}}
    user.done("remote", "add", "--no-login", "--no-default", "other", "https://cloud.example/x/")
    lines = user.done("remote", "list").splitlines()
    assert lines[1].split() == ["NAME", "URI", "DEFAULT?", "GLOBAL?", "EXCLUSIVE?", "SECURE?"]
    assert [line.split() for line in lines[2:]] == [["other", "cloud.example/x", "✓"], ["own", site.host, "✓", "✗!"]]
    assert [item["active"] for item in json.loads(user.done("remote", "list", "--json"))] == [False, True]
    status = user.done("remote", "status", **DIRECT)
    assert status.split("\n")[0].split() == ["SERVICE", "STATUS", "VERSION", "URI"]
    assert [line.split()[:3] for line in status.split("\n")[1:4]] == [
        [name, "OK", "v1"] for name in ("Keyserver", "Library", "Token")
    ]
    assert status.endswith("\nValid authentication token set (logged in).\n")
    assert user.done("remote", "get-login-password", **DIRECT) == f"{PASSWORD}\n"
    user.done("remote", "use", "other")
    user.done("remote", "logout", "own")
    assert kept(user)["Active"] == "other"
    assert "(logged out)" in user.done("remote", "status", "own", **DIRECT)
    user.done("remote", "remove", "other")
    user.done("remote", "remove", "own")
    assert kept(user) == {"Active": "", "Remotes": {}}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("use", "none"), "none is not a remote; known are none"),
        (("remove", "none"), "none is not a remote"),
        (("login", "none"), "none is not a remote"),
        (("status",), "no default remote is set"),
        (("add", "a", "http://x"), "http://x: http URI requires --insecure"),
        (("add", "a"), "remote add takes 2 words, not 1"),
        (("add", "a", ""), "is not a name and an address"),
        (("add", "-g", "a", "b"), "only root changes it"),
        (("use", "--exclusive", "a"), "only root changes it"),
        (("add-keyserver", "https://keys.example"), "not root user"),
        (("login", "-p", "x", "a"), "none is not a remote"),
    ],
)
def test_mistakes(user: User, words: tuple[str, ...], line: str) -> None:
    found = user.refused("remote", *words)
    assert line in found or words[0] == "login" and "is not a remote" in found


def test_a_key_that_apptainer_does_not_know_is_refused(user: User) -> None:
    path = user.place(".apptainer/remote.yaml", "Active: a\nRemotes:\n  a: {URI: x, Colour: red}\n")
    before = path.read_bytes()
    for words in (("list",), ("add", "--no-login", "b", "x.example")):
        assert "Remotes.a: no key is called 'Colour'" in user.refused("remote", *words)
    assert path.read_bytes() == before


def test_a_token_that_the_endpoint_refuses_is_not_kept(user: User, site: Endpoint) -> None:
    user.done("remote", "add", "-i", "--no-login", "own", f"http://{site.host}")
    status, _, err = user.said("bad\n", "remote", "login", "--password-stdin", **DIRECT)
    assert status == 255 and err.count("\n") == 1 and "bad" not in err
    token = user.place("t/token", "bad token\n")
    assert "that is no token" in user.refused("remote", "login", "--tokenfile", token, **DIRECT)
    assert "Token" not in (user.path / ".apptainer/remote.yaml").read_text()
    token.write_text(f"{TOKEN}\n")
    user.done("remote", "login", "--tokenfile", token, **DIRECT)
    assert TOKEN in (user.path / ".apptainer/remote.yaml").read_text()


def test_push_and_pull(user: User, site: Endpoint, sif_file: bytes) -> None:
    log_in(user, site)
    status, out, err = user.run("push", "-U", "-D", "mine", "img.sif", f"{REF}:v1,stable", **DIRECT)
    assert status == 0 and err == "bollard: warning: skipping container verification\n", err
    assert "Library storage: using" in out
    (number,) = site.files
    assert site.files[number] == sif_file and site.objects[number]["description"] == "mine"
    for name in (f"{REF}:stable", f"{REF}:sha256.{hashlib.sha256(sif_file).hexdigest()}"):
        user.done("pull", "-U", "--force", "back.sif", name, **DIRECT)
        assert (user.path / "back.sif").read_bytes() == sif_file
    found = user.done("search", "app", **DIRECT)
    assert found.startswith(f'Found 1 container images for {ARCH} matching "app":\n\n\tlibrary://alice/tools/app:')
    assert "\t\tmine\n" in found
    user.done("delete", "-F", f"{REF}:v1", **DIRECT)
    assert "no such image" in user.refused("pull", "-U", "gone.sif", f"{REF}:v1", **DIRECT)
    tokens = {token for method, path, token in site.requests if not path.startswith(("/store", "/assets"))}
    assert tokens == {f"Bearer {TOKEN}"}


@pytest.fixture
def image(tmp_path: Path, sif_file: bytes, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in {**DIRECT, "BOLLARD_FETCH_TIMEOUT": "1", "HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    path = tmp_path / "img.sif"
    path.write_bytes(sif_file)
    return path


def push(site: Endpoint, image: Path, name: str = f"{REF}:v1") -> None:
    where = library.Place(f"http://{site.host}", TOKEN)
    library.push(reference.parse(name), library.Upload(str(image), ARCH), where)


@pytest.mark.parametrize(("version", "part"), [("2.0.0-alpha.2", 40_000), ("2.0.0", 1 << 30), ("1.0.0", 0)])
def test_versions_of_the_protocol(image: Path, version: str, part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "_PART_FLOOR", 1)
    with endpoint.endpoint(version, part) as site:
        push(site, image)
        (number,) = site.files
        assert site.files[number] == image.read_bytes()
        assert bool([path for path in site.paths() if "_multipart_complete" in path]) is bool(part)
        push(site, image, f"{REF}:v2")
        assert not [path for path in site.paths() if "imagefile" in path], "the file was sent twice"
        assert sorted(key.rpartition(":")[2] for key in site.tags) == ["v1", "v2"]


def test_parts_that_are_not_finished_are_given_up(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "_PART_FLOOR", 1)
    with endpoint.endpoint(part=40_000) as site:
        site.faults["/store"] = Fault(500)
        with pytest.raises(BollardError, match="the server answers 500"):
            push(site, image)
        assert not site.parts and site.paths()[-1].endswith("_multipart_abort")


def test_what_is_not_pushed(user: User, site: Endpoint) -> None:
    line = user.refused("push", "-U", "img.sif", f"{REF}:v1")
    assert "no library is named" in line
    user.done("remote", "add", "-i", "--no-login", "own", f"http://{site.host}")
    line = user.refused("push", "-U", "img.sif", f"{REF}:v1", **DIRECT)
    assert "no authentication token; log in with `bollard remote login`" in line
    log_in_again = user.said(f"{TOKEN}\n", "remote", "login", "--password-stdin", **DIRECT)
    assert log_in_again[0] == 0
    line = user.refused("push", "img.sif", f"{REF}:v1", **DIRECT)
    assert "unable to upload container: unable to verify signature: " in line and "add --allow-unsigned" in line
    assert "is no place for an image" in user.run("push", "-U", "img.sif", "library://app:v1", **DIRECT)[2]
    assert not site.files


def test_the_token_is_sent_to_its_own_library_alone(user: User, site: Endpoint, sif_file: bytes) -> None:
    log_in(user, site)
    with servers.library() as other:
        other.images["alice/tools/app:v1"] = sif_file
        user.done("pull", "-U", "--library", other.url, f"{REF}:v1", **DIRECT)
        line = user.run("push", "-U", "--library", other.url, "img.sif", f"{REF}:v1", **DIRECT)[2]
        assert "no authentication token" in line
        assert not [headers for _, _, headers in other.requests if "Authorization" in headers]


class TestFaults:
    """A library that stalls, ends connections, sends too little or another file, and gives every status."""

    @pytest.mark.parametrize(
        ("place", "fault", "line"),
        [
            ("/v1/entities", Fault(401), "the server refuses your token (401 as the test wants)"),
            ("/v1/entities", Fault(403), "the server refuses your token (403 as the test wants)"),
            ("/v1/containers", Fault(500), "the server answers 500 as the test wants"),
            ("/v1/images", Fault(507), "the server answers 507 as the test wants"),
            ("/v2/tags", Fault(500), "the server answers 500"),
            ("/v1/entities", Fault(429, {"Retry-After": "3600"}), "takes no more requests (429); try again in 3600 s"),
            ("/v2/imagefile", Fault(307, {"Location": "/elsewhere"}), "redirects what is sent (307) to /elsewhere"),
            ("/store", Fault("die"), "the server has ended the connection"),
            ("/store", Fault("stall"), "the server has sent nothing for 1 s"),
            ("/store", Fault(403), "the server wants a login (403)"),
            ("/v2/imagefile", Fault(404), "no such image"),
        ],
    )
    def test_push(self, image: Path, site: Endpoint, place: str, fault: Fault, line: str) -> None:
        site.faults[place] = fault
        with pytest.raises(BollardError) as caught:
            push(site, image)
        assert line in str(caught.value) and TOKEN not in str(caught.value)

    def test_a_pause_that_is_asked_for_is_made(self, image: Path, site: Endpoint) -> None:
        site.faults = {"/v1/entities": Fault(429, {"Retry-After": "1"}, 1), "/store": Fault(503, {}, 1)}
        push(site, image)
        assert len(site.files) == 1

    def test_a_pull_waits_where_it_is_asked_to(self, image: Path, site: Endpoint, tmp_path: Path) -> None:
        push(site, image)
        site.faults["/v1/imagefile"] = Fault(429, {"Retry-After": "1"}, 1)
        asked = sources.Settings(library=f"http://{site.host}")
        with cache.opened({"HOME": str(tmp_path)}) as store:
            path = sources.file(reference.parse(f"{REF}:v1"), asked, store)
            assert Path(path).read_bytes() == image.read_bytes()

    @pytest.mark.parametrize(
        ("fault", "line"),
        [
            (Fault("stall"), "the server has sent nothing for 1 s"),
            (Fault("cut"), "bytes came,"),
            (Fault("short"), "bytes came,"),
            (Fault("bytes"), "its SHA-256 is"),
            (Fault("die"), "the server has ended the connection"),
            (Fault(500), "the server answers 500"),
            (Fault(401), "the server wants a login (401)"),
            (Fault(403), "the server wants a login (403)"),
            (Fault(404), "no such image"),
            (Fault(429, {"Retry-After": "3600"}), "takes no more requests (429); try again in 3600 s"),
            (Fault(302, {"Location": "file:///etc/passwd"}), "file:///etc/passwd, which is no web address"),
            (Fault(304), "the server answers 304"),
        ],
    )
    def test_pull(self, image: Path, site: Endpoint, tmp_path: Path, fault: Fault, line: str) -> None:
        push(site, image)
        site.faults["/v1/imagefile"] = fault
        asked = sources.Settings(library=f"http://{site.host}")
        with cache.opened({"HOME": str(tmp_path)}) as store:
            with pytest.raises(BollardError) as caught:
                sources.file(reference.parse(f"{REF}:v1"), asked, store)
            assert line in str(caught.value)
            assert not list(Path(store.root, "library").iterdir()) and not list(Path(store.root).glob("tmp/fetch-*"))
            site.faults.clear()
            path = sources.file(reference.parse(f"{REF}:v1"), asked, store)
            assert Path(path).read_bytes() == image.read_bytes()
