# SPDX-License-Identifier: BSD-3-Clause
"""The command `bollard build`: turn its options into a request for the builder."""

from __future__ import annotations

import os
import re
import shlex
import sys
import time

from bollard.runtime import causes, installed
from bollard.runtime.build import builder, definition, dockerfile, recipes, target
from bollard.runtime.cli import encryption_key, slurm_build
from bollard.runtime.errors import BollardError
from bollard.runtime.fetch import sources
from bollard.runtime.request import command_line, site
from bollard.runtime.request.binds import parse_binds, parse_mount
from bollard.runtime.system import rootless, workspace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bollard.runtime.request.spec import Bind


def run(name: str, given: list[tuple[str, str]], words: list[str]) -> int:
    """Run `bollard build`; return the exit status.

    name: the name of the command.
    given: the parsed options, name and value.
    words: the arguments; exactly two, TARGET and SOURCE.

    Raises:
        BollardError: the number of arguments is wrong, an option is invalid, or the build fails.
    """
    asked = dict(given)
    if "print" in asked and len(words) in (1, 2):
        sys.stdout.write(_definition(words[-1], asked))
        return 0
    if len(words) != 2:
        raise BollardError(f"build takes two names, not {len(words)}", "write `bollard build TARGET SOURCE`")
    wanted = request(given, words)
    if "on-slurm" in asked:
        encryption_key.refuse_on_slurm(given)
        slurm_build.start(wanted, given, words)
    wanted = wanted._replace(key=encryption_key.for_build(given))
    if wanted.key and wanted.sandbox:
        raise BollardError("--sandbox: a directory cannot be encrypted", "leave --sandbox or the key out")
    if dockerfile.is_one(words[1]):
        _from_dockerfile(wanted)
        return 0
    if recipes.kind(words[1]):
        wanted = wanted._replace(text=recipes.definition(words[1], _bases(asked)))
    builder.run(wanted)
    return 0


def _definition(source: str, asked: dict[str, str]) -> str:
    """Return the text of the definition that a source stands for."""
    if dockerfile.is_one(source):
        return f"# buildah carries {source} out, and writes image.tar\n{dockerfile.definition('image.tar')}"
    if recipes.kind(source):
        return recipes.definition(source, _bases(asked))
    return builder.load(source, {}).text


def _bases(asked: dict[str, str]) -> recipes.Bases:
    """Return the base images: the user's, else the site's."""
    if "base" in asked:
        return recipes.Bases(asked["base"], asked["base"])
    here = site.load(installed.PREFIX)
    return recipes.Bases(here.python_base, here.conda_base)


def _from_dockerfile(wanted: builder.Request) -> None:
    """Build an image from a Dockerfile: buildah's work, then the conversion of its image."""
    target.check(wanted.target, wanted.source, wanted.sandbox, wanted.force, wanted.update)
    way = rootless.choose(wanted.ignore_subuid, wanted.ignore_seccomp)
    try:
        with rootless.interruptible():
            place = workspace.make(workspace.parent(os.environ))
            try:
                archive = dockerfile.make(wanted.source, place, wanted.arguments, wanted.fetch, way)
                text = dockerfile.definition(archive)
                builder.make(wanted._replace(text=text, arguments={}))
            finally:
                workspace.remove(place, way)
    except rootless.Interrupted as interrupted:
        rootless.end_by(interrupted.number)


def request(given: list[tuple[str, str]], words: list[str]) -> builder.Request:
    """Return the request for the builder; `given` are the options, `words` are TARGET and SOURCE.

    With --reproducible this sets SOURCE_DATE_EPOCH in this process's environment, if it is not set.

    Raises:
        BollardError: an option or its value is not valid, or TARGET or SOURCE is missing.
    """
    command_line.refuse_empty(given)
    asked = dict(given)
    switches = {option for option, _ in given}
    if "reproducible" in switches and "SOURCE_DATE_EPOCH" not in os.environ:
        os.environ["SOURCE_DATE_EPOCH"] = str(int(_newest(words[1])))
    home = os.path.expanduser("~")
    return builder.Request(
        target=words[0],
        source=words[1],
        sandbox="sandbox" in switches or "update" in switches,
        force="force" in switches,
        update="update" in switches,
        test="notest" not in switches,
        sections=_sections([value for option, value in given if option == "section"]),
        arguments=_arguments(given),
        allow_unused="warn-unused-build-args" in switches,
        binds=tuple(bind for option, value in given for bind in _binds(option, value, home)),
        ignore_subuid="ignore-subuid" in switches,
        ignore_seccomp="ignore-seccomp" in switches,
        sbom="no-sbom" not in switches,
        fetch=sources.settings(with_variant(given), os.environ),
        arch=asked.get("arch", ""),
        layered_test=asked.get("writable-tmpfs") == "1",
        fix_permissions=asked.get("fix-perms") == "1",
        squash_arguments=_words(asked.get("mksquashfs-args", "")),
        keep_failed=asked.get("no-cleanup") == "1",
    )


def with_variant(given: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the options with --arch-variant as a part of --arch.

    Raises:
        BollardError: --arch-variant without --arch.
    """
    asked = dict(given)
    if "arch-variant" not in asked:
        return given
    if "arch" not in asked:
        raise BollardError(f"--arch-variant {asked['arch-variant']}: of which architecture?", "add --arch ARCH")
    return [*given, ("arch", f"{asked['arch'].partition('/')[0]}/{asked['arch-variant']}")]


def _words(text: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise BollardError(f"--mksquashfs-args {text}: {error}", "close the quotation mark") from None


def _newest(source: str) -> float:
    """Return the modification time of the source, which is the same in each build; now if there is no such file."""
    try:
        return os.path.getmtime(source)
    except OSError:
        return time.time()  # a URI, or a name that the builder will refuse


def _binds(option: str, value: str, home: str) -> tuple[Bind, ...]:
    if option == "mount":
        return (parse_mount(value, os.getcwd(), home),)
    if option != "bind":
        return ()
    if re.search(r"(?<!\\):(?=[:,]|$)|^,|,,|,$", value):
        raise BollardError(f"--bind {value}: a part of it is empty", "write SRC[:DST[:ro]], commas between several")
    return parse_binds(value, os.getcwd(), home)


def _sections(values: list[str]) -> frozenset[str]:
    names = [name for value in values for name in value.split(",")]
    for name in names:
        if name not in ("all", "none") and name not in builder.SECTIONS:
            raise BollardError(
                f"--section {name}: no such section", "known are all, none, " + ", ".join(sorted(builder.SECTIONS))
            )
    if not names or "all" in names:
        return builder.SECTIONS
    return frozenset(names) - {"none"}


def _arguments(given: list[tuple[str, str]]) -> dict[str, str]:
    text = file = ""
    for option, value in given:
        if option == "build-arg-file":
            if file:
                raise BollardError(f"--build-arg-file {value}: {file} is one already", "put both into one file")
            file = value
            try:
                with open(file, encoding="utf-8", errors="surrogateescape") as opened:
                    text = opened.read(definition.MAX_BYTES)
            except OSError as error:
                raise causes.of(error, f"--build-arg-file {file}", file, "check the path") from None
    found, warnings = definition.build_arguments(
        [value for option, value in given if option == "build-arg"], text, file
    )
    for warning in warnings:
        os.write(2, f"bollard: warning: {warning}\n".encode("utf-8", "surrogateescape"))
    return found
