# SPDX-License-Identifier: BSD-3-Clause
"""Logins to registries: docker's files and credential helpers; a password is seen nowhere. Debian's registry."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import pty
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import servers
from building import Builder
from fetcher import Fetcher
from servers import PASSWORD, USER, Registry

AUTH = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()

# A credential helper that keeps its logins in a file beside it.
HELPER = """#!/usr/bin/python3
import json, os, sys
path = os.path.dirname(os.path.abspath(__file__)) + "/kept.json"
kept = json.load(open(path)) if os.path.exists(path) else {}
said = sys.stdin.read()
if sys.argv[1] == "store":
    entry = json.loads(said)
    kept[entry["ServerURL"]] = entry
elif said.strip() not in kept:
    print("credentials not found in native keychain")
    sys.exit(1)
elif sys.argv[1] == "get":
    print(json.dumps(kept[said.strip()]))
elif sys.argv[1] == "erase":
    del kept[said.strip()]
os.umask(0o077)
json.dump(kept, open(path, "w"))
"""


@pytest.fixture(scope="module")
def closed(builder: Builder, program: str, layouts: dict[str, Path]) -> Iterator[Registry]:
    """A registry that wants a login."""
    with servers.registry(program, builder.work.parent / "closed-login", login=True, deletes=True) as found:
        found.push(layouts["one"], "tiny/one:v1", f"--dest-creds={USER}:{PASSWORD}")
        yield found


class User(Fetcher):
    """The same command with a password on standard input."""

    def said(self, text: str, *words: object, **env: str) -> tuple[int, str, str]:
        process = self.builder._replace(work=self.path).start(*words, stdin=text, **self._env(env))
        out, err = process.communicate(text, timeout=120)
        return process.returncode, out, err

    def place(self, name: str, text: str) -> Path:
        """A file of the user's."""
        path = self.path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        if os.geteuid() == 0:
            subprocess.run(["chown", "-R", "--reference", self.path, path.parent], check=True)
        return path

    def log_in(self, host: str, text: str = f"{PASSWORD}\n", *words: str, **env: str) -> None:
        status, out, err = self.said(
            text, "registry", "login", "--no-https", "-u", USER, "--password-stdin", *words, f"docker://{host}", **env
        )
        assert (status, out, err) == (0, "", "")


@pytest.fixture
def user(fetcher: Fetcher) -> User:
    return User(*fetcher)


def test_login_and_logout(user: User, closed: Registry, sif_file: bytes) -> None:
    user.log_in(closed.host)
    path = user.path / ".docker/config.json"  # Apptainer's choice where its own file is missing
    assert json.loads(path.read_text()) == {"auths": {closed.host: {"auth": AUTH}}}
    assert path.stat().st_mode & 0o777 == 0o600
    assert user.done("registry", "list") == f"\n{'URI':<{len(closed.host) + 11}}SECURE?\ndocker://{closed.host}  ✗!\n"
    assert json.loads(user.done("registry", "list", "--json")) == [{"uri": f"docker://{closed.host}", "secure": False}]
    (user.path / "a.sif").write_bytes(sif_file)
    user.done("push", "--no-https", "a.sif", f"oras://{closed.host}/sif/a:v1")
    user.done("pull", "--no-https", "b.sif", f"oras://{closed.host}/sif/a:v1")
    assert (user.path / "b.sif").read_bytes() == sif_file
    assert user.run("registry", "logout", f"docker://{closed.host}") == (0, "", "")
    assert json.loads(path.read_text()) == {"auths": {}}
    assert "needs a login" in user.refused("pull", "--no-https", "c.sif", f"docker://{closed.host}/tiny/one:v1")
    line = user.refused("push", "--no-https", "a.sif", f"oras://{closed.host}/sif/a:v2")
    assert f"wants a login; `bollard registry login docker://{closed.host}`" in line
    status, out, err = user.run("registry", "logout", f"docker://{closed.host}")
    assert (status, out, err) == (0, "", f"bollard: there is no login to {closed.host}\n")


