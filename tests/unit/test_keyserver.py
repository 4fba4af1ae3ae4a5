# SPDX-License-Identifier: BSD-3-Clause
"""Key servers, good and faulty ones, on 127.0.0.1."""

from __future__ import annotations

import http.server
import threading
import urllib.parse

import pytest
from signed_images import Keys
from test_main import command

from bollard.runtime.errors import BollardError
from bollard.runtime.fetch import keyserver
from bollard.runtime.trust import keyring


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    return Keys(tmp_path_factory.mktemp("keys"))


class Server(http.server.ThreadingHTTPServer):
    """A key server that speaks HKP; `fault` answers in its place."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.keys = {}
        self.fault = None
        self.asked = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.server.asked.append(self.path)
        if self.server.fault:
            self.server.fault(self)
            return
        query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query))
        text = query.get("search", "").upper().removeprefix("0X")
        found = [key for key in self.server.keys.values() if key.fingerprint.endswith(text) or text in key.user.upper()]
        if not found:
            self.send_error(404)
        elif query["op"] == "get":
            self.answer(keyring.armored(b"".join(key.raw for key in found), secret=False))
        else:
            lines = [f"info:1:{len(found)}"]
            for key in found:
                lines += [f"pub:{key.fingerprint}:22:256:{key.created}::", f"uid:{urllib.parse.quote(key.user)}:::"]
            self.answer("\n".join(lines))

    def do_POST(self):
        form = dict(urllib.parse.parse_qsl(self.rfile.read(int(self.headers["Content-Length"])).decode()))
        for key in keyring.split(keyring.dearmored(form["keytext"].encode(), "form")):
            self.server.keys[key.fingerprint] = key
        self.answer("ok")

    def answer(self, text):
        self.send_response(200)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def test_push_search_pull(server, keys, tmp_path):
    """By the command, from one user's keyring to another's."""
    good = keys.public["good"]
    env = {"BOLLARD_KEYSDIR": str(keys.folder), "no_proxy": "127.0.0.1"}
    done = command("key", "push", "--url", server.url, good.fingerprint[-16:], **env)
    assert (done.returncode, done.stderr) == (0, "") and "pushed to server successfully" in done.stdout
    done = command("key", "search", "-l", "--url", server.url, "good@example.org", **env)
    assert done.returncode == 0 and good.fingerprint in done.stdout and "good <good@example.org>" in done.stdout
    env["BOLLARD_KEYSDIR"] = str(tmp_path)
    done = command("key", "pull", good.fingerprint, BOLLARD_KEYSERVER=server.url, **env)
    assert done.returncode == 0, done.stderr
    assert [key.fingerprint for key in keyring.read(str(tmp_path / "pgp-public"))] == [good.fingerprint]
    done = command("key", "pull", good.fingerprint[-8:], "-u", server.url, **env)
    assert done.returncode == 2 and "short key id" in done.stderr


def test_a_revocation_arrives_by_pull(server, keys, tmp_path):
    key, revoked = keys.unrevoked, keys.public["revoked"]
    ring = str(tmp_path / "pgp-public")
    keyring.put(ring, [key])
    server.keys[revoked.fingerprint] = revoked
    done = command("key", "pull", key.fingerprint, "-u", server.url, BOLLARD_KEYSDIR=str(tmp_path), no_proxy="*")
    assert done.returncode == 0, done.stderr
    (found,) = keyring.read(ring)
    assert len(found.raw) > len(key.raw)


def test_a_server_that_sends_another_key_is_refused(server, keys):
    """A server that sends a key with the same last digits, a secret one, or a different one."""
    good, other = keys.public["good"], keys.public["other"]
    for key in (other, keys.secret["good"]):
        server.keys = {good.fingerprint: key}
        server.fault = lambda handler, key=key: handler.answer(keyring.armored(key.raw, secret=False))
        with pytest.raises(BollardError, match="sent another key"):
            keyserver.fetch(server.url, good.fingerprint)


def raw(data):
    def fault(handler):
        handler.wfile.write(data)
        handler.close_connection = True

    return fault


def head(status, *lines):
    return "\r\n".join([f"HTTP/1.0 {status}", *lines, "", ""]).encode()


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (head("401 no"), "wants a login"),
        (head("403 no"), "wants a login"),
        (head("404 no"), "has no key"),
        (head("429 slow", "Retry-After: 7"), r"too many questions \(429\); try again in 7 s"),
        (head("429 slow", "Retry-After: \x1b[31m"), r"try again later"),
        (head("500 \x1b]0;own\x07"), r"answers 500 \\x1b"),
        (head("302 there", "Location: ftp://x/"), "cannot be reached"),
        (head("302 there", "Location: file:///etc/passwd"), "cannot be reached|answers 302"),
        (head("200 ok", "Content-Length: 500") + b"-----BEGIN PGP", "ended 486 bytes too early|cannot be reached"),
        (head("200 ok"), "holds no PGP key"),
        (head("200 ok") + b"<html>", "holds no PGP key"),
        (head("200 ok") + b"\x99\xff\xff", "is no keyring"),
        (head("200 ok") + b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n!!\n-----END PGP PUBLIC KEY BLOCK", "armor is"),
        (b"garbage", "cannot be reached"),
        (b"", "cannot be reached"),
    ],
)
def test_a_faulty_answer_is_told_in_one_line(server, keys, answer, why):
    server.fault = raw(answer)
    with pytest.raises(BollardError, match=why) as caught:
        keyserver.fetch(server.url, keys.public["good"].fingerprint)
    assert str(caught.value).isprintable()


def test_a_server_that_stalls_and_one_that_never_ends(server, keys, monkeypatch):
    monkeypatch.setattr(keyserver, "_SILENCE", 0.2)
    monkeypatch.setattr(keyserver, "_DEADLINE", 0.5)
    stop = threading.Event()
    server.fault = lambda handler: stop.wait(20)
    with pytest.raises(BollardError, match="cannot be reached: timed out"):
        keyserver.fetch(server.url, keys.public["good"].fingerprint)
    stop.set()

    def drip(handler):
        handler.wfile.write(head("200 ok"))
        try:
            while True:
                handler.wfile.write(b"x")
                stop_dripping.wait(0.05)
        except OSError:
            return

    stop_dripping = threading.Event()
    server.fault = drip
    with pytest.raises(BollardError, match="is not done after"):
        keyserver.fetch(server.url, keys.public["good"].fingerprint)
    monkeypatch.setattr(keyserver, "MAX_ANSWER", 1000)
    server.fault = raw(head("200 ok") + b"x" * 5000)
    with pytest.raises(BollardError, match="more than 1000 bytes"):
        keyserver.fetch(server.url, keys.public["good"].fingerprint)


def test_an_index_is_parsed_and_bounded():
    text = "info:1:2\npub:AB12:1:2048:100::r\nuid:A%3Ab%1b:::\nuid:c\npub:CD\nrubbish\nuid:%zz\npub\n"
    first, second = keyserver.parse_index(text)
    assert first == keyserver.Found("AB12", "1", "2048", 100, 0, "r", ("A:b\x1b", "c"))
    assert second.fingerprint == "CD" and second.users == ("%zz",)
    many = "".join(f"pub:{number}:::::\nuid:{number}\n" for number in range(300))
    assert len(keyserver.parse_index(many)) == keyserver.MAX_FOUND
    for empty in ("", "info:1:0", "<html>"):
        with pytest.raises(BollardError, match="lists no keys"):
            keyserver.parse_index(empty)


def test_control_characters_of_a_server_are_escaped(server):
    server.fault = lambda handler: handler.answer("pub:AB\x1b12:1:20\x0748:1::r\nuid:%1b]0;own%07:::\n")
    for more in ((), ("-l",)):
        done = command("key", "search", *more, "x", "-u", server.url, no_proxy="*")
        assert done.returncode == 0 and "\\x1b" in done.stdout and "revoked" in done.stdout
        assert all(line.isprintable() for line in done.stdout.splitlines())


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("hkp://h", "http://h:11371"),
        ("hkp://h:80/x/", "http://h:80/x"),
        ("hkps://h", "https://h"),
        ("hkp://[::1]", "http://[::1]:11371"),
        ("https://h/", "https://h"),
    ],
)
def test_the_address_of_a_key_server_is_completed(url, address):
    assert keyserver.base(url, {}) == address
    assert keyserver.base("", {"BOLLARD_KEYSERVER": url}) == address


@pytest.mark.parametrize("url", ["", "h", "ftp://h", "https://", "https://h x", "file:///etc/passwd", "https://h\n"])
def test_what_is_no_address_is_refused(url):
    with pytest.raises(BollardError, match="no key server is named|is no address of a key server"):
        keyserver.base(url, {})


def test_verify_asks_by_the_full_fingerprint(server, keys, tmp_path):
    from signed_images import write

    path = write(tmp_path / "img.sif")
    keys.sign(path)
    good = keys.public["good"]
    env = {"BOLLARD_KEYSDIR": str(tmp_path / "none"), "no_proxy": "*"}
    done = command("verify", "--url", server.url, str(path), **env)
    assert done.returncode == 255 and "has no key" in done.stderr and "is in no keyring" in done.stderr
    server.keys[good.fingerprint] = good
    done = command("verify", "--url", server.url, str(path), **env)
    assert done.returncode == 0 and done.stdout.startswith("[REMOTE]") and "anybody can put one" in done.stderr
    assert all(f"0x{good.fingerprint}" in path for path in server.asked)
    before = len(server.asked)
    done = command("verify", "--local", "--url", server.url, str(path), **env)
    assert done.returncode == 255 and len(server.asked) == before
    done = command("verify", "--json", "--url", server.url, str(path), **env)
    assert done.returncode == 0 and '"KeyLocal": false' in done.stdout


def test_the_key_servers_of_the_endpoint_in_use(tmp_path):
    """A named one, else those of remote.yaml but the skipped ones; without that file none."""
    own = {"APPTAINER_CONFIGDIR": str(tmp_path)}
    assert keyserver.bases("hkp://a", own) == ["http://a:11371"]
    assert keyserver.bases("", {**own, "BOLLARD_KEYSERVER": "https://b"}) == ["https://b"]
    assert keyserver.bases("", own) == []
    with pytest.raises(BollardError, match="no key server is named"):
        keyserver.base("", own)
    (tmp_path / "remote.yaml").write_text(
        "Active: lab\nRemotes:\n  lab:\n    URI: lab.example\n    Keyservers:\n"
        "    - URI: https://skipped\n      Skip: true\n"
        "    - URI: https://one\n    - URI: https://two\n"
    )
    assert keyserver.bases("", own) == ["https://one", "https://two"]
    assert keyserver.base("", own) == "https://one"


def test_a_key_comes_from_the_first_server_that_has_it(monkeypatch):
    asked = []

    def fetch(server, fingerprint):
        asked.append(server)
        if server != "b":
            raise BollardError(f"{server}: no such key", "")
        return fingerprint

    monkeypatch.setattr(keyserver, "fetch", fetch)
    assert str(keyserver.fetch_from(["a", "b", "c"], "F")) == "F" and asked == ["a", "b"]
    with pytest.raises(BollardError, match="c: no such key"):
        keyserver.fetch_from(["a", "c"], "F")
