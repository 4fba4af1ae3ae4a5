# SPDX-License-Identifier: BSD-3-Clause
"""Dockerfiles: buildah carries one out, and its image is converted like any other archive.

buildah runs as root of the build's user namespace, with chroot isolation and its files in the build's workspace. So it
needs no service, no privileges and no subordinate ids, and leaves nothing in the home directory.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping

from bollard.runtime.errors import BollardError
from bollard.runtime.fetch import skopeo_policy as policies
from bollard.runtime.fetch.sources import Settings
from bollard.runtime.system import rootless

_NAME = re.compile(r"(Dockerfile|Containerfile)(\..+)?|.+\.(dockerfile|containerfile)", re.IGNORECASE)
_ARCHIVE = "image.tar"
_LOGINS = (
    "{XDG_RUNTIME_DIR}/containers/auth.json",
    "{HOME}/.config/containers/auth.json",
    "{HOME}/.docker/config.json",
)


def is_one(source: str) -> bool:
    """Return whether a file has a name of Dockerfiles."""
    return os.path.isfile(source) and bool(_NAME.fullmatch(os.path.basename(source)))


def definition(archive: str) -> str:
    """Return the text of the definition that follows buildah's work; `archive` is the path of its image."""
    return f"Bootstrap: oci-archive\nFrom: {archive}\n"


def make(source: str, folder: str, arguments: Mapping[str, str], settings: Settings, way: rootless.Way) -> str:
    """Carry a Dockerfile out; return the path of the image, an OCI archive. Its directory is the build's context.

    source: the path of the Dockerfile.
    folder: an empty directory for buildah's files and the image.
    arguments: build arguments by name.
    settings: settings for registries.
    way: how the build becomes root.

    Raises:
        BollardError: buildah is missing or fails.
    """
    program = shutil.which("buildah")
    if not program:
        raise BollardError(
            f"{source}: a Dockerfile is built by buildah, which is not installed",
            "ask the administrator for the package buildah, or write a definition file",
        )
    archive = f"{folder}/{_ARCHIVE}"
    store = ["--storage-driver", "vfs", "--root", f"{folder}/storage", "--runroot", f"{folder}/run"]
    build = [program, *store, "build", "--isolation", "chroot", "--iidfile", f"{folder}/id", "--file", source]
    environ = _environment(folder, settings)
    build += [word for name, value in arguments.items() for word in ("--build-arg", _argument(name, value, environ))]
    # buildah has another home here, so it would not find the user's policy of signatures by itself.
    policy = policies.host_file(os.environ)
    build += ["--signature-policy", policy] if policy else []
    if settings.arch:
        build += ["--platform", f"linux/{settings.arch}"]
    if settings.access.insecure:
        build.append("--tls-verify=false")
    build.append(os.path.dirname(source) or ".")

    def work() -> None:
        _run(build, environ, source)
        with open(f"{folder}/id", encoding="ascii") as file:
            name = file.read().strip()
        _run([program, *store, "push", "--quiet", name, f"oci-archive:{archive}:latest"], environ, source)

    rootless.run(way, work)
    return f"{archive}:latest"


def _argument(name: str, value: str, environ: dict[str, str]) -> str:
    """Return the word for --build-arg. The value goes into `environ`: all users of the machine see a command line."""
    if name in environ:  # the value there is for buildah itself
        return f"{name}={value}"
    environ[name] = value
    return name


def _environment(folder: str, settings: Settings) -> dict[str, str]:
    """Return buildah's environment: the user's, with a home of its own and the user's logins."""
    home = {name: os.environ.get(name, "") for name in ("HOME", "XDG_RUNTIME_DIR")}
    logins = [settings.access.authfile, os.environ.get("REGISTRY_AUTH_FILE", "")]
    logins += [place.format(**home) for place in _LOGINS]
    found = {**os.environ, "HOME": folder, "XDG_RUNTIME_DIR": folder, "TMPDIR": folder}
    found["_CONTAINERS_USERNS_CONFIGURED"] = "done"  # there is a user namespace: buildah makes none of its own
    authfile = next((place for place in logins if place and os.path.isfile(place)), "")
    if authfile:
        found["REGISTRY_AUTH_FILE"] = os.path.abspath(authfile)
    return found


def _run(argv: list[str], environ: Mapping[str, str], source: str) -> None:
    done = subprocess.run(argv, env=dict(environ), stdin=subprocess.DEVNULL, stdout=2, check=False)
    if done.returncode:
        raise BollardError(f"{source}: buildah ended with exit status {done.returncode}", "its last lines say why")