def test_apptainers_own_file_is_used_where_it_is(user: User, closed: Registry) -> None:
    text = '{"auths": {"other.example": {"auth": "YTpi"}}, "psFormat": "x"}'
    own = user.place(".apptainer/docker-config.json", text)
    user.log_in(closed.host, f"{PASSWORD}\r\n")
    found = json.loads(own.read_text())
    assert found == {"auths": {"other.example": {"auth": "YTpi"}, closed.host: {"auth": AUTH}}, "psFormat": "x"}
    assert not (user.path / ".docker").exists()
    user.log_in(closed.host, PASSWORD, "--authfile", "here.json")
    assert json.loads((user.path / "here.json").read_text()) == {"auths": {closed.host: {"auth": AUTH}}}


@pytest.mark.parametrize("key", ["credsStore", "credHelpers"])
def test_a_credential_helper(user: User, closed: Registry, sif_file: bytes, key: str) -> None:
    helper = user.place("programs/docker-credential-kept", HELPER)
    helper.chmod(0o755)
    programs = helper.parent
    env = {"PATH": f"{programs}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"}
    text = json.dumps({key: "kept" if key == "credsStore" else {closed.host: "kept"}})
    path = user.place(".docker/config.json", text)
    user.log_in(closed.host, **env)
    assert PASSWORD not in path.read_text() and AUTH not in path.read_text()
    assert json.loads((programs / "kept.json").read_text())[closed.host]["Secret"] == PASSWORD
    (user.path / "a.sif").write_bytes(sif_file)
    uri = f"oras://{closed.host}/tiny/{key.lower()}:v1"
    user.done("push", "--no-https", "a.sif", uri, **env)
    user.done("pull", "--no-https", "c.sif", uri, **env)
    assert user.run("registry", "logout", f"docker://{closed.host}", **env)[::2] == (0, "")
    assert json.loads((programs / "kept.json").read_text()) == {}
    assert "needs a login" in user.refused("pull", "--no-https", "b.sif", f"docker://{closed.host}/tiny/one:v1", **env)
    helper.unlink()
    assert "docker-credential-kept: is not installed" in user.refused("pull", "--no-https", "b.sif", uri, **env)


@pytest.mark.parametrize(
    ("words", "text", "line"),
    [
        (("-u", USER, "--password-stdin", "docker://HOST"), "wrong\n", "HOST refuses your login"),
        (("-u", USER, "--password-stdin", "docker://HOST"), "", "a password is required"),
        (("-u", USER, "--password-stdin", "docker://HOST"), "a\nb\n", "one line is expected"),
        (("-u", USER, "-p", PASSWORD, "docker://HOST"), "", "everybody on this machine can read"),
        (("-u", USER, "docker://HOST"), "", "there is no terminal to ask for the password on; use --password-stdin"),
        (("--password-stdin", "docker://HOST"), PASSWORD, "Docker/OCI registry requires a username"),
        (("-u", USER, "--password-stdin", "HOST"), PASSWORD, "HOST: is not the address of a registry"),
        (("-u", USER, "--password-stdin", "docker://HOST/a"), PASSWORD, "is not the address of a registry"),
        (("-u", USER, "--password-stdin", "library://x"), PASSWORD, "logins are for docker:// and oras://"),
    ],
)
def test_what_is_no_login(user: User, closed: Registry, words: tuple[str, ...], text: str, line: str) -> None:
    words = tuple(word.replace("HOST", closed.host) for word in words)
    status, out, err = user.said(text, "registry", "login", "--no-https", *words)
    assert (status, out, err.count("\n")) == (255, "", 1)
    assert line.replace("HOST", closed.host) in err and PASSWORD not in err
    assert not list(user.path.glob(".*/*.json")) and not list(Path("/tmp").glob("bollard-login-*"))


def test_a_damaged_file_is_not_replaced(user: User, closed: Registry) -> None:
    path = user.place(".docker/config.json", "{")
    words = ("registry", "login", "--no-https", "-u", USER, "--password-stdin", f"docker://{closed.host}")
    status, _, err = user.said(PASSWORD, *words)
    assert status == 255 and "is not in the form of docker's config.json" in err
    assert path.read_text() == "{"


