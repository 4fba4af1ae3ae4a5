# SPDX-License-Identifier: BSD-3-Clause
"""Transfers of flows: servers that stall, cut off and lie; s3, by rclone, from a server on this machine."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import serving

from bollard.runtime.errors import BollardError
from bollard.runtime.flow import known_hosts, transfer

DATA = os.urandom(300_000)
DIGEST = f"sha256:{hashlib.sha256(DATA).hexdigest()}"


class _Handler(http.server.BaseHTTPRequestHandler):
    """/good; /cut sends half; /stall sends half and then nothing; /once fails at first; /login wants a password."""

    asked: dict[str, int] = {}

    def do_GET(self) -> None:
        count = self.asked[self.path] = self.asked.get(self.path, 0) + 1
        if self.path == "/once" and count == 1:
            self.send_error(503)
            return
        if self.path == "/login" and self.headers["Authorization"] != "Basic dTpw":
            self.send_error(401)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(DATA)))
        self.end_headers()
        if self.path in ("/cut", "/stall"):
            self.wfile.write(DATA[: len(DATA) // 2])
            self.wfile.flush()
            if self.path == "/stall":
                time.sleep(8)
            return
        self.wfile.write(DATA)

    def log_message(self, *words: object) -> None:
        return


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    made.daemon_threads = True
    with serving(made):
        yield f"http://127.0.0.1:{made.server_address[1]}"


class Place:
    """A flow's directory with one volume, and alice's secrets."""

    def __init__(self, top: Path) -> None:
        self.top, self.volume, self.secrets = top, top / "volume", top / "config/bollard/secrets"
        self.volume.mkdir()
        self.secrets.mkdir(parents=True)

    def secret(self, name: str, **keys: str) -> None:
        path = self.secrets / name
        path.write_text("".join(f"{key.replace('_', '-')}: {value}\n" for key, value in keys.items()))
        path.chmod(0o600)

    def run(self, way: str, uri: str, path: str, **more: Any) -> None:
        move = {"uri": uri, "path": path, "secret": "", "digest": "", "timeout": 20, "attempts": 1, **more}
        moves = {f"v.{way}": {"volume": str(self.volume), "moves": [move]}}
        plan = {"generation": 1, "jobs": [], "moves": moves, "texts": {}}
        (self.top / "plan.json").write_text(json.dumps(plan))
        transfer.run(self.top, f"v.{way}")

    def files(self) -> list[str]:
        return sorted(str(path.relative_to(self.volume)) for path in self.volume.rglob("*") if path.is_file())


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return Place(tmp_path)


def test_a_file_of_a_web_server(place: Place, server: str) -> None:
    place.run("in", f"{server}/good", "in/a", digest=DIGEST)
    place.run("in", f"{server}/good?x=1", "web/")
    place.run("in", f"{server}/once", "b", attempts=2)
    place.secret("web", username="u", password="p")
    place.run("in", f"{server}/login", "c", secret="web")

    assert place.files() == ["b", "c", "in/a", "web/good"]
    assert (place.volume / "in/a").read_bytes() == DATA


@pytest.mark.parametrize(
    ("path", "more", "message"),
    [
        ("cut", {}, "300000 expected|more expected|IncompleteRead"),
        ("stall", {"timeout": 2}, "it took longer than 2 s"),
        ("good", {"digest": f"sha256:{'0' * 64}"}, "its digest is sha256:"),
        ("login", {}, "answers 401"),
    ],
)
def test_a_server_that_is_not_as_it_should_be(
    place: Place, server: str, path: str, more: dict[str, Any], message: str
) -> None:
    with pytest.raises(BollardError, match=message):
        place.run("in", f"{server}/{path}", "a", **more)

    assert not place.files()


def test_nobody_listens(place: Place) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(BollardError, match="refused"):
        place.run("in", f"http://127.0.0.1:{port}/a", "a")


def test_a_link_does_not_lead_out_of_the_volume(place: Place, tmp_path: Path) -> None:
    (place.volume / "out").symlink_to(tmp_path)
    for way in ("in", "out"):
        with pytest.raises(BollardError, match="leads out of the volume"):
            place.run(way, f"file://{tmp_path}/plan.json", "out/plan.json")


def test_files_and_directories(place: Place, tmp_path: Path) -> None:
    (place.volume / "d/e").mkdir(parents=True)
    (place.volume / "d/e/f").write_text("x")
    place.run("out", f"file://{tmp_path}/copy", "d")
    assert (tmp_path / "copy/e/f").read_text() == "x"
    with pytest.raises(BollardError, match="is not in the volume"):
        place.run("out", f"file://{tmp_path}/copy", "none")


def test_a_volume_that_others_could_exchange(place: Place, tmp_path: Path) -> None:
    place.volume.chmod(0o777)
    with pytest.raises(BollardError, match="volume: others may write into it"):
        place.run("in", f"file://{tmp_path}/plan.json", "a")
    place.volume.chmod(0o755)
    place.run("in", f"file://{tmp_path}/plan.json", "a")
    place.volume.rename(tmp_path / "kept")
    place.volume.symlink_to("kept")
    with pytest.raises(BollardError, match="volume: is a link or a file"):
        place.run("in", f"file://{tmp_path}/plan.json", "b")
    assert os.listdir(tmp_path / "kept") == ["a"]


def test_a_planted_link_is_not_written_through(place: Place, tmp_path: Path) -> None:
    shared, victim = tmp_path / "shared", tmp_path / "victim"
    (place.volume / "d/e").mkdir(parents=True)
    (place.volume / "d/e/f").write_text("result")
    (place.volume / "d/link").symlink_to("e/f")
    (shared / "tree/e").mkdir(parents=True)
    victim.mkdir()
    (victim / "file").write_text("x")
    uri = f"file://{shared}"

    # A file: its name, and the name that it has while it is copied.
    for name in ("result", f"result.part-{os.getpid()}", "tree/e/f"):
        (shared / name).symlink_to(victim / "file")
    place.run("out", f"{uri}/result", "d/e/f")
    place.run("out", f"{uri}/tree", "d")
    place.run("out", f"{uri}/tree", "d")
    assert (victim / "file").read_text() == "x" and not (shared / "result").is_symlink()
    assert [(shared / name).read_text() for name in ("result", "tree/e/f", "tree/link")] == ["result"] * 3
    assert os.readlink(shared / "tree/link") == "e/f"

    # A directory, and one in it.
    (shared / "outer").symlink_to(victim)
    (shared / "inner").mkdir()
    (shared / "inner/e").symlink_to(victim)
    for name, place_of_link in (("outer", "outer"), ("inner", "inner/e")):
        with pytest.raises(BollardError, match=f"{shared}/{place_of_link}: is a link or a file, where a directory"):
            place.run("out", f"{uri}/{name}", "d")
    assert os.listdir(victim) == ["file"]
    assert not [name for name in os.listdir(shared) if name.startswith(".")]


def test_a_copy_keeps_modes_and_times(place: Place, tmp_path: Path) -> None:
    (place.volume / "d/e").mkdir(parents=True)
    (place.volume / "d/e/run").write_text("x")
    (place.volume / "d/e/run").chmod(0o750)
    os.utime(place.volume / "d/e/run", (1_000_000_000, 1_000_000_000))
    (place.volume / "d/e").chmod(0o710)
    place.run("out", f"file://{tmp_path}/copy", "d")
    place.run("out", f"file://{tmp_path}/into/", "d/e/run")
    assert (tmp_path / "copy/e").stat().st_mode & 0o777 == 0o710
    info = (tmp_path / "copy/e/run").stat()
    assert (info.st_mode & 0o777, info.st_mtime) == (0o750, 1_000_000_000)
    assert (tmp_path / "into/run").read_text() == "x"
    os.mkfifo(place.volume / "d/e/fifo")
    with pytest.raises(BollardError, match="e/fifo: is neither a file"):
        place.run("out", f"file://{tmp_path}/copy", "d")


def test_a_secret_goes_to_no_other_machine_unencrypted(
    place: Place, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.secret("web", username="u", password="p")
    place.secret("s3", access_key="key", secret_key="very-secret-key", endpoint="http://192.0.2.1")
    for uri, name in (("http://192.0.2.1/a", "web"), ("ftp://192.0.2.1/a", "web"), ("s3://bucket/a", "s3")):
        with pytest.raises(BollardError, match="would send the secret unencrypted"):
            place.run("in", uri, "a", secret=name)

    # Nor to a proxy, which an address of this node would reach without no_proxy.
    monkeypatch.delenv("no_proxy")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    place.run("in", f"{server}/login", "a", secret="web")
    with pytest.raises(BollardError, match="refused"):
        place.run("in", f"{server}/good", "b")


@pytest.fixture
def sftp(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """An sftp server with a file: its address, and its line for known_hosts."""
    (tmp_path / "served").mkdir()
    (tmp_path / "served/a").write_bytes(DATA)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "host"], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [
            "rclone", "serve", "sftp", "--config=", f"--addr=127.0.0.1:{port}", "--user=u", "--pass=p",
            f"--key={tmp_path}/host", f"{tmp_path}/served",
        ],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        end = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5):
                break
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.1)
        kind, key = (tmp_path / "host.pub").read_text().split()[:2]
        yield f"sftp://127.0.0.1:{port}", f"[127.0.0.1]:{port} {kind} {key}\n"
    finally:
        process.terminate()
        process.wait(20)


def test_an_sftp_server_has_to_have_its_key(
    place: Place, sftp: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, line = sftp
    own, sites = tmp_path / "own", tmp_path / "sites"
    monkeypatch.setattr(known_hosts, "FILES", (str(own), str(sites)))
    monkeypatch.setenv("RCLONE_SFTP_KNOWN_HOSTS_FILE", "")
    place.secret("sftp", username="u", password="p")
    with pytest.raises(BollardError, match=f"neither {own} nor {sites} exists"):
        place.run("in", f"{uri}/a", "a", secret="sftp")

    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "other"], check=True)
    other = (tmp_path / "other.pub").read_text().split()[1]
    sites.write_text(line.replace(line.split()[2], other))
    with pytest.raises(BollardError, match="host key is not trusted: key mismatch"):  # 10 s: rclone tries 10 times
        place.run("in", f"{uri}/a", "a", secret="sftp")
    assert not place.files()

    own.write_text("# the user's\n")
    sites.write_text(line)
    place.run("in", f"{uri}/a", "a", secret="sftp", digest=DIGEST)
    assert place.files() == ["a"]


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """A server that speaks s3, with a bucket."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        address = f"http://127.0.0.1:{port}"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        end = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError):
                opener.open(urllib.request.Request(f"{address}/bucket", method="PUT"), timeout=10).close()
                break
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.wait(20)


