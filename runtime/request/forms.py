# SPDX-License-Identifier: BSD-3-Clause
"""Replace environment forms, --container-opts and --env-file by the options that they stand for."""

from __future__ import annotations

import os

from bollard.runtime.errors import BollardError
from bollard.runtime.request import options, spec

# Options that --container-opts cannot contain.
_NOT_IN_OPTS = ("image", "opts", "help")
# What to do instead of an option for fetching: the image has been fetched before --container-opts is read.
_FETCH_HINTS = {
    "authfile": "run `skopeo login`, or set BOLLARD_DOCKER_USERNAME and BOLLARD_DOCKER_PASSWORD",
    "docker-login": "run `skopeo login`, or set BOLLARD_DOCKER_USERNAME and BOLLARD_DOCKER_PASSWORD",
    "docker-host": "set BOLLARD_DOCKER_HOST",
    "no-https": "set BOLLARD_NOHTTPS=1",
    "disable-cache": "set BOLLARD_DISABLE_CACHE=1, or use `bollard pull`",
}


def resolve(values: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return `values` with forms, "opts" and "env-file" replaced by the options that they stand for.

    An option given by name wins over its forms. For bind and mount both count, and the forms come first. Of several
    forms the first of BOLLARD_, APPTAINER_, SINGULARITY_ and PYXIS_ wins; two forms of one prefix (BIND and BINDPATH)
    both count. An env-file becomes `env` options.

    Raises:
        BollardError: --container-opts or an env-file is not valid.
    """
    present = dict(values)
    variables = options.all_variables()
    result = [(name, value) for name, value in values if name not in variables]
    for row in options.TABLE:
        if row.added:
            result = [(row.name, value) for value in _from_environment(row, present)] + result
        elif row.name not in present:
            result += [(row.name, value) for value in _from_environment(row, present)]
    switches = {row.name for row in options.TABLE if not row.argument}
    result = _with_files(_with_opts(result))
    return [(name, str(int(spec.switch([value]))) if name in switches else value) for name, value in result]


def resolve_for_job(values: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return what `resolve` returns, for a job: without the home, a working directory that is the home is left out too.

    `bollard exec --no-home` shows it there, as Apptainer does. pyxis does not show it, whose option this is in a job.

    Raises:
        BollardError: as of `resolve`.
    """
    found = resolve(values)
    given = dict(found)
    home, cwd = given.get("userhome", ""), given.get("cwd", "")
    hidden = spec.switch([given.get("no-home", "")]) and home and os.path.realpath(cwd) == os.path.realpath(home)
    return [*found, ("no-mount", "cwd")] if hidden else found


def _from_environment(row: options.Row, present: dict[str, str]) -> list[str]:
    """Return the values of `row` from its environment forms: those of the first prefix that has any."""
    groups: dict[str, list[str]] = {}
    for form in options.variables(row):
        name = form.lstrip("!")
        if name in present:
            value = present[name]
            if form != name:
                value = "0" if spec.switch([value]) else "1"
            groups.setdefault(name[: name.index("_")], []).append(value)
    for found in groups.values():
        return found if row.name in options.JOINED else found[:1]
    return []


def _with_opts(values: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Replace "opts" by the options in it. An option that was given by name wins."""
    words = [value for name, value in values if name == "opts"]
    if not words:
        return values
    import shlex

    from bollard.runtime.request import command_line, command_options

    try:
        split = shlex.split(" ".join(words))
    except ValueError as error:
        raise BollardError(f"container-opts {' '.join(words)!r}: {error}", "close every quotation mark") from None
    if not split:
        raise BollardError("--container-opts has no value", "give one, or leave the option out")
    found, rest = command_line.parse(split, "exec", command_options.FETCH)
    if rest:
        raise BollardError(f"container-opts: {rest[0]!r} is not an option", "an option's value may need an = before it")
    for name, _ in found:
        if name in command_options.FETCH:
            raise BollardError(f"container-opts: --{name} has no effect there", _FETCH_HINTS[name])
        if name in _NOT_IN_OPTS:
            raise BollardError(
                f"container-opts: --{name} means nothing there", "see the options of `bollard exec --help`"
            )
    command_line.refuse_empty(found)
    given = {name for name, _ in values}
    found = [(name, value) for name, value in found if name in options.JOINED or name not in given]
    return [pair for pair in values if pair[0] != "opts"] + found


def _with_files(values: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Replace "env-file" by the variables that the files set. They come before those of --env, so that --env wins."""
    files = [value for name, value in values if name == "env-file"]
    if not files:
        return values
    from bollard.runtime.request import envfile

    return envfile.pairs(files) + [pair for pair in values if pair[0] != "env-file"]
