# SPDX-License-Identifier: BSD-3-Clause
"""Go back to the tree before (`bollard site rollback`), and uninstall (`bollard site uninstall`)."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from pathlib import Path

from bollard.runtime import installed
from bollard.runtime.errors import BollardError
from bollard.runtime.request import site, site_config
from bollard.spank_plugin import install, installation, plugstack
from bollard.spank_plugin.install import Say, digest, read_manifest, text_of, write
from bollard.spank_plugin.installation import Where


def rollback(where: Where, say: Say) -> None:
    """Make the tree before the one in use again, atomically; a second rollback undoes this one.

    Raises:
        BollardError: not root, nothing is installed, a package manager made it, or there is no tree before.
    """
    install.require_root("rollback")
    manifest = read_manifest(where.prefix)
    install.refuse_package(where.prefix, "install the version before with the package manager")
    now = os.path.realpath(where.prefix)
    there = (tree for tree in manifest["trees"] if os.path.exists(f"{tree}/{installed.MANIFEST}"))
    old = next((tree for tree in there if tree != now), "")
    if not old:
        raise BollardError(f"{where.prefix}: there is no tree before this one", "`bollard site install` keeps one")
    # What lies outside the trees is the same for both, and is in the manifest of the tree in use.
    kept = {name: manifest[name] for name in ("files", "directories", "include", "where")}
    before = read_manifest(old)
    write(Path(old, installed.MANIFEST), json.dumps({**before, **kept, "trees": [old, now]}, indent=1), 0o644)
    write(Path(old, site.NAME), site_config.compiled(site_config.load(where.config), where.prefix), 0o644)
    link = Path(f"{where.prefix}.{secrets.token_hex(4)}")
    link.symlink_to(os.path.basename(old))
    link.rename(where.prefix)
    say(f"exchanged {where.prefix}: it is {old}; bollard {_version(before)} (was {_version(manifest)})")
    say("the next step uses it; a second rollback undoes this one")


def _version(manifest: dict[str, object]) -> str:
    return str(manifest.get("bollard", "of unknown version"))


def uninstall(where: Where, say: Say) -> None:
    """Remove what `install` made and nothing else, Slurm's configuration first. Reports through `say` what stays.

    Raises:
        BollardError: not root, nothing is installed, or the installation belongs to a package.
    """
    install.require_root("uninstall")
    install.refuse_package(where.prefix, "remove it with the package manager")
    remove(where, say)


def remove(where: Where, say: Say) -> None:
    """Remove an installation, without the checks of `uninstall` (root, package). Reports through `say` what stays."""
    manifest = read_manifest(where.prefix)
    left = []
    include = manifest["include"]
    alone = not [name for name in _names(os.path.dirname(where.line_file)) if name != "bollard.conf"]
    for path in sorted(manifest["files"], key=lambda path: not path.startswith(where.slurm_conf)):
        if not os.path.lexists(path):
            continue
        if digest(path) != manifest["files"][path]:
            if path == where.line_file:
                _drop_line(path)
            if os.path.lexists(path):
                left.append(f"{path}: changed since it was installed")
        elif path == include and not alone:
            continue
        else:
            os.unlink(path)
            say(f"removed {path}")
    if include and os.path.lexists(include):
        text = text_of(include)
        if not alone:
            left.append(f"{include}: its include line serves other files of {os.path.dirname(where.line_file)}")
        elif plugstack.without_include(text, where.include) != text:
            mode = os.stat(include).st_mode & 0o777
            write(Path(include), plugstack.without_include(text, where.include), mode)
            say(f"removed from {include}: include {where.include}")
    if os.path.islink(where.prefix):
        os.unlink(where.prefix)
    else:
        shutil.rmtree(where.prefix)
    for tree in manifest["trees"]:
        shutil.rmtree(tree, ignore_errors=True)
    say(" and ".join([f"removed {where.prefix}", *manifest["trees"]]))
    directories = [*manifest["directories"], *_of_archive(where, manifest["package"])]
    for folder in sorted(directories, key=len, reverse=True):
        with contextlib.suppress(FileNotFoundError):
            try:
                os.rmdir(folder)
                say(f"removed {folder}")
            except OSError:
                left.append(f"{folder}: not empty")
    if os.path.lexists(where.config):
        left.append(f"{where.config}: yours")
    for line in left:
        say(f"left {line}")
    if where.line_file in manifest["files"]:
        said = "without an oci.conf it runs such jobs on the host, silently"
        say(f"--container is Slurm's own from here on: {said}")


def remove_line(where: Where, say: Say) -> None:
    """Remove the plugin's line for Slurm: its file, or the line in it if somebody has changed the file."""
    path = where.line_file
    if not os.path.lexists(path):
        return
    if digest(path) == read_manifest(where.prefix)["files"].get(path):
        os.unlink(path)
    else:
        _drop_line(path)
    say(f"removed the plugin's line from {path}")


def _drop_line(path: str) -> None:
    """Remove the plugin's line from a file that somebody has changed: it would name a file that is gone.

    The file goes too if nothing else is in it.
    """
    text = text_of(path)
    gone = {line.number for line in plugstack.plugins(text, path) if line.plugin.endswith("/spank_bollard.so")}
    kept = "".join(line for number, line in enumerate(text.splitlines(keepends=True), 1) if number not in gone)
    if kept.strip():
        write(Path(path), kept, os.stat(path).st_mode & 0o777)
    else:
        os.unlink(path)


def _of_archive(where: Where, kind: str) -> list[str]:
    """The directory of the plugin's line, if an archive brought it: no manifest tells who has made it."""
    folder = os.path.dirname(where.line_file)
    return [folder] if kind == installation.ARCHIVE and os.path.isdir(folder) and not _names(folder) else []


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []
