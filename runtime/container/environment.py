# SPDX-License-Identifier: BSD-3-Clause
"""The environment of a task in the container. Names and order are Apptainer's.

    the image's scripts  ──► of_image, once per container: they start from nothing of the host's
    the task's variables ─┐
    of_image's result ────┴► of_task, once per task

For one name the first of these that has it wins:

    1. what wires up MPI, and Slurm's own variables, of the task (`mpi.wireup`)
    2. HOME, and what names the container
    3. --env, --env-file, BOLLARDENV_X, APPTAINERENV_X, SINGULARITYENV_X
    4. the task's variables that --container-env names
    5. the image's scripts
    6. the task's variables, but not PATH and LD_LIBRARY_PATH; with --cleanenv TERM and proxies alone
    7. the site's, of bollard.yaml

All names and values are bytes. Runs on the node path: no import but its siblings.
"""

from __future__ import annotations

from bollard.mpi import wireup
from bollard.runtime import constants

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from bollard.runtime.request.spec import Spec

    # None: the image uses the name for itself without exporting it, so that the host's value is hidden.
    ImageEnvironment = dict[bytes, bytes | None]

DEFAULT_PATH = constants.DEFAULT_PATH.encode()
LIBRARIES = b"/.singularity.d/libs"

ENV_PREFIXES = (b"BOLLARDENV_", b"APPTAINERENV_", b"SINGULARITYENV_")
_SETTINGS = (b"BOLLARD_", b"APPTAINER_", b"SINGULARITY_", *ENV_PREFIXES)
_CLEAN_KEEPS = frozenset((b"TERM",)) | frozenset(
    name for word in (b"http", b"https", b"no", b"all", b"ftp") for name in (word + b"_proxy", word.upper() + b"_PROXY")
)
_NOT_FROM_HOST = frozenset((b"PATH", b"HOME", b"LD_LIBRARY_PATH"))
_NOT_BY_OPTION = frozenset((b"HOME", b"UID", b"GID"))
_PATH_FORMS = frozenset((b"PATH", b"PREPEND_PATH", b"APPEND_PATH"))

# Files with a meaning beyond their text: Apptainer completes PATH around them, and has the last one built in.
_DOCKER = ("10-docker2singularity.sh", "10-docker.sh", "environment")
_FIRST_PATH = "90-environment.sh"
_BUILT_IN = "99-runtimevars.sh"

# Writes the environment it is given to its standard output: a descriptor of bollard-enter, kept open for it.
PRINTER = f"/proc/self/fd/{constants.PRINTER_FD} {constants.PRINTER_OPTION}".encode()

PROMPT = b"bollard> "
_STOCK_PROMPTS = (b"Apptainer> ", b"Singularity> ")


def of_image(
    scripts: list[tuple[str, bytes]],
    home: bytes,
    image: bytes,
    shell: Callable[[bytes, list[bytes]], bytes | None],
    app: bytes = b"",
) -> ImageEnvironment:
    """What the image's own scripts set, starting from nothing of the host's.

    `scripts` are (file name, text) of /.singularity.d/env/*.sh sorted by name, or ("environment", text) of the
    /environment that images older than that have, or nothing. `image` is the path of the image, `app` the one of
    its apps to be started, which its own scripts then prepare for.

    `shell(script, env)` is called when a script needs a real shell: it has to run the image's
    `/bin/sh -c script` in the container with exactly the environment `env` and give what that writes to its
    standard output, which is the resulting environment, NUL-terminated; or None where that cannot be done. The
    result is then what could be found out without one.
    """
    values = {b"HOME": home} if home else {}
    values.update(_names(image))
    if app:
        values[b"SINGULARITY_APPNAME"] = app
    start = dict(values)
    exported = set(values)
    if scripts:
        from bollard.runtime.shell import interpreter
        from bollard.runtime.shell.syntax import Unsupported

        for index, (name, text) in enumerate(scripts):
            if name == _BUILT_IN:
                continue
            if name == _FIRST_PATH:
                values.setdefault(b"PATH", DEFAULT_PATH)
            before = dict(values), set(exported)
            try:
                interpreter.evaluate(text, values, exported)
            except Unsupported:
                rest = [name for name, _ in scripts[index:]]
                answer = shell(_script(rest, *before), [n + b"=" + v for n, v in before[0].items() if n in before[1]])
                if answer is not None:
                    values, exported = _parsed(answer), set()
                    exported.update(values)
                break
            if name in _DOCKER:
                values[b"PATH"] = completed(values.get(b"PATH", b""))
    values[b"PATH"] = values.get(b"PATH") or DEFAULT_PATH
    exported.add(b"PATH")
    if values.get(b"PS1") in _STOCK_PROMPTS:
        values[b"PS1"] = PROMPT
    return {
        name: value if name in exported else None
        for name, value in values.items()
        if start.get(name) != value and not wireup.is_guarded(name)
    }


