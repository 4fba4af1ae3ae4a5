# SPDX-License-Identifier: BSD-3-Clause
"""Registries and Docker's daemon, through skopeo: read manifests, copy blobs into a directory.

skopeo handles logins, mirrors, certificates and proxies as docker and podman do. The first of these logins that exists
is used:

    BOLLARD_DOCKER_USERNAME and _PASSWORD, also with APPTAINER_, SINGULARITY_ or no prefix; --docker-login
    --authfile FILE
    docker-config.json in APPTAINER_CONFIGDIR or ~/.apptainer, if it has a login for that registry
    skopeo's own files

A password is passed in a file of mode 0600, never as an argument: every user of the machine can read arguments.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import NamedTuple

from bollard.runtime.errors import BollardError
from bollard.runtime.fetch import policy as policies
from bollard.runtime.fetch import reference
from bollard.runtime.fetch.policy import Policy
from bollard.runtime.fetch.reference import Reference

_MAX_MANIFEST = 8 << 20
_MAX_CONFIG = 1 << 20
_SAYS = re.compile(r'msg="((?:[^"\\]|\\.)*)"')  # skopeo's log line

_MISSING = (
    "manifest unknown", "name unknown", "manifest_unknown", "name_unknown", "not found", "no such image",
    "not known to registry",
)  # fmt: skip
_REFUSED = ("unauthorized", "authentication required", "access denied", "access to the resource is denied", "401")
_AWAY = (
    "connection refused", "no such host", "i/o timeout", "no route to host", "network is unreachable",
    "context deadline exceeded", "temporary failure in name resolution", "server misbehaving",
)  # fmt: skip


class Access(NamedTuple):
    """How to access a registry.

    authfile: the path of a file with logins; "" for none.
    user, password: a login; "" for none.
    insecure: allow plain HTTP and certificates that are not trusted.
    daemon: the address of Docker's daemon.
    """

    authfile: str = ""
    user: str = ""
    password: str = ""
    insecure: bool = False
    daemon: str = ""  # its address, "" for the local one


def manifest(name: Reference, access: Access) -> bytes:
    """Return the manifest, or the index of manifests, as the registry sends it. Its digest is that of these bytes.

    Raises:
        BollardError: skopeo is missing or fails, or the manifest has over 8 MiB.
    """
    raw = _run(["inspect", "--raw"], [_address(name)], name, access, "", None)
    if len(raw) > _MAX_MANIFEST:
        raise BollardError(f"{name.uri}: its manifest has over {_MAX_MANIFEST} bytes", "name another image")
    return raw


def copy(name: Reference, digest: str, blobs: str, scratch: str, access: Access, policy: Policy) -> None:
    """Fetch the missing blobs of an image into the directory `blobs`/sha256.

    name: the reference of the image.
    digest: the digest of its manifest, "sha256:HEX".
    blobs: the directory for the blobs.
    scratch: an empty directory on the same filesystem. skopeo writes and checks each blob there before the rename.
    access: how to access the registry.
    policy: the policy that skopeo enforces.

    Raises:
        BollardError: the policy refuses the image, or skopeo is missing or fails.
    """
    argv = ["copy", "--quiet", "--dest-oci-accept-uncompressed-layers"]
    argv += ["--dest-shared-blob-dir", blobs]
    if name.scheme in ("docker", "oras"):
        # By the digest and not by the tag, which may name another image by now. skopeo refuses both together.
        name = Reference(name.uri, name.scheme, f"{reference.repository(name.name)}@{digest}")
    with policies.as_file(policy) as path:
        argv = [f"--policy={path}", *argv]
        _run(argv, [_address(name), "oci:layout:image"], name, access, "src-", scratch, policy)


def _address(name: Reference) -> str:
    if name.scheme == "docker-daemon":
        return f"docker-daemon:{name.name}"
    tagged = reference.repository(name.name) + name.name[name.name.find("@") :] if "@" in name.name else name.name
    return f"docker://{tagged}"


def _run(
    verb: list[str],
    words: list[str],
    name: Reference,
    access: Access,
    prefix: str,
    cwd: str | None,
    policy: Policy | None = None,
) -> bytes:
    if not shutil.which("skopeo"):
        raise BollardError(
            f"{name.uri}: needs the program skopeo", "install the package skopeo, or fetch the image elsewhere"
        )
    options = []
    if access.insecure and name.scheme != "docker-daemon":
        options.append(f"--{prefix}tls-verify=false")
    if access.daemon and name.scheme == "docker-daemon":
        options.append(f"--{prefix}daemon-host={access.daemon}")
    with _logins(name, access) as authfile:
        if authfile:
            options.append(f"--{prefix}authfile={os.path.abspath(authfile)}")
        done = subprocess.run(
            ["skopeo", *verb, *options, *words],
            cwd=cwd,  # the layout's path is relative: skopeo would split an absolute path at a colon
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
    if done.returncode:
        lines = [line for line in done.stderr.decode("utf-8", "replace").splitlines() if line.strip()]
        match = _SAYS.search(lines[-1]) if lines else None
        said = match[1].replace('\\"', '"') if match else (lines or ["failed"])[-1]
        raise policy and policies.refused(policy, name, said) or explained(name, said, bool(authfile))
    return done.stdout


@contextlib.contextmanager
def _logins(name: Reference, access: Access) -> Iterator[str]:
    """Yield the path of the file with logins for skopeo; "" to use skopeo's own files."""
    if name.scheme == "docker-daemon":
        yield ""
    elif access.user:
        if not reference.registry(name.name):
            raise BollardError(f"{name.uri}: a login needs the registry's name", "write HOST/NAME, or `skopeo login`")
        login = base64.b64encode(f"{access.user}:{access.password}".encode("utf-8", "surrogateescape")).decode()
        with tempfile.NamedTemporaryFile("w", prefix="bollard-login-", suffix=".json") as file:  # 0600
            json.dump({"auths": {reference.registry(name.name): {"auth": login}}}, file)
            file.flush()
            yield file.name
    elif access.authfile:
        if not os.access(access.authfile, os.R_OK):
            raise BollardError(f"--authfile {access.authfile}: cannot be read", "check the path")
        yield access.authfile
    else:
        folder = os.environ.get("APPTAINER_CONFIGDIR") or os.path.expanduser("~/.apptainer")
        path = f"{folder}/docker-config.json"
        yield path if knows(path, reference.registry(name.name)) else ""


