# SPDX-License-Identifier: BSD-3-Clause
"""A web server that means ill, on 127.0.0.1: whatever it answers is refused in one line."""

from __future__ import annotations

import contextlib
import email.message
import gzip
import socket
import threading
import urllib.error
import urllib.request

import pytest

from bollard.runtime.causes import one_line
from bollard.runtime.errors import BollardError
from bollard.runtime.fetch import web


@pytest.fixture
def answering(monkeypatch):
    """The address of a server that gives one answer to everybody."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve(answer):
            def work():
                peer, _ = listener.accept()
                with peer:
                    peer.recv(65536)
                    peer.sendall(answer)

            threading.Thread(target=work, daemon=True).start()
            return f"http://127.0.0.1:{listener.getsockname()[1]}/x"

        yield serve


@pytest.mark.parametrize("length", ["9" * 5000, "\xb2", "-5", "x"])
def test_a_length_that_is_none(answering, tmp_path, length):
    url = answering(f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\nabc".encode("latin-1"))
    web.save(url, str(tmp_path / "file"), url)
    assert (tmp_path / "file").read_bytes() == b"abc"


def test_a_length_beyond_any_file(answering, tmp_path):
    url = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999999999999\r\n\r\nabc")
    with pytest.raises(BollardError, match=f"3 bytes came, {web.MAX_FILE} expected"):
        web.save(url, str(tmp_path / "file"), url)


@pytest.mark.parametrize("status", ["206 Partial Content", "203 Non-Authoritative Information", "202 Accepted"])
def test_what_is_not_the_whole_file(answering, tmp_path, status):
    url = answering(f"HTTP/1.1 {status}\r\nContent-Length: 3\r\nContent-Range: bytes 0-2/9\r\n\r\nabc".encode())
    with pytest.raises(BollardError, match=f"the server answers {status}, and not with the whole file"):
        web.save(url, str(tmp_path / "file"), url)
    assert not (tmp_path / "file").exists()


@pytest.mark.parametrize("body", [b"zz\r\nabc", b"3\r\nabc\r\nffffffffffffffffffff\r\nx", b"-1\r\nabc\r\n", b"3\r\nab"])
def test_chunks_that_are_none(answering, tmp_path, body):
    url = answering(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
    with pytest.raises(BollardError, match="the server has ended the connection|bytes came"):
        web.save(url, str(tmp_path / "file"), url)


def test_a_document_that_is_packed(answering):
    """Nobody has asked for a coding: what it would unpack to is of no interest."""
    data = gzip.compress(bytes(1 << 24))
    url = answering(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
    with pytest.raises(BollardError, match="the answer is not a JSON object"):
        web.document(url, url)


def test_cookies_and_ever_more_headers(answering, tmp_path):
    url = answering(b"HTTP/1.1 200 OK\r\n" + b"Set-Cookie: a=b\r\n" * 200 + b"\r\nabc")
    with pytest.raises(BollardError, match="the server has ended the connection"):
        web.save(url, str(tmp_path / "file"), url)


def test_no_word_of_its_reaches_a_terminal_as_it_is(answering, tmp_path):
    url = answering(b"HTTP/1.1 500 \x1b]0;own\x07\x9b2J\r\nContent-Length: 0\r\n\r\n")
    with pytest.raises(BollardError) as caught:
        web.save(url, str(tmp_path / "file"), url)
    assert one_line(caught.value).isprintable() and r"\x1b]0;own\x07\x9b2J" in one_line(caught.value)


@pytest.fixture
def serving(monkeypatch):
    """Starts a server that answers each request with what a function returns; returns its address and the requests."""
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    listeners = []

    def start(answer):
        listener, asked = socket.create_server(("127.0.0.1", 0)), []
        listeners.append(listener)

        def work():
            while True:
                try:
                    peer, _ = listener.accept()
                except OSError:
                    return  # the test is over
                with peer, contextlib.suppress(ConnectionError):
                    asked.append(peer.recv(65536).decode("latin-1"))
                    for part in answer():
                        peer.sendall(part)

        threading.Thread(target=work, daemon=True).start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}", asked

    yield start
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def endless():
    yield b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    while True:
        yield b"10000\r\n" + b" " * 0x10000 + b"\r\n"


def test_an_answer_without_an_end(serving, tmp_path, monkeypatch):
    url, _ = serving(endless)
    with pytest.raises(BollardError, match="more bytes came, 100000 expected"):
        web.save(url, str(tmp_path / "known"), url, 100_000)
    monkeypatch.setattr(web, "MAX_FILE", 3 << 20)
    with pytest.raises(BollardError, match="more bytes came, 3145728 expected"):
        web.save(url, str(tmp_path / "unknown"), url)
    with pytest.raises(BollardError, match="the answer is not a JSON object of at most 1048576 bytes"):
        web.document(url, url)


def test_a_file_in_another_coding(serving, tmp_path):
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\n"
    url, asked = serving(lambda: [head + b"\x1f\x8b\x08"])
    with pytest.raises(BollardError, match=r"the server sends the file in another coding, gzip; fetch it by"):
        web.save(url, str(tmp_path / "file"), url)
    assert "accept-encoding: identity" in asked[0].lower() and not (tmp_path / "file").exists()


def test_a_token_stays_with_its_server(serving, tmp_path):
    other, seen = serving(lambda: [b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"])
    where = other.replace("127.0.0.1", "localhost").encode()
    url, asked = serving(lambda: [b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: " + where + b"/x\r\n\r\n"])
    web.save(url, str(tmp_path / "file"), url, token="secret")
    assert "Bearer secret" in asked[0] and len(seen) == 1 and "secret" not in seen[0]


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("file:///etc/passwd", "the server redirects to file:///etc/passwd, which is no web address"),
        ("gopher://127.0.0.1/", "the server redirects to gopher://127.0.0.1/, which is no web address"),
        ("/again", "the server redirects too often, last to /again"),
    ],
)
def test_redirects_that_are_not_followed(serving, tmp_path, place, line):
    url, _ = serving(lambda: [f"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: {place}\r\n\r\n".encode()])
    with pytest.raises(BollardError) as caught:
        web.save(url, str(tmp_path / "file"), url)
    assert f"{url}: {line}; " in str(caught.value)


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("Fri, 31 Dec 2100 23:59:59 GMT", "try again in a few minutes"),
        ("3600", "try again in 3600 s"),
        ("1\x1b]0;own\x07", "try again in a few minutes"),
        ("", "try again in a few minutes"),
    ],
)
def test_when_to_try_again(serving, tmp_path, monkeypatch, said, hint):
    monkeypatch.setattr(web.time, "sleep", lambda seconds: None)
    url, asked = serving(
        lambda: [f"HTTP/1.1 429 Slow\r\nContent-Length: 0\r\nRetry-After: {said}\r\n\r\n".encode("latin-1")]
    )
    with pytest.raises(BollardError, match=r"takes no more requests \(429\)") as caught:
        web.save(url, str(tmp_path / "file"), url)
    assert caught.value.hint == hint
    assert len(asked) == (1 if said == "3600" else web._TRIES)


@pytest.mark.parametrize("scheme", ["http", "HTTP", "ftp", "file"])
def test_no_redirect_out_of_https(scheme):
    request = urllib.request.Request("https://a.example/x")
    with pytest.raises((urllib.error.URLError, BollardError)):
        web._Redirects().redirect_request(
            request, None, 302, "Found", email.message.Message(), f"{scheme}://a.example/x"
        )
