# SPDX-License-Identifier: BSD-3-Clause
"""The commands `bollard push`, `search`, `delete` and `tag`: images in registries and libraries."""

from __future__ import annotations

import errno
import json
import os
import re
import sys
import tempfile

from bollard.runtime import causes, progress
from bollard.runtime.errors import BollardError, shown
from bollard.runtime.fetch import library, reference, registry, sources
from bollard.runtime.fetch.reference import Reference
from bollard.runtime.image import image, sif
from bollard.runtime.request import command_line, spec
from bollard.runtime.request.options import setting
from bollard.runtime.system import rootless, workspace
from bollard.runtime.trust import verify

_TARGETS = ("oras", "docker", "library")
_TAG = re.compile(r"[0-9A-Za-z_][0-9A-Za-z_.-]{0,127}")
_NO_DESCRIPTION = "no description"


def run(name: str, given: list[tuple[str, str]], words: list[str]) -> int:
    """Run one of the commands; return the exit status.

    name: "push", "search", "delete" or "tag".
    given: the options, name and value.
    words: the arguments.

    Raises:
        BollardError: the arguments are invalid, or the image or the server cannot be used.
    """
    command_line.refuse_empty(given)
    count = {"push": 2, "search": 1, "delete": 1, "tag": 2}[name]
    if len(words) != count:
        raise BollardError(f"{name} takes {count} words, not {len(words)}", f"see `bollard {name} --help`")
    asked = sources.settings(given, os.environ)
    with rootless.ending_by_signals():
        status = _RUN[name](dict(given), given, words, asked)
    progress.settle()
    return status


def _target(uri: str, known: tuple[str, ...] = _TARGETS) -> Reference:
    scheme = uri.partition(":")[0].lower()
    if ":" not in uri or scheme not in known:
        text = f"{shown(uri)}: unsupported transport type" if ":" in uri else f"bad uri {shown(uri)}"
        raise BollardError(text, f"known are {', '.join(f'{name}://' for name in known)}")
    return reference.parse(uri)


def _push(options: dict[str, str], given: list[tuple[str, str]], words: list[str], asked: sources.Settings) -> int:
    path, target = words[0], _target(words[1])
    if target.scheme == "library":
        return _push_to_library(path, target, options, asked)
    for option in ("library", "allow-unsigned"):
        if option in options and option == "library":
            raise BollardError(f"--{option}: is for library:// alone", "leave it out")
    if reference.digest(target):
        raise BollardError(f"{target.uri}: a digest follows from what is pushed", "name a tag")
    asked = sources.with_login(target, asked)
    notes = _annotations(given, options)
    if target.scheme == "docker" and path.partition(":")[0] in reference.ARCHIVES and not os.path.lexists(path):
        if notes:
            raise BollardError(f"{shown(path)}: is pushed as it is", "leave --annotation and --description out")
        progress.say(f"sending {target.uri}")
        registry.push_archive(reference.parse(path), target, asked.access)
        return 0
    place = workspace.make(workspace.parent(os.environ))
    try:
        # It also removes an unpacked tree that has directories without permissions.
        with tempfile.TemporaryDirectory(prefix="push-", dir=place) as folder:
            _push_layout(path, target, folder, notes, asked)
    except OSError as error:
        read = error.errno in (errno.EIO, errno.ESTALE)  # of the image, and not of the workspace that it is copied to
        raise causes.of(error, f"{image.shown(path)}: cannot be pushed", path if read else place) from None
    finally:
        workspace.discard(place)
    return 0


def _push_layout(path: str, target: Reference, folder: str, notes: dict[str, str], asked: sources.Settings) -> None:
    from bollard.runtime.build import oci_layout
    from bollard.runtime.local import metadata

    layout = os.path.join(folder, "layout")
    os.mkdir(layout)
    if target.scheme == "oras":
        oci_layout.artifact(path, layout, notes)
    else:
        progress.say(f"unpacking {image.shown(path)}")
        made = oci_layout.container(path, layout, metadata.read(path)[0], notes)
        for line in made.warnings:
            sys.stderr.write(f"bollard: warning: {image.shown(path)}: {shown(line)}\n")
    progress.say(f"sending {target.uri}")
    registry.push(target, layout, asked.access)


def _annotations(given: list[tuple[str, str]], options: dict[str, str]) -> dict[str, str]:
    found = {}
    for name, value in given:
        if name == "annotation":
            key, equals, text = value.partition("=")
            if not key or not equals:
                raise BollardError(f"--annotation {shown(value)}: is not KEY=VALUE", "write org.example.key=value")
            found[key] = text
    if "description" in options:
        found["org.opencontainers.image.description"] = options["description"]
    return found


def _push_to_library(path: str, target: Reference, options: dict[str, str], asked: sources.Settings) -> int:
    fd, found = image.open_sif(path)
    try:
        return _push_sif(fd, found, path, target, options, asked)
    finally:
        os.close(fd)


