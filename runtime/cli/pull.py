# SPDX-License-Identifier: BSD-3-Clause
"""The command `bollard pull`: fetch an image into a file."""

from __future__ import annotations

import os

from bollard.runtime.build import builder, conversion
from bollard.runtime.cli import build as cli_build
from bollard.runtime.errors import BollardError
from bollard.runtime.fetch import reference, sources
from bollard.runtime.image import image
from bollard.runtime.request import command_line, spec
from bollard.runtime.request.options import setting


def run(given: list[tuple[str, str]], words: list[str]) -> int:
    """Run `bollard pull`; return the exit status. `given` are the options, `words` are [TARGET] URI.

    Raises:
        BollardError: the arguments are invalid, or the image cannot be fetched or written.
    """
    if len(words) not in (1, 2):
        raise BollardError(f"pull takes a URI, and perhaps a file before it, not {len(words)} words", "see --help")
    command_line.refuse_empty(given)
    asked = dict(given)
    uri = words[-1]
    if os.path.exists(uri):
        text = f"{uri}: is a file of this machine, there is nothing to fetch"
        raise BollardError(text, "use it as the image, or copy it")
    if ":" not in uri:
        raise BollardError(f"{uri}: is not a URI", f"write docker://{uri}, oras://{uri} or library://{uri}")
    # The order of Apptainer: --name or its variable, else the argument TARGET, else a name made from the URI.
    target = asked.get("name") or setting(os.environ, "PULL_NAME") or (words[0] if len(words) == 2 else "")
    target = target or reference.file_name(reference.parse(uri))
    folder = asked.get("dir") or setting(os.environ, "PULLDIR", "PULLFOLDER")
    force = asked.get("force", "0") == "1"
    arch = setting(os.environ, "PULL_ARCH")
    given = cli_build.with_variant(given if "arch" in asked or not arch else [*given, ("arch", arch)])
    if "key" in asked:
        uri = _signed(uri, asked["key"], given)
    if asked.get("sandbox") == "1":
        settings = sources.settings(given, os.environ)
        place = os.path.join(folder, target)
        builder.run(builder.Request(place, uri, sandbox=True, force=force, test=False, fetch=settings))
        return 0
    path = os.path.join(folder, target)
    conversion.to_file(uri, path, sources.settings(given, os.environ), force=force)
    if reference.parse(uri).scheme == "library" and not _allows_unsigned(asked):
        why = _unverified(path)
        if why:
            text = f"{image.shown(uri)}: nobody vouches for this image: {why}; --allow-unsigned leaves this line out"
            os.write(2, f"bollard: warning: {text}\n".encode("utf-8", "surrogateescape"))
    return 0


def _unverified(path: str) -> str:
    """Return why the image does not count as signed by keys in the keyrings, for a warning; "" if it does."""
    from bollard.runtime.trust import verify

    try:
        fd, found = image.open_sif(path)
        try:
            return verify.verify(fd, found, verify.default_trust(os.environ)).reason
        finally:
            os.close(fd)
    except BollardError as error:  # without gpgv, for example: the image is there all the same
        return error.message


def _signed(uri: str, pem: str, given: list[tuple[str, str]]) -> str:
    """Return the image's name with the digest that a key has signed. This image is fetched, wherever the tag moves."""
    from bollard.runtime.fetch import cosigned
    from bollard.runtime.trust import dsse

    name = reference.parse(uri)
    if name.scheme not in ("docker", "oras"):
        raise BollardError(f"--key {pem}: cosign signs images of registries", "use it with docker:// or oras://")
    settings = sources.with_login(name, sources.settings(given, os.environ))
    return cosigned.verified(name, dsse.public_key(pem), settings.access)[0].uri


def _allows_unsigned(asked: dict[str, str]) -> bool:
    return spec.switch([asked.get("allow-unsigned", "") or setting(os.environ, "ALLOW_UNSIGNED")])
