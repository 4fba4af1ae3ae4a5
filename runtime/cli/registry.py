# SPDX-License-Identifier: BSD-3-Clause
"""The commands `bollard registry login`, `logout` and `list`, on the files of docker and Apptainer."""

from __future__ import annotations

import getpass
import json
import os
import sys

from bollard.runtime.errors import BollardError, shown
from bollard.runtime.fetch import logins, registry, remote
from bollard.runtime.fetch.logins import Login
from bollard.runtime.fetch.registry import Access
from bollard.runtime.fetch.remote import Credential
from bollard.runtime.request import command_line, spec
from bollard.runtime.request.options import setting
from bollard.runtime.system import processes, rootless

_MAX_SECRET = 1 << 16


def run(verb: str, given: list[tuple[str, str]], words: list[str]) -> int:
    """Run `bollard registry VERB`; return the exit status.

    verb: "login", "logout" or "list".
    given: the options, name and value.
    words: the URI of the registry, except for "list".

    Raises:
        BollardError: the arguments are invalid, or the registry refuses the login, or a file cannot be changed.
    """
    command_line.refuse_empty(given)
    asked = dict(given)
    if len(words) != (0 if verb == "list" else 1):
        raise BollardError(f"registry {verb} takes {'no word' if verb == 'list' else 'one URI'}", "see --help")
    if verb == "list":
        return _list(asked)
    with rootless.ending_by_signals():
        log_in(words[0], asked) if verb == "login" else log_out(words[0], asked)
    return 0


def host(uri: str) -> str:
    """Return the registry that docker://HOST or oras://HOST names.

    Raises:
        BollardError: the URI has another form.
    """
    scheme, slashes, name = uri.partition("://")
    if not slashes:
        raise BollardError(f"{shown(uri)}: is not the address of a registry", f"write docker://{shown(uri)}")
    if scheme not in ("docker", "oras"):
        hint = "for a library: `bollard remote login`"
        raise BollardError(f"{shown(uri)}: logins are for docker:// and oras://", hint)
    name = name.rstrip("/")
    if not name or "/" in name or not name.isascii() or not name.isprintable() or name[0] in "-.":
        raise BollardError(f"{shown(uri)}: is not the address of a registry", f"write {scheme}://HOST or HOST:PORT")
    return name


def log_in(uri: str, asked: dict[str, str]) -> None:
    """Verify a login at the registry and keep it. `asked` are the options of `registry login`.

    Raises:
        BollardError: as `run`.
    """
    where = host(uri)
    user = asked.get("username") or setting(os.environ, "LOGIN_USERNAME")
    if not user:
        raise BollardError("Docker/OCI registry requires a username", "add --username NAME")
    if ":" in user:
        raise BollardError(f"--username {shown(user)}: a name has no colon", "give the password by itself")
    login = Login(user, secret(asked, "Password / Token: "))
    path = asked.get("authfile") or logins.file(os.environ)
    logins.listed(path)  # a damaged file is told before the registry is asked
    insecure = spec.switch([asked.get("no-https") or setting(os.environ, "NOHTTPS", "NO_HTTPS")])
    registry.verify_login(where, login, Access(insecure=insecure))
    logins.store(path, where, login)
    if "authfile" not in asked:
        _remember(uri, Credential(uri.rstrip("/"), "", insecure))


def log_out(uri: str, asked: dict[str, str]) -> None:
    """Forget the login of a registry; a line says so if there is none. Raises BollardError as `run`."""
    where = host(uri)
    found = logins.erase(asked.get("authfile") or logins.file(os.environ), where)
    if "authfile" not in asked:
        _remember(uri, None)
    if not found:
        print(f"bollard: there is no login to {where}", file=sys.stderr)


def _remember(uri: str, credential: Credential | None) -> None:
    """Let remote.yaml name the registry, from which Apptainer's `registry list` reads it."""
    path = remote.file(os.environ)
    if credential is None and not os.path.lexists(path):
        return
    with logins.rewriting(path):
        before = remote.of_user(path)
        after = remote.with_credential(before, uri.rstrip("/"), credential)
        if after != before:
            logins.replace(path, remote.render(after))


def _list(asked: dict[str, str]) -> int:
    """Print the registries with a login, as Apptainer does; also those that only docker's file has."""
    found = {item.uri: not item.insecure for item in remote.of_user(remote.file(os.environ)).credentials}
    named = {uri.partition("://")[2].rstrip("/") for uri in found}
    found.update({f"docker://{name}": True for name in logins.listed(logins.file(os.environ)) if name not in named})
    if asked.get("json", "0") == "1":
        print(json.dumps([{"uri": uri, "secure": secure} for uri, secure in found.items()], indent=2))
        return 0
    width = max(map(len, ("URI", *found))) + 2
    rows = [("URI", "SECURE?"), *((shown(uri), "✓" if secure else "✗!") for uri, secure in found.items())]
    sys.stdout.write("\n" + "".join(f"{uri:<{width}}{secure}\n" for uri, secure in rows))
    return 0


def secret(asked: dict[str, str], prompt: str) -> str:
    """Return a password or token: from standard input with --password-stdin, else from the terminal.

    This process leaves no core file from then on.

    Raises:
        BollardError: it is given as an argument, or is empty, or there is no terminal to ask on.
    """
    if "password" in asked:
        raise BollardError(
            "--password: everybody on this machine can read the words of a command", "use --password-stdin"
        )
    processes.leave_no_core()
    if asked.get("password-stdin", "0") == "1":
        data = sys.stdin.buffer.read(_MAX_SECRET + 1)
        text = data.decode("utf-8", "surrogateescape").removesuffix("\n").removesuffix("\r")
        if len(data) > _MAX_SECRET or "\n" in text or "\0" in text:
            raise BollardError("--password-stdin: standard input is no password", "one line is expected")
    else:
        try:
            with open("/dev/tty", "rb"):
                pass
        except OSError:
            raise BollardError("there is no terminal to ask for the password on", "use --password-stdin") from None
        text = getpass.getpass(prompt)
    if not text:
        raise BollardError("a password is required", "none was given")
    return text