def _push_sif(
    fd: int, found: sif.Sif, path: str, target: Reference, options: dict[str, str], asked: sources.Settings
) -> int:
    """Push an opened SIF file into a library; return the exit status. The file that was verified is the one pushed."""
    arch = asked.arch.partition("/")[0] if "arch" in options else found.header.arch
    if not arch:
        raise BollardError(f"{image.shown(path)}: unknown architecture in SIF file", "name it with --arch")
    host = reference.library_path(target).host
    where = library.place(host, asked.library, os.environ, target.uri, asked.access.insecure, login=True)
    if not where.token:
        raise BollardError(
            f"{target.uri}: cannot push to the library: no authentication token", "log in with `bollard remote login`"
        )
    unsigned = options.get("allow-unsigned") or setting(os.environ, "ALLOW_UNSIGNED")
    if spec.switch([unsigned or "0"]):
        sys.stderr.write("bollard: warning: skipping container verification\n")
    else:
        _refuse_unsigned(path, fd, found)
    kept = library.push(target, library.Upload(f"/proc/self/fd/{fd}", arch, options.get("description", "")), where)
    if kept.url or kept.used or kept.quota:
        _tell_quota(kept)
    return 0


def _refuse_unsigned(path: str, fd: int, found: sif.Sif) -> None:
    """Raise if the image has no valid signature by a key in the user's keyrings."""
    reason = verify.verify(fd, found, verify.default_trust(os.environ)).reason
    if reason:
        text = f"{image.shown(path)}: unable to upload container: unable to verify signature: {reason}"
        raise BollardError(text, "`bollard sign` it, or add --allow-unsigned")


def _tell_quota(kept: library.Kept) -> None:
    from bollard.runtime.cli.cache import size

    whole = f"{size(kept.quota)} quota ({100 * kept.used / kept.quota:.1f}% used)" if kept.quota else "unlimited quota"
    print(f"\nLibrary storage: using {size(kept.used)} out of {whole}")
    if kept.url:
        print(f"Container: {shown(kept.url)}")


def _search(options: dict[str, str], given: list[tuple[str, str]], words: list[str], asked: sources.Settings) -> int:
    arch = asked.arch.partition("/")[0] or sif.arch_name(os.uname().machine)
    text = words[0]
    if text.startswith(("oras://", "docker://")):
        name = _target(text, ("oras", "docker"))
        asked = sources.with_login(name, asked)
        base = f"{name.scheme}://{reference.repository(name.name)}"
        found = [{"uri": f"{base}:{tag}"} for tag in registry.tags(name, asked.access)]
        text = reference.repository(name.name)
    else:
        text = text.partition("library://")[2] if text.startswith("library://") else text
        where = library.place("", asked.library, os.environ, f"search {shown(text)}")
        signed = options.get("signed", "0") == "1"
        found = [_described(item) for item in library.search(text, arch, signed, where)]
    found.sort(key=lambda item: item["uri"])
    if options.get("json", "0") == "1":
        print(json.dumps(found, indent=2))
        return 0
    if not found:
        print(f'No container images found for {arch} matching "{shown(text)}".\n')
        return 0
    print(f'Found {len(found)} container images for {arch} matching "{shown(text)}":\n')
    items = []
    for item in found:
        lines = [f"\t{shown(item['uri'])}"]
        lines += [f"\t\t{shown(item['description'])}"] if item.get("description") else []
        lines += [f"\t\tSigned by: {shown(item['signed'])}"] if item.get("signed") else []
        items.append("\n".join(lines))
    print("\n\n".join(items) + "\n")
    return 0


def _described(item: dict[str, object]) -> dict[str, str]:
    names = "/".join(str(item.get(key, "")) for key in ("entityName", "collectionName", "containerName"))
    tags, signers = item.get("tags"), item.get("fingerprints")
    tag = ",".join(map(str, tags)) if isinstance(tags, list) and tags else str(item.get("hash", ""))
    text = str(item.get("description") or "")
    return {
        "uri": f"library://{names}:{tag}",
        "description": "" if text.lower() == _NO_DESCRIPTION else text,
        "signed": ",".join(map(str, signers)) if isinstance(signers, list) else "",
    }


def _delete(options: dict[str, str], given: list[tuple[str, str]], words: list[str], asked: sources.Settings) -> int:
    name = _target(words[0])
    arch = asked.arch.partition("/")[0] or sif.arch_name(os.uname().machine)
    what = f"{name.uri} ({arch})" if name.scheme == "library" else f"{name.uri}, and all tags of the same image"
    if options.get("force", "0") != "1":
        if not sys.stdin.isatty():
            raise BollardError("delete asks before it deletes anything, and there is no terminal", "add --force")
        print(f"Are you sure you want to delete {shown(what)} [y/N] ", end="", flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            return 0
    if name.scheme == "library":
        host = reference.library_path(name).host
        where = library.place(host, asked.library, os.environ, name.uri, asked.access.insecure, login=True)
        library.delete(name, arch, where)
    else:
        registry.delete(name, sources.with_login(name, asked).access)
    return 0


def _tag(options: dict[str, str], given: list[tuple[str, str]], words: list[str], asked: sources.Settings) -> int:
    name = _target(words[0], ("oras", "docker"))
    if not _TAG.fullmatch(words[1]):
        raise BollardError(f"{shown(words[1])}: is not a tag", "use letters, digits and _.- after the first letter")
    registry.tag(name, words[1], sources.with_login(name, asked).access)
    return 0


_RUN = {"push": _push, "search": _search, "delete": _delete, "tag": _tag}