def entrypoint_script(entrypoint: str, cwd: bytes, log: bool) -> bytes:
    """The sh script by which an image's entrypoint starts a command that writes the environment it is given to the
    script's standard output. What the entrypoint itself prints goes to stderr, or nowhere without `log`."""
    lines = [
        b"exec 3>&1 >&2",
        b"cd " + _quoted(cwd) + b" 2>/dev/null",
        b"" if log else b"exec >/dev/null 2>&1",
        b"exec " + _quoted(entrypoint.encode()) + b" /bin/sh -c " + _quoted(b"exec " + PRINTER + b" >&3"),
    ]
    return b"\n".join(lines) + b"\n"


def changes(before: list[bytes], answer: bytes) -> dict[bytes, bytes]:
    """What `answer`, an environment as a program wrote it, has otherwise than `before`; what wires up MPI left out."""
    known = set(before)
    found = _parsed(answer)
    return {n: v for n, v in found.items() if n + b"=" + v not in known and not wireup.is_guarded(n)}


def changed(env: list[bytes], found: dict[bytes, bytes]) -> list[bytes]:
    """`env` with the values of `found` in it."""
    kept = [entry for entry in env if entry.partition(b"=")[0] not in found]
    return kept + [name + b"=" + value for name, value in found.items()]


def completed(path: bytes) -> bytes:
    """`path` with the standard directories it lacks at its end."""
    parts = path.split(b":") if path else []
    return b":".join(parts + [part for part in DEFAULT_PATH.split(b":") if part not in parts])


def _names(image: bytes) -> dict[bytes, bytes]:
    name = image.rstrip(b"/").rpartition(b"/")[2]
    return {
        b"APPTAINER_CONTAINER": image,
        b"APPTAINER_NAME": name,
        b"SINGULARITY_CONTAINER": image,
        b"SINGULARITY_NAME": name,
    }


def _script(names: list[str], values: dict[bytes, bytes], exported: set[bytes]) -> bytes:
    """The sh script that goes on with the files `names`, where `values` were reached without it."""
    lines = [b"exec 3>&1 >&2", b"unset PS1 PATH"]
    for name in sorted({*values} - exported | ({*values} & {b"PS1", b"PATH"})):
        lines.append((b"export " if name in exported else b"") + name + b"=" + _quoted(values[name]))
    for file in names:
        if file == _BUILT_IN:
            continue
        path = "/environment" if file == "environment" else "/.singularity.d/env/" + file
        if file == _FIRST_PATH:
            lines.append(b'export PATH="${PATH-' + DEFAULT_PATH + b'}"')
        lines.append(b". " + _quoted(path.encode("utf-8", "surrogateescape")))
        if file in _DOCKER:
            lines += [
                b'case ":${PATH-}:" in *:' + part + b":*) ;; *) PATH=${PATH:+$PATH:}" + part + b";; esac"
                for part in DEFAULT_PATH.split(b":")
            ]
            lines.append(b"export PATH")
    # A program's own view of its environment: no builtin prints it so that every value can be read back.
    lines += [b'export PATH="${PATH:-' + DEFAULT_PATH + b'}"', b"exec >&3 3>&-"]
    lines.append(b"exec " + PRINTER)
    return b"\n".join(lines) + b"\n"


def _quoted(value: bytes) -> bytes:
    return b"'" + value.replace(b"'", b"'\\''") + b"'"


def _parsed(answer: bytes) -> dict[bytes, bytes]:
    """NUL-terminated NAME=VALUE; the shell's own names left out."""
    found = {}
    for entry in answer.split(b"\0"):
        name, equals, value = entry.partition(b"=")
        if equals and name not in (b"_", b"SHLVL", b"PWD", b"OLDPWD"):
            found[name] = value
    return found


