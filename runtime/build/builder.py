# SPDX-License-Identifier: BSD-3-Clause
"""Build an image: from a definition file, or from another image, a sandbox, an archive or a directory.

    definition ──► for each stage: %pre ─► bootstrap ─► apps, %files from ─► %setup ─► %files ─► %post ─► labels,
                   scripts ─► %test          then the last tree becomes a SIF file or a sandbox

Mistakes in the definition are reported before any file is made. The work runs as root of a user namespace (`rootless`),
in a workspace. The workspace is removed at the end, also if a step fails or a signal ends the build.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bollard.runtime import causes, progress
from bollard.runtime.build import bootstrap, build_root, definition, image_files, provenance, sbom, scif, transfers
from bollard.runtime.build import target as targets
from bollard.runtime.build import trace as tracing
from bollard.runtime.build.definition import Definition, Script, Stage
from bollard.runtime.build.summary import finished
from bollard.runtime.errors import BollardError
from bollard.runtime.fetch import cache, oci, reference
from bollard.runtime.fetch import sources as fetch
from bollard.runtime.image import encryption, image, pack, sif_write, source_tree
from bollard.runtime.system import rootless, workspace
from bollard.runtime.system.tree import Tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bollard.runtime.request.spec import Bind

SECTIONS = frozenset(definition.SECTIONS) - {"arguments"}
# Bootstrap agents that can start from an image of another architecture.
_WITH_ARCH = frozenset((*fetch.AGENTS, *reference.ARCHIVES))
_POST = "/.post.script"
_HOST_NAMES = ("APPTAINER_ROOTFS", "SINGULARITY_ROOTFS")


class Request(NamedTuple):
    """The options of a build.

    target: path of the new image.
    source: definition file, image, directory or URI.
    sandbox: make a directory and not a SIF file.
    force: replace an existing target.
    update: run the definition in the existing sandbox.
    test: run %test.
    sections: the names of the sections to use.
    arguments: build arguments by name.
    allow_unused: warn about unused build arguments, and do not fail.
    binds: directories and files of the host for %post and %test.
    ignore_subuid: do not use subordinate ids (rootless.SUBIDS).
    ignore_seccomp: do not use a seccomp filter (rootless.MAPPED).
    sbom: store an SBOM and a provenance statement in the SIF file.
    fetch: settings for registries and libraries.
    shown: the name of the target in messages; "" for `target`.
    arch: the architecture that the user asked for, "" for none. An image from a registry or archive must provide it.
    layered_test: what %test writes is dropped; without it, %test cannot write.
    fix_permissions: give the owner of each file all permissions of reading and writing.
    squash_arguments: further arguments for mksquashfs.
    keep_failed: keep the workspace of a build that fails.
    text: the text of the definition; "" to read it from `source`.
    key: encrypt the filesystem of the image for this key.
    """

    target: str
    source: str
    sandbox: bool = False
    force: bool = False
    update: bool = False
    test: bool = True
    sections: frozenset[str] = SECTIONS
    arguments: Mapping[str, str] = {}
    allow_unused: bool = False
    binds: tuple[Bind, ...] = ()
    ignore_subuid: bool = False
    ignore_seccomp: bool = False
    sbom: bool = True
    fetch: fetch.Settings = fetch.Settings()
    shown: str = ""
    arch: str = ""
    layered_test: bool = False
    fix_permissions: bool = False
    squash_arguments: tuple[str, ...] = ()
    keep_failed: bool = False
    text: str = ""
    key: encryption.Key | None = None


def run(request: Request) -> None:
    """Build the image. A signal removes the workspace and then ends this process.

    Raises:
        BollardError: the build fails (from `make`).
    """
    try:
        with rootless.interruptible():
            make(request)
    except rootless.Interrupted as interrupted:
        rootless.end_by(interrupted.number)


def make(request: Request, fetched: Sequence[fetch.Source] = ()) -> None:
    """Build the image as `run` does, but a signal raises Interrupted.

    fetched: for each stage, the start of its build if it was fetched already; empty to fetch it here.

    Raises:
        BollardError: the target or a bind cannot be used, a build argument is unused, or a step fails.
    """
    started = provenance.clock()
    targets.check(request.target, request.source, request.sandbox, request.force, request.update)
    if request.squash_arguments and request.sandbox:
        raise BollardError("--mksquashfs-args with --sandbox: no squashfs is made", "leave one of them out")
    for source, _, _ in request.binds:
        if not os.path.exists(source):
            raise BollardError(f"bind {image.shown(source)}: no such file or directory", "check the path")
    way = rootless.choose(request.ignore_subuid, request.ignore_seccomp)
    if _is_plain(request):
        _pack_directory(request, way, started)
        return
    found = _definition(request)
    with contextlib.ExitStack() as stack:
        if not fetched:
            fetched = _fetch(request, found, stack)
        place = workspace.make(workspace.parent(os.environ, request.target if request.sandbox else ""))
        cwd = os.getcwd()
        progress.settle()  # else this process and the one that builds both show the step
        try:
            rootless.run(way, progress.ended(lambda: _carry_out(request, found, fetched, place, cwd, way, started)))
        except BollardError as error:
            if request.keep_failed:
                kept = f"the build's directory is kept: {place}"
                place = ""
                raise BollardError(error.message, f"{error.hint}; {kept}" if error.hint else kept, error.code) from None
            raise
        finally:
            if os.path.lexists(place):
                workspace.remove(place, way)


def _pack_directory(request: Request, way: rootless.Way, started: float) -> None:
    """Pack the directory `request.source` into a SIF file as it is.

    request: the options of the build.
    way: how the build gets its user namespace.
    started: when the build began, in seconds since 1970.

    Raises:
        BollardError: the directory is not a root filesystem, or cannot be packed.
    """
    image.open_image(request.source).close()  # raises if the directory is not a root filesystem

    def plain() -> None:
        with contextlib.closing(Tree(request.source)) as tree:
            records = _records(request, tree, started, "", ())
        target, force, arguments, key = request.target, request.force, request.squash_arguments, request.key
        progress.say("packing")
        pack.build(target, request.source, records=records, force=force, arguments=arguments, key=key)
        finished(target, request.shown)

    # A sandbox can have files of subordinate ids. Only a user namespace that maps these ids can read them.
    if way.kind == rootless.SUBIDS or request.key:
        rootless.run(way, plain)
    else:
        plain()


def _definition(request: Request) -> Definition:
    """Return the definition to build, with its mistakes reported before any file is made.

    Raises:
        BollardError: the definition is wrong, a build argument is unused, or --arch has no effect.
    """
    if request.text:
        found = definition.parse(request.text.encode(), image.shown(request.source), request.arguments)
    else:
        found = load(request.source, request.arguments)
    for warning in found.warnings:
        _warn(warning)
    if found.unused:
        text = f"build argument {', '.join(found.unused)} is not used by {found.name}"
        if not request.allow_unused:
            raise BollardError(text, "leave it out, or add --warn-unused-build-args")
        _warn(text)
    for stage in found.stages:
        bootstrap.check(stage.header)
    if request.arch and not any(stage.header["bootstrap"].lower() in _WITH_ARCH for stage in found.stages):
        agent = found.stages[-1].header["bootstrap"]
        raise BollardError(f"--arch {request.arch}: Bootstrap: {agent} gives no choice of it", "leave it out")
    source_tree.schema_labels("")  # raises if SOURCE_DATE_EPOCH is not a time
    return found


def _fetch(request: Request, found: Definition, stack: contextlib.ExitStack) -> list[fetch.Source]:
    """Fetch the images that the stages start from. They stay in the cache until `stack` is closed."""
    headers = [stage.header for stage in found.stages]
    if request.update and not request.force:
        headers[-1] = {"bootstrap": "localimage"}  # the sandbox
    if not any(header["bootstrap"].lower() in fetch.AGENTS for header in headers):
        return [fetch.Source(arch=request.fetch.arch)] * len(headers)
    store = stack.enter_context(cache.opened(os.environ, request.fetch.disable_cache))
    sources = []
    for header in headers:
        if header["bootstrap"].lower() not in fetch.AGENTS:
            sources.append(fetch.Source(arch=request.fetch.arch))
            continue
        library = request.fetch.library or header.get("library", "")
        sources.append(fetch.source(fetch.from_header(header), request.fetch._replace(library=library), store))
    progress.settle()
    return sources


def load(source: str, arguments: Mapping[str, str]) -> Definition:
    """Return the definition of a build.

    source: the path of a definition file, an image, an archive or a directory; or a URI.
    arguments: build arguments by name.

    Raises:
        BollardError: the file cannot be read, has a mistake, or is an image or archive from a pipe.
    """
    scheme, colon, rest = source.partition(":")
    name = image.shown(source)
    if colon and "/" not in scheme and not os.path.exists(source):
        if not rest.startswith("//") and not bootstrap.is_agent(scheme.lower()):
            raise BollardError(f"{name}: no such file", f"an image of a registry is docker://{name}")
        return definition.from_uri(source)
    if os.path.isdir(source):
        return definition.from_uri(f"localimage:{os.path.abspath(source)}")
    try:
        with open(source, "rb") as file:  # read once: a pipe cannot be read again
            raw = file.read(definition.MAX_BYTES + 1)
            regular = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
        if _is_image(raw) or bootstrap.is_archive(raw):
            if not regular:
                raise BollardError(f"{name}: an image or archive comes from a pipe", "write it to a file first")
            return definition.from_uri(f"localimage:{os.path.abspath(source)}")
    except OSError as error:
        hint = "name a definition file, an image or a directory after the new image: `bollard build IMAGE SOURCE`"
        raise causes.of(error, name, source, hint) from None
    if b"\0" in raw and b"ootstrap" not in raw:
        raise BollardError(f"{name}: neither a definition file nor an image or archive", image.guess(raw))
    return definition.parse(raw, name, arguments)


def _is_plain(request: Request) -> bool:
    """Return whether the source is a directory that becomes a SIF file unchanged: it needs no copy of the tree."""
    if not os.path.isdir(request.source) or request.sandbox or request.update or request.fix_permissions:
        return False
    return oci.transport(request.source) != "oci-archive"


def _is_image(first: bytes) -> bool:
    return first[32:41] == b"SIF_MAGIC" or image.squashfs_offset(first) >= 0


def _carry_out(
    request: Request,
    found: Definition,
    fetched: Sequence[fetch.Source],
    place: str,
    cwd: str,
    way: rootless.Way,
    started: float,
) -> None:
    """Run all stages and write the image; runs as process 1 of the process namespace."""
    mask = os.umask(0o022)
    built: dict[str, Tree] = {}
    documents: dict[str, bytes] = {}
    bases = _bases(request, found, fetched, cwd) if not request.sandbox else ()
    last = len(found.stages)
    for number, stage in enumerate(found.stages, 1):
        scratch, root = f"{place}/scratch{number}", f"{place}/root{number}"
        os.mkdir(scratch, 0o700)
        os.mkdir(root, 0o755)
        step = _Step(request, found, stage, fetched[number - 1], Tree(root), scratch, cwd, way)
        documents = _make_stage(step, built, update=request.update and not request.force and number == last)
        if stage.header.get("stage"):
            built.setdefault(stage.header["stage"], step.tree)
    os.umask(mask)
    if request.fix_permissions:
        image_files.fix_permissions(root)
    if request.sandbox:
        _keep_sandbox(request.target, root, place)
        finished(request.target, request.shown)
        return
    progress.say("packing")
    text = (step.tree.read("/.singularity.d/Singularity") or b"").decode("utf-8", "surrogateescape")
    pack.pack(
        request.target,
        root,
        source_tree.tree_arch(root),
        image_files.read_labels(step.tree),
        text,
        documents,
        _records(request, step.tree, started, text, bases),
        force=request.force,
        arguments=request.squash_arguments,
        key=request.key,
    )
    finished(request.target, request.shown)


def _bases(
    request: Request, found: Definition, fetched: Sequence[fetch.Source], cwd: str
) -> tuple[provenance.Base, ...]:
    """Return the images that the stages start from, with their digests. Reads each file once."""
    bases = []
    for stage, start in zip(found.stages if request.sbom else (), fetched):
        agent, name = stage.header["bootstrap"].lower(), stage.header.get("from", "")
        local = agent == "localimage" or agent in reference.ARCHIVES
        uri = f"{agent}:{name}" if local else f"{agent}://{name}"
        place = oci.split(agent, name)[0] if agent in reference.ARCHIVES else name
        path = os.path.join(cwd, os.path.expanduser(place)) if local else start.path
        if start.digest:
            bases.append(provenance.Base(uri, start.digest))
        elif name and path:
            bases.append(provenance.Base(uri, cache.sha256(path) if os.path.isfile(path) else ""))
    return tuple(bases)


def _records(
    request: Request, tree: Tree, started: float, text: str, bases: tuple[provenance.Base, ...]
) -> list[sif_write.Object]:
    """Return the SBOM and the provenance statement of a new SIF file; warn of what the SBOM does not cover."""
    if not request.sbom:
        return []
    listed, gaps = sbom.of_tree(tree, provenance.clock())
    for gap in gaps:
        _warn(f"the SBOM lacks packages: {image.shown(gap)}")
    names, sections = tuple(request.arguments), tuple(request.sections)
    facts = provenance.Facts(text, "" if text else request.source, bases, names, sections, started)
    return [listed, provenance.statement(facts)]


class _Step(NamedTuple):
    request: Request
    definition: Definition
    stage: Stage
    fetched: fetch.Source
    tree: Tree
    scratch: str
    cwd: str
    way: rootless.Way

    def run(
        self, argv: list[str], env: Mapping[str, str], *, read_only: bool = False, layered: bool = False
    ) -> build_root.Result:
        """Run a program in the tree and wait for its end."""
        binds = self.request.binds
        if self.way.kind == rootless.PRELOADED:
            argv, binds = build_root.preloaded(argv, binds)
        return build_root.run(self.tree, argv, env, self.scratch, binds=binds, read_only=read_only, layered=layered)

    def wants(self, section: str) -> bool:
        return section in self.request.sections


def _make_stage(step: _Step, built: Mapping[str, Tree], update: bool) -> dict[str, bytes]:
    stage = step.stage
    documents: dict[str, bytes] = {}
    _host_script(step, "pre")
    progress.say(_title(stage))
    header = dict(stage.header)
    if update:
        header = {"bootstrap": "localimage", "from": os.path.abspath(step.request.target)}
    documents = bootstrap.fill(bootstrap.Source(header, step.tree, step.scratch, step.cwd, progress.say, step.fetched))
    image_files.apps(step.tree, stage)
    for app in stage.apps:
        for transfer in scif.transfers(app):
            transfers.from_host(_place(step), transfer)
    if step.wants("files"):
        for files in stage.files:
            for transfer in files.transfers if files.stage else ():
                transfers.from_stage(_place(step), built[files.stage], transfer)
    _host_script(step, "setup")
    if step.wants("files"):
        for files in stage.files:
            for transfer in () if files.stage else files.transfers:
                transfers.from_host(_place(step), transfer)
    _post(step)
    image_files.metadata(
        step.tree,
        stage,
        step.definition.text,
        step.request.sections,
        force=step.request.force,
        bootstrapped=not update,
    )
    _test(step)
    return documents


def _place(step: _Step) -> transfers.Place:
    return transfers.Place(step.tree, step.cwd, step.definition.name)


def _title(stage: Stage) -> str:
    words = [stage.header["bootstrap"], stage.header.get("from") or stage.header.get("osversion", "")]
    name = stage.header.get("stage")
    return " ".join(([f"stage {name}:"] if name else []) + [word for word in words if word])


def _host_script(step: _Step, name: str) -> None:
    """Run %pre or %setup on the host, with the rights of the user."""
    script = step.stage.script(name)
    if not step.wants(name) or not script.text:
        return
    progress.say(f"%{name}", live=False)
    path = f"{step.scratch}/{name}"
    _write_script(path, script.text)
    env = {key: value for key, value in os.environ.items() if key not in _HOST_NAMES}
    env.update(dict.fromkeys(_HOST_NAMES, step.tree.path))
    env.update(_variables())
    argv = tracing.traced(_command(step, name, path), path)
    _check(step, name, script, build_root.run_on_host(argv, env, step.cwd))
    os.unlink(path)


def _post(step: _Step) -> None:
    script = step.stage.script("post")
    text = script.text + "".join(scif.install(app) for app in step.stage.apps)
    if not step.wants("post") or not text.strip():
        return
    progress.say("%post", live=False)
    step.tree.write(_POST, text.encode("utf-8", "surrogateescape"), 0o755)
    argv = build_root.command(_command(step, "post", _POST), _POST)
    env = build_root.environment(os.environ, _variables())
    result = step.run(argv, env)
    step.tree.remove(_POST)
    _check(step, "post", script, result)


def _test(step: _Step) -> None:
    script = step.stage.script("test")
    if not step.request.test or not step.wants("test") or not script.text:
        return
    progress.say("%test", live=False)
    argv = build_root.command(["/.singularity.d/test"], "")
    env = build_root.environment(os.environ, {})
    result = step.run(argv, env, read_only=True, layered=step.request.layered_test)
    _check(step, "test", script, result)


def _variables() -> dict[str, str]:
    names = {"ENVIRONMENT": image_files.POST_SCRIPT, "LABELS": image_files.POST_LABELS}
    return {f"{prefix}_{name}": path for prefix in ("APPTAINER", "SINGULARITY") for name, path in names.items()}


def _command(step: _Step, name: str, path: str) -> list[str]:
    try:
        return definition.script_command(step.stage.script(name), path)
    except BollardError as error:
        raise BollardError(f"{step.definition.name}: %{name} {error.message}", error.hint) from None


def _check(step: _Step, name: str, script: Script, result: build_root.Result) -> None:
    if result.status == 0:
        return
    at = step.definition.name
    line = result.trace.line or tracing.line_of(result.trace.command, script.text)
    if 0 < line <= len(script.lines):
        at += f":{script.lines[line - 1]}"
    code = result.status
    how = f"signal {-code}" if code < 0 else f"exit status {code}"
    text = f"{at}: %{name} failed with {how}"
    if result.trace.command:
        text += f" at `{image.shown(result.trace.command[:200])}`"
    full = causes.full(step.tree.path)
    if full:
        raise BollardError(f"{text}, and there is {full[0]}", full[1])
    hint = "nothing was built" if name != "test" else "nothing was built; --notest builds without it"
    raise BollardError(text, hint)


def _keep_sandbox(target: str, root: str, place: str) -> None:
    """Rename the finished tree to `target`. An old sandbox is moved to the workspace, which is removed later."""
    if os.path.lexists(target):
        os.rename(target, f"{place}/replaced")
    try:
        os.rename(root, target)
    except OSError as error:
        raise causes.of(error, f"{target}: cannot be written", target, "choose another directory") from None


def _write_script(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
    os.chmod(path, 0o700)


def _warn(text: str) -> None:
    progress.note(f"bollard: warning: {text}")
