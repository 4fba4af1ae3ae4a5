# SPDX-License-Identifier: BSD-3-Clause
"""Install a built plugin, and exchange it while jobs run. removal.py goes back, and uninstalls.

    PREFIX ──► PREFIX-1a2b3c4d/   the tree in use, with manifest.json and site.conf in it
               PREFIX-5e6f7a8b/   the tree before: for processes that started during the exchange, and for a rollback

PREFIX is a link, so an exchange is one rename(2). A process that has resolved PREFIX before keeps using the old tree.
With a destdir, PREFIX is a plain directory, for an archive that is unpacked on the nodes. packaged.py makes
the trees of this project's packages.

The manifest lists the files that were made outside the tree, and the versions with which the tree was built.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import bollard
from bollard.runtime import constants, installed
from bollard.runtime.errors import BollardError
from bollard.runtime.request import site, site_config
from bollard.runtime.system import owners
from bollard.spank_plugin import build, build_inside, installation, plugstack, toolchain, version
from bollard.spank_plugin.installation import Where

MODES = {
    "bollard-enter": 0o755, build_inside.PROGRAM: 0o755,
    # Users cannot read these programs, so the kernel does not let them trace these processes (ptrace(2)).
    "bollard-keeper": 0o711, "squashfuse": 0o711, "squashfuse2": 0o711, "squashfuse-owner": 0o711, "fuse2fs": 0o711,
    "fuse2fs2": 0o711, "fuse-overlayfs": 0o711, "mksquashfs": 0o711, "gpgv": 0o711, "bollard-cat": 0o711,
    "gocryptfs": 0o711, "openssl": 0o711,
    **dict.fromkeys(installed.OTHER_NAMES, 0o755),
}  # fmt: skip

# tmpfiles.d(5). An age counts from the last time that the file was written, read or changed.
PRUNING = f"""\
# Records of containers older than 90 days are removed. A file of this name in /etc/tmpfiles.d replaces another.
d {constants.RECORDS} 0755 root root 90d
d {constants.JOB_FOLDERS} 0755 root root -
"""

Say = Callable[[str], None]
Text = tuple[str, str, int]  # a file: path, content, mode


COMMAND = """\
#!{python} -ISXutf8
import os
import sys
sys.path.append(os.path.realpath({prefix!r}) + '/python')
try:
    from bollard.runtime.cli.main import main
except ModuleNotFoundError as error:
    why = {prefix!r} + f": the installation is missing or not whole (no module {{error.name}})"
    cure = "the administrator installs it again: the package, or `python3 spank_plugin` in a checkout"
    sys.stderr.write(f"bollard: {{why}}; {{cure}}\\n")
    sys.exit(255)
sys.exit(main())
"""


def command_text(prefix: str) -> str:
    """The text of the command `bollard` for the installation at `prefix`."""
    return COMMAND.format(python=sys.executable, prefix=prefix)


def install(where: Where, say: Say) -> None:
    """Build the plugin, install it and name it in Slurm's configuration. All checks come before the first change.

    Raises:
        BollardError: not root; `where.slurm_conf` is slurmd's copy; bollard.yaml is not valid; or something needed to
            build is missing. Also if others can change a file or directory that root uses.
    """
    settings = site_config.load(where.config)
    if installation.is_slurmds_copy(where.slurm_conf):
        raise BollardError(
            f"{where.slurm_conf}: slurmd copies these files from the controller, and would undo every change",
            "use --slurm-conf with another directory, and name the plugin in the controller's plugstack.conf",
        )
    if not where.destdir:
        require_root("install")
        refuse_package(where.prefix, "install with the package manager, or remove the package first")
        refuse(faults_before(where))
    with tempfile.TemporaryDirectory(prefix="bollard-build-") as scratch:
        work, out = Path(scratch, "work"), Path(scratch, "out")
        work.mkdir()
        out.mkdir()
        build.make(out, work, where.prefix, where.slurm_conf)
        (out / site.NAME).write_bytes(site_config.compiled(settings, where.prefix))
        make_names(where, out)
        built = {"slurm": toolchain.slurm_version(), "library": toolchain.python_name()}
        manifest = described(where, out, built)
        if where.destdir:
            _pack(where, out, manifest, say)
        else:
            texts = _texts(where, _is_free(where.image_launcher, _files(where.prefix)))
            put(where, out, manifest, texts, say)
            if settings.digest:
                say(f"compiled {where.config}")
            if where.image_launcher not in [path for path, _, _ in texts]:
                does = "it starts an image that is called as a program"
                say(f"left {where.image_launcher}, which is not bollard's: {does}")
            if where.names:
                say(f"for programs that call apptainer or singularity: PATH={where.prefix}/names:$PATH")
            made = read_manifest(where.prefix)
            refuse(owners.faults([*owners.tree(os.path.realpath(where.prefix)), *made["files"], *_outside(where)]))
            say("no daemon need be restarted: the next step uses it; `bollard site check` tells whether all is well")


def make_names(where: Where, out: Path) -> None:
    """Make `out`/names, the names of Apptainer, if they were asked for or the tree is for other machines."""
    for name in installed.OTHER_NAMES if where.names or where.destdir else ():
        (out / "names").mkdir(exist_ok=True)
        (out / "names" / name).write_text(command_text(where.prefix))


def _files(prefix: str) -> dict[str, str]:
    """The files outside the prefix that an installation has written, with their digests; empty for none."""
    try:
        known: dict[str, str] = read_manifest(prefix)["files"]
    except BollardError:
        return {}
    return known


def package_of(prefix: str) -> str:
    """The package that has the installation at `prefix`; "" for none."""
    try:
        kind = str(read_manifest(prefix).get("package") or "")
    except BollardError:
        return ""
    return owners.package(f"{prefix}/{installed.MANIFEST}") if kind == installation.ARCHIVE else kind


def refuse_package(prefix: str, hint: str) -> None:
    """Raise BollardError if a package has the installation at `prefix`."""
    package = package_of(prefix)
    if package:
        raise BollardError(f"{prefix} belongs to the package {package}", hint)


def require_root(verb: str) -> None:
    """Raise BollardError if this process is not root's; `verb` is the command, for the message."""
    if os.geteuid() != 0:
        hint = "use sudo" + (", or --destdir DIR to make a package" if verb == "install" else "")
        raise BollardError(f"site {verb} needs root", hint)


