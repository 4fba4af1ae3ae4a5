# SPDX-License-Identifier: BSD-3-Clause
"""Write the metadata of a definition file into the tree: `.singularity.d`, labels, scripts, apps."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Iterable, Mapping

import bollard
from bollard.runtime.build import definition, scif
from bollard.runtime.build.definition import Stage
from bollard.runtime.errors import BollardError
from bollard.runtime.image import layout, source_tree
from bollard.runtime.system.tree import Tree

SCRIPT = "/.singularity.d/env/90-environment.sh"
# %post may write variables to the first and labels to the second.
POST_SCRIPT = "/.singularity.d/env/91-environment.sh"
POST_LABELS = "/.build.labels"
_DEFINITION = "/.singularity.d/Singularity"
_HISTORY = "/.singularity.d/bootstrap_history"
_LABELS = "/.singularity.d/labels.json"
_HELP = "/.singularity.d/runscript.help"
_SCHEMA = "org.label-schema.usage"


def base(tree: Tree, overwrite: bool) -> None:
    """Write the files that every image has. `overwrite` is False if the tree comes from another image."""
    for path, mode in layout.DIRECTORIES:
        if not tree.exists(path):
            tree.makedirs(path, mode)
    for path in layout.OWN_DIRECTORIES:
        tree.makedirs(path)
    for path, text in layout.OWN_SCRIPTS.items():
        if overwrite or not tree.exists(path):
            tree.write(path, text.encode(), 0o755)
    for path in layout.EMPTY_FILES:
        if overwrite and not tree.is_link(path) or not tree.exists(path):
            tree.write(path, b"")
    for path, target in layout.OWN_LINKS.items():
        tree.link(path, target)


def apps(tree: Tree, stage: Stage) -> None:
    """Write the files and directories of the stage's SCIF apps."""
    if not stage.apps:
        return
    for app in stage.apps:
        for path in scif.directories(app):
            tree.makedirs(path)
        _write(tree, scif.files(app))
    _write(tree, scif.shared_files(stage.apps))


def metadata(tree: Tree, stage: Stage, text: str, sections: frozenset[str], *, force: bool, bootstrapped: bool) -> None:
    """Write the metadata of a finished stage: help, labels, definition file, environment and scripts.

    tree: the tree of the image.
    stage: the stage of the definition.
    text: the text of the definition file.
    sections: the names of the sections to use.
    force: replace existing help and labels.
    bootstrapped: the tree was made by the bootstrap agent, so labels from the header are added.

    Raises:
        BollardError: the file of labels in the tree is not a JSON object.
    """

    def wanted(name: str) -> str:
        return stage.script(name).text if name in sections else ""

    if wanted("help") and (force or not tree.exists(_HELP)):
        tree.write(_HELP, _bytes(wanted("help") + "\n"))
    labels = _labels(tree, stage, sections, force, bootstrapped)
    tree.write(_LABELS, json.dumps(labels, indent="\t", sort_keys=True).encode() + b"\n")
    old = tree.read(_DEFINITION)
    if old is not None:
        tree.makedirs(_HISTORY)
        tree.write(f"{_HISTORY}/Apptainer{len(tree.names(_HISTORY))}", old)
    tree.write(_DEFINITION, _bytes(text))
    if wanted("environment"):
        before = tree.read(SCRIPT) or b"#!/bin/sh\n"
        tree.write(SCRIPT, before + b"\n" + _bytes(wanted("environment")) + b"\n", 0o755)
    for name in ("runscript", "startscript", "test"):
        if wanted(name):
            script = definition.shebang_script(stage.script(name))
            tree.write(f"/.singularity.d/{name}", _bytes(script), 0o755)


def read_labels(tree: Tree) -> dict[str, str]:
    """Return the labels in the tree; empty if it has none or they are not JSON, which one line on stderr says.

    Raises:
        BollardError: the file holds JSON that is not an object.
    """
    text = tree.read(_LABELS)
    if not text:
        return {}
    try:
        found = json.loads(text)
    except ValueError as error:
        print(f"bollard: {_LABELS} of the image is not JSON ({error}); its labels are left out", file=sys.stderr)
        found = None
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise BollardError(f"{_LABELS} of the image: not a JSON object", "repair or remove it")
    return {str(name): str(value) for name, value in found.items()}


def _labels(tree: Tree, stage: Stage, sections: frozenset[str], force: bool, bootstrapped: bool) -> Mapping[str, str]:
    labels = read_labels(tree)
    post = tree.read(POST_LABELS)
    if post is not None:
        tree.remove(POST_LABELS)
        labels.update(definition.labels(post.decode("utf-8", "replace")))
    labels.update(source_tree.schema_labels(source_tree.tree_arch(tree.path)))
    labels[f"{_SCHEMA}.bollard.version"] = bollard.__version__
    if "help" in sections and stage.script("help").text:
        labels[_SCHEMA] = _HELP
        labels[f"{_SCHEMA}.apptainer.runscript.help"] = _HELP
    if bootstrapped:
        labels.update((f"{_SCHEMA}.singularity.deffile.{key}", value) for key, value in stage.header.items())
    if "labels" in sections:
        labels.update((key, value) for key, value in stage.labels.items() if force or key not in labels)
    return labels


def _write(tree: Tree, files: Iterable[scif.File]) -> None:
    for file in files:
        tree.write(file.path, file.data, file.mode)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def fix_permissions(root: str) -> None:
    """Let the owner of each file below `root` read and write it, and enter each directory."""
    for _, _, files, fd in os.fwalk(root, onerror=_raise):
        for name in files:
            info = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if stat.S_ISREG(info.st_mode):
                os.chmod(name, stat.S_IMODE(info.st_mode) | 0o600, dir_fd=fd)
        os.fchmod(fd, stat.S_IMODE(os.fstat(fd).st_mode) | 0o700)


def _raise(error: OSError) -> None:
    raise error
