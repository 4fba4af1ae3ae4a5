# SPDX-License-Identifier: BSD-3-Clause
"""What the scripts of the packages call, as root; in packages/ `dpkg -i` and `rpm -U` replace files one by one.

    FILES/command/   the files of the package `bollard`
    FILES/slurm/     those of the package `bollard-slurm`, which lie over the former
    PREFIX ──► PREFIX-1a2b3c4d/   a copy of both, with this machine's FUSE servers and the compiled bollard.yaml

So an upgrade under running jobs is one rename(2), as with `bollard site install`. FILES and PREFIX are beside each
other. Each part has a file `built` with its version: a tree is made of parts of one version only.

    python3 -IB FILES/command/python/bollard/spank_plugin/packaged.py VERB

    assemble   make the tree anew if anything in it would differ, and exchange it; write the plugin's line
    detach     remove the plugin's line for Slurm, before the files of `bollard-slurm` are removed
    remove     remove the tree and all else that `assemble` has made
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
import tempfile
from pathlib import Path
from typing import Any

if not __package__:  # run by its path
    import importlib.util

    sys.dont_write_bytecode = True
    top = Path(__file__).resolve().parent.parent
    found = importlib.util.spec_from_file_location(
        "bollard", str(top / "__init__.py"), submodule_search_locations=[str(top)]
    )
    assert found and found.loader
    sys.modules["bollard"] = importlib.util.module_from_spec(found)
    found.loader.exec_module(sys.modules["bollard"])

from bollard.runtime.errors import BollardError  # noqa: E402
from bollard.runtime.request import site, site_config  # noqa: E402
from bollard.runtime.system import owners  # noqa: E402
from bollard.spank_plugin import build, install, installation, removal, toolchain  # noqa: E402
from bollard.spank_plugin.install import Say  # noqa: E402
from bollard.spank_plugin.installation import Where  # noqa: E402

FILES = "/usr/lib/bollard-files"
COMMAND, SLURM, BUILT = "command", "slurm", "built"


def parts(files: Path) -> list[Path]:
    """The parts of a tree: that of the command, and that of the plugin if its package is there.

    Empty while a package manager has unpacked one of the two packages and not the other: the scripts of the second
    make the tree.
    """
    plugin = files / SLURM
    if not (plugin / BUILT).exists():
        return [files / COMMAND]
    both = [files / COMMAND, plugin]
    return both if len({_built(part)["bollard"] for part in both}) == 1 else []


def _built(part: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads((part / BUILT).read_text())
    return found


def assemble(where: Where, files: Path, say: Say) -> None:
    """Make the tree of the packages' files, and exchange the one in use for it, unless it would be equal.

    Raises:
        BollardError: root would run files that others can change; something that the packages depend on is missing;
            bollard.yaml is not valid and was never compiled.
    """
    chosen = parts(files)
    if not chosen:
        return
    install.refuse(install.faults_before(where))
    if toolchain.server() is None:
        raise BollardError("squashfuse is missing", "install squashfuse")
    built = {"slurm": "", "library": "", **_built(chosen[-1])}
    with tempfile.TemporaryDirectory(prefix="bollard-assemble-") as scratch:
        out = Path(scratch, "out")
        for part in chosen:
            shutil.copytree(part, out, symlinks=True, dirs_exist_ok=True, ignore=shutil.ignore_patterns(BUILT))
        build.complete(out, where.prefix)
        (out / site.NAME).write_bytes(_settings(where, say))
        package = "bollard-slurm" if len(chosen) > 1 else "bollard"
        manifest = {**install.described(where, out, built), "package": package}
        line = (where.line_file, installation.plugstack_line(where), 0o644)
        texts = [line] if len(chosen) > 1 else []
        if not _is_installed(where, manifest, texts):
            install.put(where, out, manifest, texts, say)
        install.refuse(owners.faults([*owners.tree(os.path.realpath(where.prefix))]))


def _settings(where: Where, say: Say) -> bytes:
    """bollard.yaml compiled. If it has a mistake, `say` prints it, and what was compiled before stays in force.

    Raises:
        BollardError: it has a mistake, and was never compiled.
    """
    try:
        return site_config.compiled(site_config.load(where.config), where.prefix)
    except BollardError as error:
        try:
            before = Path(where.prefix, site.NAME).read_bytes()
        except OSError:
            raise error from None
        say(f"bollard: {error}; the settings before stay in force: mend it, then `bollard site configure`")
        return before


def _is_installed(where: Where, manifest: dict[str, Any], texts: list[install.Text]) -> bool:
    """Whether the tree in use is equal and whole, and the files outside are there."""
    try:
        now = install.read_manifest(where.prefix)
    except BollardError:
        return False
    same = all(now.get(key) == manifest[key] for key in ("bollard", "package", "digests", "squashfuse"))
    linked = same and os.path.islink(where.prefix)
    return linked and all(os.path.lexists(path) for path, _, _ in texts) and _is_whole(where.prefix, manifest)


def _is_whole(prefix: str, manifest: dict[str, Any]) -> bool:
    """Whether each file and directory is as it was made. An administrator installs a package again to mend the tree."""
    modes = {name: install.MODES.get(os.path.basename(name), 0o644) for name in manifest["digests"]}
    folders = {parent: 0o755 for name in modes for parent in map(str, Path(name).parents)}
    try:
        found = {name: os.stat(f"{prefix}/{name}") for name in (*modes, *folders)}
        changed = [name for name, wanted in manifest["digests"].items() if install.digest(f"{prefix}/{name}") != wanted]
    except OSError:
        return False  # a file is missing or cannot be read: the caller makes the tree again
    right = all(
        stat.S_IMODE(info.st_mode) == {**modes, **folders}[name] and info.st_uid == 0 for name, info in found.items()
    )
    return right and not changed


def detach(where: Where, say: Say) -> None:
    """Remove the plugin's line, so that no Slurm looks for a plugin whose files are removed next."""
    removal.remove_line(where, say)


def remove(where: Where, say: Say) -> None:
    """Remove all that `assemble` has made."""
    removal.remove(where, say)


def main(verb: str) -> int:
    """Run one verb; return the exit status."""
    where = Where()
    try:
        if verb == "assemble":
            assemble(where, Path(FILES), print)
        elif os.path.lexists(where.prefix):
            {"detach": detach, "remove": remove}[verb](where, print)
    except BollardError as error:
        print(f"bollard: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
