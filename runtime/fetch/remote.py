# SPDX-License-Identifier: BSD-3-Clause
"""Apptainer's remote.yaml: endpoints of libraries and key servers, their tokens, and which registries have a login.

    Active: NAME
    Remotes: {NAME: {URI, Token, System, Exclusive, Insecure, Keyservers: [{URI, Skip, External, Insecure}]}}
    Credentials: [{URI, Auth, Insecure}]

The user's file is ~/.apptainer/remote.yaml (0600), the system's is /etc/apptainer/remote.yaml. Both programs read each
other's file. Apptainer refuses a key that it does not know, so this module writes no other key, and refuses it too.

The services of an endpoint are found by `GET URI/assets/config/config.prod.json`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from bollard.runtime.errors import BollardError
from bollard.runtime.fetch import logins, web

NAME = "remote.yaml"
SYSTEM = "/etc/apptainer/remote.yaml"
DEFAULT = "DefaultRemote"
DEFAULT_URI = "cloud.apptainer.org"  # has no library
_DEFAULT_KEYSERVER = "https://keys.openpgp.org"
_MAX_BYTES = 1 << 20
_HKP_PORT = 11371


class Keyserver(NamedTuple):
    """A key server of an endpoint. `skip`: the endpoint's own, but not used; `external`: added by root."""

    uri: str
    skip: bool = False
    external: bool = False
    insecure: bool = False


class Endpoint(NamedTuple):
    """An endpoint: host and path without a scheme, and its token, "" for none."""

    uri: str
    token: str = ""
    system: bool = False
    exclusive: bool = False
    insecure: bool = False
    keyservers: tuple[Keyserver, ...] = ()

    @property
    def url(self) -> str:
        """The address with the scheme."""
        return f"{'http' if self.insecure else 'https'}://{self.uri}"


class Credential(NamedTuple):
    """A service with a login. `auth` is the value of Authorization, or "" if docker-config.json has the login."""

    uri: str
    auth: str = ""
    insecure: bool = False


class Config(NamedTuple):
    """The content of a remote.yaml. `active` is the name of the endpoint in use, "" for none."""

    active: str = ""
    remotes: Mapping[str, Endpoint] = {}
    credentials: tuple[Credential, ...] = ()


_KEYS = {"Active": str, "Remotes": dict, "Credentials": list}
_ENDPOINT = {"URI": str, "Token": str, "System": bool, "Exclusive": bool, "Insecure": bool, "Keyservers": list}
_KEYSERVER = {"URI": str, "Skip": bool, "External": bool, "Insecure": bool}
_CREDENTIAL = {"URI": str, "Auth": str, "Insecure": bool}


def file(environ: Mapping[str, str]) -> str:
    """Return the path of the user's remote.yaml."""
    return os.path.join(logins.directory(environ), NAME)


def load(path: str) -> Config:
    """Return the content of one remote.yaml; an empty one if the file does not exist.

    Raises:
        BollardError: the file cannot be read, or has another form or a key that Apptainer does not know.
    """
    try:
        with open(path, "rb") as opened:
            data = opened.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return Config()
    except OSError as error:
        raise BollardError(f"{path}: {error.strerror}", "it should be yours, mode 0600") from None
    return parse(data, path)


def of_user(path: str, system: str = SYSTEM) -> Config:
    """Return the user's endpoints at `path` together with those of the `system`'s file, by Apptainer's rules.

    Raises:
        BollardError: a file has another form, or the user's endpoint has the name of an exclusive one.
    """
    return synced(load(path), load(system))