def faults_before(where: Where) -> list[owners.Fault]:
    """Paths that others can change, among those through which root would find the installation `where`."""
    return owners.faults(_existing([*_outside(where), *_interpreter()]))


def _interpreter() -> list[str]:
    """Files of others that root runs: the interpreter of the command, and the directories from which it loads."""
    return [sys.executable, *build.search_path()]


def _outside(where: Where) -> list[str]:
    """Directories and files through which Slurm and root find what they load."""
    return [
        os.path.dirname(where.prefix),
        where.bin,
        where.slurm_conf,
        os.path.dirname(where.line_file),
        installation.plugstack_file(where.slurm_conf),
    ]


def _existing(paths: Iterable[str]) -> list[str]:
    """Each path, or its deepest parent that exists."""
    found = []
    for path in paths:
        while not os.path.lexists(path):
            path = os.path.dirname(path)
        found.append(path)
    return found


def refuse(faults: list[owners.Fault]) -> None:
    """Raise BollardError if there are `faults`."""
    if faults:
        more = f" (and {len(faults) - 1} more: see `bollard site check`)" if len(faults) > 1 else ""
        raise BollardError(f"root would run files that others can change: {faults[0].text}{more}", faults[0].fix)


def described(where: Where, out: Path, built: dict[str, str]) -> dict[str, Any]:
    """The manifest of the tree `out`, before it is installed.

    where: the paths of the installation.
    out: the tree, complete.
    built: "slurm", the release for which the plugin is built, and "library", the name of Python's library.
    """
    server = toolchain.server() or ""
    return {
        "bollard": bollard.__version__ if not os.path.exists(build.TOP / ".git") else version.version(build.TOP),
        **built,
        "python": ".".join(map(str, sys.version_info[:3])),
        "squashfuse": [server, digest(server)],
        "digests": {str(path.relative_to(out)): digest(str(path)) for path in sorted(out.rglob("*")) if path.is_file()},
        "package": "",  # the package that made it; "archive" for a destdir
        "trees": [],
        "files": {},  # path: digest of the text that was written
        "directories": [],
        "include": "",  # the plugstack.conf to which an include line was added
        "where": {
            "slurm_conf": where.slurm_conf, "bin": where.bin, "config": where.config, "names": where.names,
        },
    }  # fmt: skip