def test_many_logins_at_once_lose_none(user: User, closed: Registry) -> None:
    from bollard.runtime.fetch import logins

    path = str(user.path / "many.json")
    threads = [
        threading.Thread(target=logins.store, args=(path, f"host{number}", logins.Login("a", str(number))))
        for number in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert logins.listed(path) == sorted(f"host{number}" for number in range(16))
    assert [item.name for item in user.path.iterdir() if item.name.startswith(".bollard")] == []


def test_a_password_from_the_terminal(user: User, closed: Registry, builder: Builder) -> None:
    """It is not shown there."""
    import sys

    shown = b""
    child, terminal = pty.fork()
    if child == 0:
        environment = {**os.environ, "HOME": str(user.path), "PYTHONPATH": str(builder.work.parent / "lib")}
        code = "import sys; from bollard.runtime.cli.main import main; sys.exit(main())"
        words = ["registry", "login", "--no-https", "-u", USER, f"oras://{closed.host}"]
        os.execvpe(sys.executable, [sys.executable, "-c", code, *words], environment)
    while b"Password / Token: " not in shown:
        shown += os.read(terminal, 1024)
    os.write(terminal, PASSWORD.encode() + b"\n")
    with contextlib.suppress(OSError):
        while True:
            shown += os.read(terminal, 1024)
    assert os.waitpid(child, 0)[1] == 0, shown
    assert PASSWORD.encode() not in shown
    assert AUTH in (user.path / ".docker/config.json").read_text()


class TestSecrets:
    """What other users, logs and core files could see of a password: nothing."""

    def forms(self) -> list[bytes]:
        return [PASSWORD.encode() + b'"', f"{USER}:{PASSWORD}".encode(), AUTH.encode(), b"=" + PASSWORD.encode()]

    def test_no_argument_and_no_variable_of_any_process(self, user: User, closed: Registry, sif_file: bytes) -> None:
        """strace shows each program that is started, with all of its arguments and variables."""
        trace = user.path / "trace"
        tracer = ("strace", "-f", "-v", "-s", "65536", "-e", "trace=execve", "-o", str(trace))
        traced = user._replace(builder=user.builder._replace(prefix=tracer))
        log = Path(user.path / "log")
        (user.path / "a.sif").write_bytes(sif_file)
        traced.log_in(closed.host)
        log.write_bytes(trace.read_bytes())
        for words in (
            ("push", "--no-https", "a.sif", f"oras://{closed.host}/sif/kept:v1"),
            ("pull", "--no-https", "b.sif", f"oras://{closed.host}/sif/kept:v1"),
            ("search", "--no-https", f"oras://{closed.host}/sif/kept"),
            ("registry", "logout", f"docker://{closed.host}"),
        ):
            status, out, err = traced.run(*words)
            assert status == 0 and PASSWORD not in out + err, err  # which name no path with that word
            log.write_bytes(log.read_bytes() + trace.read_bytes())
        text = log.read_bytes()
        started = [line for line in text.splitlines() if b'["skopeo", "' in line and line.endswith(b" = 0")]
        assert sum(b'["skopeo", "login"' in line for line in started) == 1 and len(started) > 3, started
        for form in self.forms():
            assert form not in text, text[text.index(form) - 200 :][:400]

    def test_nothing_while_the_registry_is_silent(self, user: User) -> None:
        """bollard and skopeo wait for a registry that does not answer: their variables, arguments, limits of a core."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            host = f"127.0.0.1:{listener.getsockname()[1]}"
            words = ("registry", "login", "--no-https", "-u", USER, "--password-stdin", f"docker://{host}")
            process = user.builder._replace(work=user.path).start(*words, stdin=PASSWORD, **user._env({}))
            assert process.stdin
            process.stdin.write(PASSWORD + "\n")
            process.stdin.close()
            peer, _ = listener.accept()
            found = self.of(process.pid)
            assert len(found) >= 2
            for pid in found:
                for name in ("environ", "cmdline"):
                    text = Path(f"/proc/{pid}/{name}").read_bytes()
                    assert not [form for form in self.forms() if form.strip(b'"=') in text.split(b"\0") or form in text]
                limit = re.search(r"Max core file size +(\d+) ", Path(f"/proc/{pid}/limits").read_text())
                assert limit and int(limit[1]) <= 1
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == -signal.SIGTERM
            peer.close()
        servers.until(lambda: not [pid for pid in found if Path(f"/proc/{pid}").exists()])
        assert not list(Path("/tmp").glob("bollard-login-*"))

    def of(self, pid: int) -> list[int]:
        """The process and its children, once skopeo is there."""
        end = time.monotonic() + 30
        while time.monotonic() < end:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            if children:
                return [pid, *map(int, children)]
            time.sleep(0.05)
        raise AssertionError("no child")