def parse(data: bytes, path: str) -> Config:
    """Return the content of a remote.yaml; `path` is for messages. Raises as `load`."""
    if not data.strip():
        return Config()
    if len(data) > _MAX_BYTES:
        raise BollardError(f"{path}: has over {_MAX_BYTES} bytes", "is it Apptainer's file of endpoints?")
    yaml = _yaml()
    try:
        top = yaml.safe_load(data)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        where = f"{path}:{line + 1}" if isinstance(line, int) else path
        raise BollardError(f"{where}: is not YAML", "repair it, or move it away") from None
    found = _checked(top, _KEYS, path, "")
    remotes = {}
    for name, item in found["Remotes"].items():
        entry = _checked(item, _ENDPOINT, path, f"Remotes.{name}")
        servers = [_checked(server, _KEYSERVER, path, f"Keyservers of {name}") for server in entry["Keyservers"]]
        remotes[str(name)] = Endpoint(
            entry["URI"], entry["Token"], entry["System"], entry["Exclusive"], entry["Insecure"],
            tuple(Keyserver(item["URI"], item["Skip"], item["External"], item["Insecure"]) for item in servers),
        )  # fmt: skip
    credentials = [_checked(item, _CREDENTIAL, path, "Credentials") for item in found["Credentials"]]
    return Config(
        found["Active"],
        remotes,
        tuple(Credential(item["URI"], item["Auth"], item["Insecure"]) for item in credentials),
    )


def _yaml() -> Any:
    """Return PyYAML, which only the files of endpoints and of the site need."""
    try:
        import yaml
    except ImportError:
        hint = "install it (Debian: python3-yaml, EL: python3-pyyaml)"
        raise BollardError(f"{NAME} can be neither read nor written without PyYAML", hint) from None
    return yaml


def _checked(item: Any, known: Mapping[str, type], path: str, where: str) -> dict[str, Any]:
    """Return the mapping with a value for each known key; a null value is the type's empty one, as in Go."""
    what = f"{path}: {where}" if where else path
    if not isinstance(item, dict):
        raise BollardError(f"{what}: is not a set of keys", "repair the file, or move it away")
    for name in item:
        if name not in known:
            hint = f"known are {', '.join(known)}; Apptainer refuses it too"
            raise BollardError(f"{what}: no key is called {name!r}", hint)
    found = {}
    for name, kind in known.items():
        value = item.get(name)
        if value is None:
            value = kind()
        elif kind is str and isinstance(value, (int, float)) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, kind):
            raise BollardError(f"{what}: {name} has a value of another kind", "repair the file, or move it away")
        found[name] = value
    return found


def render(config: Config) -> bytes:
    """Return the text of a remote.yaml, with Apptainer's keys in Apptainer's order.

    Raises:
        BollardError: PyYAML is not installed.
    """
    yaml = _yaml()
    remotes = {}
    for name in sorted(config.remotes):
        item = config.remotes[name]
        entry: dict[str, Any] = {"URI": item.uri} if item.uri else {}
        entry.update({"Token": item.token} if item.token else {})
        entry.update({"System": item.system, "Exclusive": item.exclusive})
        entry.update({"Insecure": True} if item.insecure else {})
        if item.keyservers:
            entry["Keyservers"] = [
                {"URI": server.uri, "Skip": server.skip, "External": server.external, "Insecure": server.insecure}
                for server in item.keyservers
            ]
        remotes[name] = entry
    top: dict[str, Any] = {"Active": config.active, "Remotes": remotes}
    if config.credentials:
        top["Credentials"] = [
            {"URI": item.uri, **({"Auth": item.auth} if item.auth else {}), "Insecure": item.insecure}
            for item in config.credentials
        ]
    text: str = yaml.safe_dump(top, sort_keys=False, allow_unicode=True, indent=4, width=1 << 16)
    return text.encode()


def synced(user: Config, system: Config) -> Config:
    """Return the user's endpoints with those of the system. An exclusive one of the system becomes the active one.

    Raises:
        BollardError: the user's own has the name of an exclusive one.
    """
    remotes, active = dict(user.remotes), user.active
    for name, item in system.remotes.items():
        own = remotes.get(name)
        if own and not own.system and item.exclusive:
            raise BollardError(
                f"{name}: root allows this remote alone, and your own remote has the same name",
                f"`bollard remote remove {name}`",
            )
        if own and not own.system:
            continue  # the user's own of that name
        token = own.token if own else ""
        remotes[name] = Endpoint(item.uri, token, True, item.exclusive, item.insecure, item.keyservers)
        if item.exclusive:
            active = name
    return Config(active or system.active, remotes, user.credentials)


def added(config: Config, name: str, endpoint: Endpoint) -> Config:
    """Return the configuration with one more endpoint.

    config: the configuration.
    name: name of the new endpoint.
    endpoint: the endpoint.

    Raises:
        BollardError: the name is taken.
    """
    if name in config.remotes:
        raise BollardError(f"{name} is already a remote", "choose another name, or `bollard remote remove` it first")
    return config._replace(remotes={**config.remotes, name: endpoint})


