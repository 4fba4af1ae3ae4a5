# SPDX-License-Identifier: BSD-3-Clause
"""The thorough look of srun, sbatch and salloc at what the user asked, where a glance did not settle it."""

from __future__ import annotations

import os
import time

from bollard.runtime import image, options, site, spec
from bollard.runtime.errors import BollardError
from bollard.runtime.installed import PREFIX

# Not a part of the container; stepd.c cuts it off.
LAST = ("verbose",)
# What --container-opts cannot say; `parse` knows them all the same.
_NOT_IN_OPTS = ("image", "opts", "help")
# How to say otherwise what concerns the fetching of an image, which is over before --container-opts is read.
_FETCH_HINTS = {
    "authfile": "run `skopeo login`, or set BOLLARD_DOCKER_USERNAME and BOLLARD_DOCKER_PASSWORD",
    "docker-login": "run `skopeo login`, or set BOLLARD_DOCKER_USERNAME and BOLLARD_DOCKER_PASSWORD",
    "docker-host": "set BOLLARD_DOCKER_HOST",
    "no-https": "set BOLLARD_NOHTTPS=1",
    "disable-cache": "set BOLLARD_DISABLE_CACHE=1, or use `bollard pull`",
}
# Directories of which every node has its own: an image there may exist on the nodes alone.
NODE_LOCAL = ("/tmp", "/var/tmp", "/dev/shm")


def resolve(values: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """`values` with environment forms replaced by the options they stand for, and "opts" by what it holds.

    An option given by name wins over its forms, or comes after them (bind, mount); among those BOLLARD_ wins over
    APPTAINER_ over SINGULARITY_ over PYXIS_; two forms of one prefix (BIND and BINDPATH) add up. Files of variables
    become the `env` they stand for.
    """
    present = dict(values)
    forms = {form.lstrip("!") for row in options.TABLE for form in options.variables(row)}
    result = [(name, value) for name, value in values if name not in forms]
    for row in options.TABLE:
        if row[0] in options.ADDED:
            result = [(row[0], value) for value in _from_environment(row, present)] + result
        elif row[0] not in present:
            result += [(row[0], value) for value in _from_environment(row, present)]
    switches = {row[0] for row in options.TABLE if not row[1]}
    result = _with_files(_with_opts(result))
    return [(name, str(int(spec.switch([value]))) if name in switches else value) for name, value in result]


def _from_environment(row: options.Row, present: dict[str, str]) -> list[str]:
    """The values of `row` in the first group of its forms that has any."""
    groups: dict[str, list[str]] = {}
    for form in options.variables(row):
        name = form.lstrip("!")
        if name in present:
            value = present[name]
            if form != name:
                value = "0" if spec.switch([value]) else "1"
            groups.setdefault(name[: name.index("_")], []).append(value)
    for found in groups.values():
        return found if row[0] in options.JOINED else found[:1]
    return []


def _with_opts(values: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """--container-opts: what `bollard exec` would understand, before what was given by name."""
    words = [value for name, value in values if name == "opts"]
    if not words:
        return values
    import shlex

    from bollard.runtime import cli_options, cli_tables

    try:
        split = shlex.split(" ".join(words))
    except ValueError as error:
        raise BollardError(f"container-opts {' '.join(words)!r}: {error}", "close every quotation mark") from None
    found, rest = cli_options.parse(split, "exec", cli_tables.FETCH)
    if rest:
        raise BollardError(f"container-opts: {rest[0]!r} is not an option", "an option's value may need an = before it")
    for name, _ in found:
        if name in cli_tables.FETCH:
            raise BollardError(f"container-opts: --{name} has no effect there", _FETCH_HINTS[name])
        if name in _NOT_IN_OPTS:
            raise BollardError(
                f"container-opts: --{name} means nothing there", "see the options of `bollard exec --help`"
            )
    given = {name for name, _ in values}
    found = [(name, value) for name, value in found if name in options.JOINED or name not in given]
    return [pair for pair in values if pair[0] != "opts"] + found


def _with_files(values: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """--env-file: what the files set, before what was given by --env, which so wins."""
    files = [value for name, value in values if name == "env-file"]
    if not files:
        return values
    from bollard.runtime import envfile

    return envfile.pairs(files) + [pair for pair in values if pair[0] != "env-file"]


def check(text: bytes, out: int) -> None:
    """Write the settled form of the spec `text` to `out`; BollardError for what cannot work."""
    values = _fetched(resolve(spec.pairs(text)))
    asked = spec.make(values)
    if asked.image and not any(name == "id" for name, _ in values) and not _on_nodes_only(asked.image):
        opened = image.open_image(asked.image, os.uname().machine)
        site.refuse_image(site.load(PREFIX), opened.fd, asked.asked)
        values.append(("id", ".".join(map(str, opened.identity))))
    values = [(name, asked.image if name == "image" else value) for name, value in values if name not in LAST]
    if asked.verbose:
        values.append(("verbose", str(time.time_ns())))
    os.write(out, spec.text(values))


def _fetched(values: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """With an image that lies elsewhere brought into the user's cache: once, here, and not on each node."""
    given = dict(values)
    uri = given.get("asked", "")
    if "#" in uri and not image.is_uri(uri) and not os.path.lexists(given["image"]):
        uri = f"docker://{uri}"  # pyxis's form, which needs no scheme
    if not image.is_uri(uri):
        return values
    from bollard.runtime import fetch, pull

    settings = fetch.settings([], os.environ)
    if settings.disable_cache:
        raise BollardError(f"{uri}: the cache is disabled, where a job's image is kept", "use `bollard pull`")
    found = pull.image_of(uri, settings)
    found.close()
    return [(name, found.path if name == "image" else value) for name, value in values]


def _on_nodes_only(path: str) -> bool:
    return not os.path.lexists(path) and any(path.startswith(place + "/") for place in NODE_LOCAL)
