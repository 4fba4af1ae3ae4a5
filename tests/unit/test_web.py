# SPDX-License-Identifier: BSD-3-Clause
"""A web server that means ill, on 127.0.0.1: whatever it answers is refused in one line."""

from __future__ import annotations

import email.message
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


def test_no_word_of_its_reaches_a_terminal_as_it_is(answering, tmp_path):
    url = answering(b"HTTP/1.1 500 \x1b]0;own\x07\x9b2J\r\nContent-Length: 0\r\n\r\n")
    with pytest.raises(BollardError) as caught:
        web.save(url, str(tmp_path / "file"), url)
    assert one_line(caught.value).isprintable() and r"\x1b]0;own\x07\x9b2J" in one_line(caught.value)


@pytest.mark.parametrize("scheme", ["http", "HTTP", "ftp", "file"])
def test_no_redirect_out_of_https(scheme):
    request = urllib.request.Request("https://a.example/x")
    with pytest.raises((urllib.error.URLError, BollardError)):
        web._Redirects().redirect_request(
            request, None, 302, "Found", email.message.Message(), f"{scheme}://a.example/x"
        )