def test_s3(place: Place, s3: str, capsys: pytest.CaptureFixture[str]) -> None:
    place.secret("s3", access_key="key", secret_key="very-secret-key", region="us-east-1", endpoint=s3)
    (place.volume / "tree/inner").mkdir(parents=True)
    (place.volume / "tree/inner/a").write_bytes(DATA)
    (place.volume / "one").write_bytes(DATA)
    place.run("out", "s3://bucket/x/one", "one", secret="s3", digest=DIGEST)
    place.run("out", "s3://bucket/tree", "tree", secret="s3")
    place.run("in", "s3://bucket/x/one", "back/one", secret="s3", digest=DIGEST)
    place.run("in", "s3://bucket/tree", "again/", secret="s3")

    assert place.files() == ["again/inner/a", "back/one", "one", "tree/inner/a"]
    assert (place.volume / "again/inner/a").read_bytes() == DATA
    for uri, more, message in (
        ("s3://bucket/x/one", {"digest": f"sha256:{'0' * 64}"}, "its digest is"),
        ("s3://bucket/none", {}, "s3://bucket/none: "),
        ("s3://none/none", {}, "s3://none/none: "),
    ):
        with pytest.raises(BollardError, match=message) as caught:
            place.run("in", uri, "new", secret="s3", **more)
        assert "very-secret-key" not in str(caught.value)
    assert "new" not in place.files()
    assert "very-secret-key" not in "".join(capsys.readouterr())