def digest(path: str) -> str:
    """The SHA-256 of the file `path`, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def read_manifest(prefix: str) -> dict[str, Any]:
    """The manifest of the installation at `prefix`.

    Raises:
        BollardError: nothing is installed there, or the manifest cannot be read.
    """
    try:
        found: dict[str, Any] = json.loads(Path(prefix, installed.MANIFEST).read_text())
    except FileNotFoundError:
        raise BollardError(f"{prefix}: nothing was installed here", "is --prefix the right one?") from None
    except (OSError, ValueError) as error:
        text = f"{prefix}/{installed.MANIFEST} cannot be read ({error})"
        raise BollardError(text, "run `bollard site install`") from None
    return found


def _copy_tree(out: Path, target: Path, manifest: dict[str, Any]) -> None:
    (out / installed.MANIFEST).write_text(json.dumps(manifest, indent=1))
    shutil.copytree(out, target, symlinks=True)
    for path in [target, *target.rglob("*")]:
        if not path.is_symlink():
            path.chmod(MODES.get(path.name, 0o755 if path.is_dir() else 0o644))
        if os.geteuid() == 0:
            os.chown(path, 0, 0, follow_symlinks=False)


def _pack(where: Where, out: Path, manifest: dict[str, Any], say: Say) -> None:
    """Write the tree and the files outside it below the destdir, for a package."""
    target = where.at(where.prefix)
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    files = {path: hashlib.sha256(text.encode()).hexdigest() for path, text, _ in _texts(where)}
    _copy_tree(out, target, {**manifest, "package": installation.ARCHIVE, "files": files})
    for path, text, mode in _texts(where):
        where.at(path).parent.mkdir(parents=True, exist_ok=True)
        write(where.at(path), text, mode)
    say(f"made {target}, {where.at(where.command)} and {where.at(where.line_file)}")
    say(f"plugstack.conf of the nodes must have: include {where.include}")
    say(f"to make images programs, let update-alternatives link {where.image_launcher} to {where.prefix}/names/")


def _texts(where: Where, launcher: bool = False) -> list[Text]:
    """Each file outside the prefix. Slurm's configuration is last: it names the others.

    `launcher` includes the program that makes images programs.
    """
    return [
        (where.command, command_text(where.prefix), 0o755),
        *([(where.image_launcher, command_text(where.prefix), 0o755)] if launcher else []),
        (where.pruning, PRUNING, 0o644),
        (where.line_file, installation.plugstack_line(where), 0o644),
    ]


def write(path: Path, text: str | bytes, mode: int) -> None:
    """Write a file atomically: a new file with `mode`, then rename(2)."""
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    data = text.encode() if isinstance(text, str) else text
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with open(fd, "wb") as file:
        os.fchmod(fd, mode)
        file.write(data)
        file.flush()
        os.fsync(fd)
    fresh.rename(path)


def put(where: Where, out: Path, manifest: dict[str, Any], texts: list[Text], say: Say) -> None:
    """Copy the new tree beside the old one, change the prefix to it, and write the files outside.

    where: the paths of the installation.
    out: the new tree.
    manifest: its manifest; gets what is known only now.
    texts: the files outside the prefix.
    say: prints a line.
    """
    try:
        before = read_manifest(where.prefix)
    except BollardError:
        before = {"trees": [], "files": {}, "directories": [], "include": ""}
    prefix = Path(where.prefix)
    directories = list(before["directories"])
    for path in (where.prefix, *(path for path, _, _ in texts)):
        directories += _make_directories(os.path.dirname(path))
    tree = f"{prefix}-{secrets.token_hex(4)}"
    old = os.path.realpath(prefix) if prefix.is_symlink() else ""
    aside = f"{prefix}-{secrets.token_hex(4)}" if prefix.is_dir() and not old else ""
    manifest.update(
        trees=[path for path in (tree, old or aside) if path],
        directories=directories,
        files={path: hashlib.sha256(text.encode()).hexdigest() for path, text, _ in texts},
        include=before["include"],
    )
    stack = installation.plugstack_file(where.slurm_conf)
    text = text_of(stack)
    if not manifest["package"]:  # else plugstack.conf belongs to Slurm's package, and Debian's has the include line
        _note_plugstack(manifest, before["files"], where, stack, text)
    _copy_tree(out, Path(tree), manifest)
    _switch(prefix, tree, aside, out)
    for leftover in before["trees"]:
        if leftover not in manifest["trees"]:
            shutil.rmtree(leftover, ignore_errors=True)
    was = f" (was {before['bollard']})" if before.get("bollard") else ""
    built = f"Slurm {manifest['slurm']}" if manifest["slurm"] else "no Slurm"
    release = f"bollard {manifest['bollard']}{was}, for {built} and Python {manifest['python']}"
    say(f"{'exchanged' if old or aside else 'installed'} {prefix}: it is {tree}; {release}")
    _write_texts(where, texts, before["files"].get(where.line_file, ""), say)
    for path in set(before["files"]) - set(manifest["files"]):
        if os.path.lexists(path) and digest(path) == before["files"][path] and not owners.package(path):
            os.unlink(path)
            say(f"removed {path}")
    if manifest["include"] and manifest["include"] != before["include"]:
        mode = os.stat(stack).st_mode & 0o777 if os.path.lexists(stack) else 0o644
        write(Path(stack), plugstack.with_include(text, where.include), mode)
        say(f"added to {stack}: include {where.include}")
    if manifest["slurm"] and installation.conf_in_use(where.slurm_conf) != where.slurm_conf:
        line = installation.plugstack_line(where._replace(slurm_conf=installation.CONFIGLESS)).strip()
        say(f"Slurm's files come from the controller here: write into its plugstack.conf itself: {line}")


def _note_plugstack(manifest: dict[str, Any], before: dict[str, str], where: Where, stack: str, text: str) -> None:
    """Note in the manifest whether plugstack.conf gets the include line, and its digest if this installation made it.

    manifest: of the new tree; gets the notes.
    before: the digests of the files of the installation before, by path.
    where: the paths of the installation.
    stack: the path of plugstack.conf.
    text: its text, "" if it does not exist.
    """
    if not plugstack.includes_file(text, stack, where.line_file):
        manifest["include"] = stack
        if not os.path.lexists(stack):
            manifest["files"][stack] = hashlib.sha256(plugstack.with_include(text, where.include).encode()).hexdigest()
    elif stack in before:
        manifest["files"][stack] = before[stack]


def _write_texts(where: Where, texts: list[Text], line_digest: str, say: Say) -> None:
    """Write the files outside the prefix that differ from what is there. A changed line of the plugin stays.

    where: the paths of the installation.
    texts: the files.
    line_digest: the digest of the plugin's line as it was installed, "" if it was not.
    say: prints a line.
    """
    for path, content, mode in texts:
        found = text_of(path)
        if path == where.line_file and _is_changed_line(where, found, line_digest):
            say(f"kept {path}: changed since it was installed")
        elif found != content:
            say(f"{'changed' if os.path.lexists(path) else 'wrote'} {path}")
            write(Path(path), content, mode)


def _is_changed_line(where: Where, found: str, written: str) -> bool:
    """Whether somebody has changed the file of the plugin's line, and it still loads this plugin, as `required`.

    where: the paths of the installation.
    found: the text of the file.
    written: the digest of the text that was written; "" for none.
    """
    loaded = [(line.required, line.plugin) for line in plugstack.plugins(found, where.line_file)]
    changed = hashlib.sha256(found.encode()).hexdigest() != written
    return bool(written) and changed and loaded == [(True, f"{where.prefix}/spank_bollard.so")]


def _is_free(path: str, known: dict[str, str]) -> bool:
    """Whether a file may be written to `path`: none is there, or one that an earlier installation wrote.

    `known` are the files of that installation with their digests.
    """
    return not os.path.lexists(path) or (os.path.isfile(path) and known.get(path) == digest(path))


def text_of(path: str) -> str:
    """The text of a file; "" if it does not exist."""
    try:
        return Path(path).read_text()
    except FileNotFoundError:
        return ""


def _make_directories(path: str) -> list[str]:
    """Make `path` and its parents. Returns those that were made, the deepest first."""
    made = []
    parent = path
    while not os.path.lexists(parent):
        made.append(parent)
        parent = os.path.dirname(parent)
    for folder in reversed(made):
        os.mkdir(folder, 0o755)
        os.chmod(folder, 0o755)
    return made


def _switch(prefix: Path, tree: str, aside: str, out: Path) -> None:
    """Make `prefix` a link to `tree`, atomically.

    Args:
        prefix: the link, which may be a plain directory now.
        tree: the new tree.
        aside: new name for a plain directory at `prefix`; "" when there is none.
        out: the built tree, whose compiled module is needed to exchange two names.
    """
    link = Path(f"{prefix}.{secrets.token_hex(4)}")
    link.symlink_to(os.path.basename(tree))
    if not aside:
        link.rename(prefix)
        return
    import bollard.runtime.system

    bollard.runtime.system.__path__.append(
        str(out / "python/bollard/runtime/system")
    )  # a checkout has no compiled module
    from bollard.runtime.system import linux

    try:
        linux.exchange(str(link), str(prefix))
        link.rename(aside)
    except OSError:  # for example NFS, which cannot exchange names. Not atomic, but `prefix` is a link from here on.
        prefix.rename(aside)
        link.rename(prefix)


def configure(where: Where, say: Say) -> None:
    """Compile bollard.yaml into the existing installation.

    Raises:
        BollardError: not root, nothing is installed, or bollard.yaml is not valid.
    """
    settings = site_config.load(where.config)
    require_root("configure")
    read_manifest(where.prefix)
    compiled = site_config.compiled(settings, where.prefix)
    write(Path(where.prefix, site.NAME), compiled, 0o644)
    if settings.digest:
        say(f"compiled {where.config}; the next step follows it")
    else:
        say(f"{where.config} is not there: the defaults hold from the next step on")