def knows(path: str, registry: str) -> bool:
    """Return whether a file in the format of docker's config.json has a login for the registry.

    For the default registry, "", any login counts: only skopeo knows the name of this registry.
    """
    try:
        with open(path, "rb") as file:
            found = json.loads(file.read(_MAX_CONFIG))
        known = {**found.get("auths", {}), **found.get("credHelpers", {})}
    except FileNotFoundError:
        return False
    except (OSError, ValueError, AttributeError, TypeError) as error:
        # Without a login the image may be public all the same.
        print(f"bollard: {path}: its logins cannot be read ({error}); going on without", file=sys.stderr)
        return False
    if found.get("credsStore"):
        return True
    keys = {re.sub(r"^https?://", "", str(key)).partition("/")[0] for key in known}
    return registry in keys if registry else bool(keys)


def explained(name: Reference, said: str, tried: bool = False) -> BollardError:
    """Return the error for a message of skopeo, with a hint.

    name: the reference of the image.
    said: skopeo's message.
    tried: a login was used.
    """
    server = reference.registry(name.name)
    host = server or "the default registry"
    text = said.lower()

    def has(*words: str) -> bool:
        return any(word in text for word in words)

    if name.scheme == "docker-daemon":
        if has("no such image", "not found"):
            return BollardError(f"{name.uri}: no such image", "see `docker images`")
        return BollardError(f"{name.uri}: {said}", "does docker run there, and may you use it?")
    if has("server gave http response to https client"):
        return BollardError(f"{name.uri}: {host} speaks plain HTTP", "add --no-https to allow that")
    if has("x509", "certificate", "tls:"):
        reason = said.rpartition("x509: ")[2] or said
        return BollardError(
            f"{name.uri}: {host} is not trusted: {reason}",
            f"put its authority's certificate into /etc/containers/certs.d/{server or 'HOST'}, or add --no-https",
        )
    if has(*_AWAY):
        reason = next(word for word in _AWAY if word in text)
        return BollardError(f"{name.uri}: {host} cannot be reached: {reason}", "check its name and the network")
    if has(*_REFUSED):
        if tried:
            return BollardError(f"{name.uri}: {host} refuses your login", "check name and password, and what you may")
        return BollardError(
            f"{name.uri}: no such image, or one that needs a login",
            f"check the name; `skopeo login {server}`, or set BOLLARD_DOCKER_USERNAME and BOLLARD_DOCKER_PASSWORD",
        )
    if has(*_MISSING):
        return BollardError(f"{name.uri}: no such image", "check its name and its tag")
    return BollardError(f"{name.uri}: skopeo: {said}", "check the name, the login and the network")