def used(config: Config, name: str, *, of_system: bool = False, exclusive: bool = False) -> Config:
    """Return the configuration with another active endpoint.

    config: the configuration.
    name: name of the endpoint.
    of_system: this is the system's file.
    exclusive: no user may use another one.

    Raises:
        BollardError: there is no such endpoint, or root has decided on another one.
    """
    get(config, name)
    for other, item in config.remotes.items():
        if item.exclusive and other != name and not of_system:
            text = f"could not use {name}: remote {other} has been set exclusive by the system administrator"
            raise BollardError(text, f"use {other}")
    remotes = {
        other: item._replace(exclusive=exclusive) if other == name else
        item._replace(exclusive=False) if exclusive and other == config.active else item
        for other, item in config.remotes.items()
    } if of_system else dict(config.remotes)  # fmt: skip
    return config._replace(active=name, remotes=remotes)


def removed(config: Config, name: str, *, of_system: bool = False) -> Config:
    """Return the configuration without an endpoint.

    config: the configuration.
    name: name of the endpoint.
    of_system: this is the system's file.

    Raises:
        BollardError: there is no such endpoint, or it is the system's and this is the user's file.
    """
    if get(config, name).system and not of_system:
        raise BollardError(f"{name} is global and can't be removed", "root removes it with --global")
    remotes = {other: item for other, item in config.remotes.items() if other != name}
    return config._replace(active="" if config.active == name else config.active, remotes=remotes)


def get(config: Config, name: str = "") -> Endpoint:
    """Return the endpoint with the name; the active one for "".

    Raises:
        BollardError: there is no such endpoint, or none is active.
    """
    name = name or config.active
    known = ", ".join(sorted(config.remotes)) or "none"
    if not name:
        raise BollardError("no default remote is set", f"`bollard remote use NAME`; available: {known}")
    if name not in config.remotes:
        raise BollardError(f"{name} is not a remote", f"known are {known}; `bollard remote add` adds one")
    return config.remotes[name]


def with_token(config: Config, name: str, token: str) -> Config:
    """Return the configuration with another token of an endpoint.

    config: the configuration.
    name: name of the endpoint; "" for the active one.
    token: the token; "" for none.

    Raises:
        BollardError: there is no such endpoint, or none is active.
    """
    endpoint = get(config, name)
    return config._replace(remotes={**config.remotes, name or config.active: endpoint._replace(token=token)})


def with_credential(config: Config, uri: str, credential: Credential | None) -> Config:
    """Return the configuration with another login of a service, or without one.

    config: the configuration.
    uri: address of the service.
    credential: the login; None for none.
    """
    others = [item for item in config.credentials if not same(item.uri, uri)]
    return config._replace(credentials=(*others, *((credential,) if credential else ())))


def same(one: str, other: str) -> bool:
    """Return whether two addresses have the same scheme and host; hkp:// is http:// with HKP's port."""
    first, second = _normal(one), _normal(other)
    return bool(first[1]) and first == second


def _normal(uri: str) -> tuple[str, str]:
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError:
        return "", ""  # no address equals it
    if parts.scheme == "hkp":
        return "http", parts.netloc if port else f"{parts.netloc}:{_HKP_PORT}"
    return "https" if parts.scheme == "hkps" else parts.scheme, parts.netloc


def with_keyserver(config: Config, name: str, uri: str, order: int = 0, insecure: bool = False) -> Config:
    """Return the configuration of the system with one more key server of an endpoint.

    config: the system's configuration.
    name: name of the endpoint, "" for the active one.
    uri: address of the key server.
    order: its place, from 1; 0 for the last.
    insecure: do not check its certificate.

    Raises:
        BollardError: the endpoint is not the system's, the key server is there already, or `order` is too large.
    """
    endpoint = _of_system(config, name)
    if _normal(uri)[0] not in ("http", "https"):
        raise BollardError(f"{uri}: is not the address of a key server", "write hkps://HOST or https://HOST")
    servers = list(keyservers(endpoint))
    count = 1 + sum(not item.skip for item in servers)
    if order > count:
        raise BollardError(f"order {order} is out of range: the maximum is {count}", "leave --order out")
    made = Keyserver(uri, external=True, insecure=insecure)
    for item in [item for item in servers if same(item.uri, uri)]:
        if item.external or not item.skip:
            raise BollardError(f"{uri} is already configured", "see `bollard remote list`")
        servers.remove(item)
        made = item._replace(skip=False)
    servers.insert((order or count) - 1, made)
    return _with_servers(config, name, servers)