def of_task(
    image_env: ImageEnvironment,
    task_env: list[bytes],
    spec: Spec,
    command: bytes = b"exec",
    binds: bytes = b"",
    cwd: bytes = b"",
    defaults: tuple[tuple[bytes, bytes], ...] = (),
    tools: bytes = b"",
) -> list[bytes]:
    """The environment of one task, as NAME=VALUE.

    `command` is the action (exec, run, shell, test), `binds` the user's own (spec.bind_text), `cwd` the directory
    it starts in ("" leaves PWD alone), `defaults` what the site wants where nobody else says anything,
    `tools` the directory of the host's Slurm commands, which comes first in PATH: those of an image are of another
    release as a rule, and cannot talk to this Slurm.
    """
    clean = spec.cleanenv
    home = spec.home.encode("utf-8", "surrogateescape")
    env: dict[bytes, bytes] = {b"LANG": b"C"} if clean else {}
    kept: dict[bytes, bytes] = {}
    asked: dict[bytes, bytes] = {}
    ranks: dict[bytes, int] = {}
    for entry in task_env:
        name, equals, value = entry.partition(b"=")
        if name.startswith(wireup.KEPT_BEGIN) or name in wireup.KEPT:
            kept[name] = value
        elif name.startswith(_SETTINGS):
            head, mark, rest = name.partition(b"ENV_")
            if mark and rest and head + mark in ENV_PREFIXES:
                rank = ENV_PREFIXES.index(head + mark)
                if rank <= ranks.get(rest, rank):
                    ranks[rest] = rank
                    asked[rest] = value
        elif name in _NOT_FROM_HOST and name not in spec.keep_env:
            if name == b"HOME":  # --no-home takes the directory away, not its name
                home = home or (b"/root" if spec.fakeroot else value)
        elif equals and name not in spec.no_env and (not clean or name in _CLEAN_KEEPS):
            env[name] = value
    held = {name: env[name] for name in spec.keep_env if name in env} if spec.keep_env else {}
    for name, image_value in image_env.items():
        # Apptainer also takes out what the image sets to nothing, where the host has the name.
        if image_value is None or (not image_value and name in env):
            env.pop(name, None)
        else:
            env[name] = image_value
    env.update(held)
    if home and b"HOME" not in image_env:
        env[b"HOME"] = home
    if tools and b"PATH" not in held:
        env[b"PATH"] = tools + b":" + env.get(b"PATH", DEFAULT_PATH)
    asked.update(spec.env)
    if asked:
        _override(env, asked, kept, spec.no_eval)
    _describe(env, image_env, spec, command, binds)
    if cwd:
        env[b"PWD"] = cwd
    for name, value in defaults:
        env.setdefault(name, value)
    env.update(kept)
    for mark, name, default in wireup.DEFAULTS:
        if mark in kept:
            env.setdefault(name, default)
    return [name + b"=" + value for name, value in env.items()]


def _override(env: dict[bytes, bytes], asked: dict[bytes, bytes], kept: dict[bytes, bytes], literal: bool) -> None:
    """Lay the user's own values over the rest. They are read as between double quotes in the container, so
    that PATH='$PATH:/opt/bin' means the image's PATH; one that would run a command is taken literally, and so are
    all when `literal`."""
    seen = {**env, **kept}
    for name, value in asked.items():
        if not literal and (b"$" in value or b"\\" in value or b"`" in value):
            from bollard.runtime.shell import interpreter, syntax

            try:
                value = interpreter.expand(value, seen)
            except syntax.Unsupported:
                pass
        if name == b"LD_LIBRARY_PATH":
            if value:
                env[name] = value + b":" + LIBRARIES
        elif name in _PATH_FORMS:
            asked = {**asked, name: value}
        elif name not in _NOT_BY_OPTION:
            env[name] = value
    path = env.get(b"PATH", DEFAULT_PATH)
    if asked.get(b"PREPEND_PATH"):
        path = asked[b"PREPEND_PATH"] + b":" + path
    if asked.get(b"APPEND_PATH"):
        path = path + b":" + asked[b"APPEND_PATH"]
    env[b"PATH"] = asked.get(b"PATH") or path


def _describe(env: dict[bytes, bytes], image_env: ImageEnvironment, spec: Spec, command: bytes, binds: bytes) -> None:
    """What tells a program that it is in a container, and in which."""
    image = spec.image.encode("utf-8", "surrogateescape")
    env.update(_names(image))
    env[b"APPTAINER_BIND"] = env[b"SINGULARITY_BIND"] = binds
    env[b"APPTAINER_COMMAND"] = command
    if spec.app:
        env[b"APPTAINER_APPNAME"] = env[b"SINGULARITY_APPNAME"] = spec.app.encode("utf-8", "surrogateescape")
    place = image_env.get(b"APPTAINER_ENVIRONMENT") or b"/.singularity.d/env/91-environment.sh"
    env[b"APPTAINER_ENVIRONMENT"] = env[b"SINGULARITY_ENVIRONMENT"] = place
    env[b"BOLLARD_CONTAINER"] = image
    env[b"BOLLARD_IMAGE"] = spec.asked.encode("utf-8", "surrogateescape")
    if spec.options:
        env[b"BOLLARD_OPTIONS"] = spec.options
    if spec.no_mpirun:
        env[b"BOLLARD_NO_MPIRUN"] = b"1"
    prompt = env.get(b"PS1") or PROMPT
    env[b"PS1"] = prompt
    # bash reads its files after the environment, and they set a prompt that looks like the host's.
    again = b'PS1="' + prompt + b'"; unset PROMPT_COMMAND'
    before = env.get(b"PROMPT_COMMAND")
    if before:
        again = before + b'; PROMPT_COMMAND="${PROMPT_COMMAND%%; PROMPT_COMMAND=*}"; PS1="' + prompt + b'"'
    env[b"PROMPT_COMMAND"] = again