def without_keyserver(config: Config, name: str, uri: str) -> Config:
    """Return the configuration of the system without a key server; the endpoint's own one is marked as skipped.

    config: the configuration.
    name: name of the endpoint; "" for the active one.
    uri: address of the key server.

    Raises:
        BollardError: the endpoint is not the system's, has no such key server, or has no other one.
    """
    servers = list(keyservers(_of_system(config, name)))
    found = next((item for item in servers if same(item.uri, uri) and not item.skip), None)
    if not found:
        raise BollardError(f"keyserver {uri} is not configured", "see remote.yaml")
    if sum(not item.skip for item in servers) == 1:
        raise BollardError(f"the primary keyserver {uri} can't be removed", "add another one first")
    at = servers.index(found)
    servers[at : at + 1] = [] if found.external else [found._replace(skip=True)]
    return _with_servers(config, name, servers)


def _of_system(config: Config, name: str) -> Endpoint:
    endpoint = get(config, name)
    if not endpoint.system:
        raise BollardError("the endpoint is not defined by the system", "add it with `bollard remote add --global`")
    return endpoint


def _with_servers(config: Config, name: str, servers: list[Keyserver]) -> Config:
    endpoint = get(config, name)._replace(keyservers=tuple(servers))
    return config._replace(remotes={**config.remotes, name or config.active: endpoint})


def keyservers(endpoint: Endpoint) -> tuple[Keyserver, ...]:
    """Return the key servers of an endpoint: those in its configuration, else the one that it names itself.

    Raises:
        BollardError: the endpoint has to be asked, and does not answer or names none.
    """
    if endpoint.keyservers:
        return endpoint.keyservers
    return (Keyserver(service(endpoint, "keyserver")),)


def service(endpoint: Endpoint, name: str) -> str:
    """Return the address of a service of an endpoint: "library", "keyserver", "token", ...

    Raises:
        BollardError: the endpoint does not answer, or has no such service.
    """
    if endpoint.uri == DEFAULT_URI and name in ("library", "keyserver"):
        found = {"keyserver": _DEFAULT_KEYSERVER}.get(name, "")
    else:
        found = services(endpoint).get(name, "")
    if not found:
        raise BollardError(f"{name} is not a service at endpoint {endpoint.uri}", "`bollard remote use` another one")
    return found


def services(endpoint: Endpoint) -> dict[str, str]:
    """Return the services of an endpoint with their addresses, as the endpoint lists them.

    Raises:
        BollardError: the endpoint does not answer, or its answer has another form.
    """
    if not re.fullmatch(r"[0-9A-Za-z][0-9A-Za-z._:/~-]*", endpoint.uri):
        raise BollardError(f"remote {endpoint.uri!r}: is not an address", "`bollard remote remove` it")
    listed = web.document(f"{endpoint.url}/assets/config/config.prod.json", f"remote {endpoint.uri}")
    found = {}
    for name, item in listed.items():
        uri = item.get("uri") if isinstance(item, dict) else None
        if isinstance(uri, str) and uri.startswith(("http://", "https://")):
            name = name[:-3] if name.endswith("API") else name
            found["keyserver" if name == "keystore" else name] = uri.rstrip("/")
    return found


def verify_token(endpoint: Endpoint, token: str) -> None:
    """Ask an endpoint whether the token is valid.

    Raises:
        BollardError: it is not, or the endpoint does not answer or has no service for that.
    """
    listed = services(endpoint)
    if "token" not in listed:
        raise BollardError(f"remote {endpoint.uri}: no authentication service found", "it takes no tokens")
    web.document(f"{listed['token']}/v1/token-status", f"remote {endpoint.uri}", token)
