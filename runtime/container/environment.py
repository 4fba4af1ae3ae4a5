# SPDX-License-Identifier: BSD-3-Clause
"""The environment of a task in the container. Names and order are Apptainer's.

    the image's scripts  ──► of_image, once per container, without the host's variables
    the task's variables ─┐
    of_image's result ────┴► of_task, once per task

Several sources can set one variable. The first source in this list wins:

    1. the task's variables for MPI start-up, and Slurm's own variables (`mpi.wireup`)
    2. HOME, and the variables that name the container
    3. --env, --env-file, BOLLARDENV_X, APPTAINERENV_X, SINGULARITYENV_X
    4. the task's variables that --container-env names
    5. in a job, the variables by which Slurm gives the step its GPUs (CUDA_VISIBLE_DEVICES, ...), also with --cleanenv.
       The variables of CDI devices.
    6. the image's scripts
    7. the task's other variables, except PATH and LD_LIBRARY_PATH. LANG and LC_... pass only if the image has that
       locale. With --cleanenv only TERM and the proxy variables pass.
    8. the site's variables, from bollard.yaml

All names and values are bytes. This module runs on the node path: it imports only modules of that path.
"""

from __future__ import annotations

import os

from bollard.mpi import wireup
from bollard.runtime import constants
from bollard.runtime.container import image_shell
from bollard.runtime.errors import BollardError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from bollard.runtime.request.spec import Spec

    # None: a script sets the variable without exporting it. That hides the host's value.
    ImageEnvironment = dict[bytes, bytes | None]

DEFAULT_PATH = constants.DEFAULT_PATH.encode()
LIBRARIES = b"/.singularity.d/libs"

ENV_PREFIXES = (b"BOLLARDENV_", b"APPTAINERENV_", b"SINGULARITYENV_")
_SETTINGS = (b"BOLLARD_", b"APPTAINER_", b"SINGULARITY_", *ENV_PREFIXES)
_CLEAN_KEEPS = frozenset((b"TERM",)) | frozenset(
    name for word in (b"http", b"https", b"no", b"all", b"ftp") for name in (word + b"_proxy", word.upper() + b"_PROXY")
)
# Slurm sets these for a step with GPUs (gres.conf(5), Flags). The image's would name GPUs of another machine.
_GPUS = frozenset(
    (b"CUDA_VISIBLE_DEVICES", b"ROCR_VISIBLE_DEVICES", b"HIP_VISIBLE_DEVICES", b"GPU_DEVICE_ORDINAL",
     b"ZE_AFFINITY_MASK")
)  # fmt: skip
_NOT_FROM_HOST = frozenset((b"PATH", b"HOME", b"LD_LIBRARY_PATH"))
_NOT_BY_OPTION = frozenset((b"HOME", b"UID", b"GID"))
_PATH_FORMS = frozenset((b"PATH", b"PREPEND_PATH", b"APPEND_PATH"))

# Of the user's own values together, once expanded; the kernel takes less at a program's start.
VALUES_MAX = 8 << 20

PROMPT = b"bollard> "
_STOCK_PROMPTS = (b"Apptainer> ", b"Singularity> ")


def of_image(
    scripts: list[tuple[str, bytes]],
    home: bytes,
    image: bytes,
    shell: Callable[[bytes, list[bytes]], bytes | None],
    app: bytes = b"",
    cwd: bytes = b"/",
    warnings: list[str] | None = None,
) -> ImageEnvironment:
    """Return the variables that the image's scripts set. They do not see the host's variables.

    scripts   (file name, text) of /.singularity.d/env/*.sh, sorted by name; ("environment", text) for the
              /environment of older images; or an empty list
    home      HOME in the container, b"" for none
    image     path of the image
    shell     function (script, environment), called when a script needs a real shell. It runs the image's bash, or its
              /bin/sh if there is no bash, with exactly that environment. It returns the standard output; b"" or None
              if no shell could run. All scripts then run in that shell, from the first one on.
    app       the app of the image that will be started, b"" for none
    cwd       directory in which `shell` runs the scripts
    warnings  gets one line if the image has no shell that works. The result then holds the variables found so far.

    Raises:
        BollardError: a script ended the shell.
    """
    values = {b"HOME": home} if home else {}
    values.update(_names(image))
    if app:
        values[b"SINGULARITY_APPNAME"] = app
    start = dict(values)
    exported = set(values)
    if scripts and not _interpreted(scripts, values, exported):
        env = [name + b"=" + value for name, value in start.items()]
        answer = shell(image_shell.script(scripts, _doubtful(scripts), cwd), env)
        found = image_shell.parsed(answer) if answer else None
        lost = image_shell.lost_without_bash(scripts, answer) if answer and found else ""
        if lost and warnings is not None:
            warnings.append(lost)
        if found is None:
            if warnings is not None:
                warnings.append("no shell of the image could run its environment scripts; variables may be missing")
        else:
            exported = {name for name, value in found.items() if value is not None}
            values = {name: value or b"" for name, value in found.items()}
    values[b"PATH"] = values.get(b"PATH") or DEFAULT_PATH
    exported.add(b"PATH")
    if values.get(b"PS1") in _STOCK_PROMPTS:
        values[b"PS1"] = PROMPT
    return {
        name: value if name in exported else None
        for name, value in values.items()
        if start.get(name) != value and not wireup.is_guarded(name)
    }


def _interpreted(scripts: list[tuple[str, bytes]], values: dict[bytes, bytes], exported: set[bytes]) -> bool:
    """Evaluate the scripts without a shell. Returns False if one needs a real shell, for example to print.

    `values` and `exported` get what the scripts set, up to the first script that cannot be evaluated.
    """
    from bollard.runtime.shell import interpreter
    from bollard.runtime.shell.words import Unsupported

    silent, budget = True, interpreter.new_budget()
    for name, text in scripts:
        if name == image_shell.BUILT_IN:
            continue
        if name == image_shell.FIRST_PATH and b"PATH" not in values:
            values[b"PATH"] = DEFAULT_PATH
            exported.add(b"PATH")
        before = dict(values), set(exported)
        try:
            silent = interpreter.evaluate(text, values, exported, budget) and silent
        except Unsupported:
            values.clear()
            values.update(before[0])
            exported.clear()
            exported.update(before[1])
            return False
        if name in image_shell.DOCKER:
            values[b"PATH"] = completed(values.get(b"PATH", b""))
            exported.add(b"PATH")
    return silent


def _doubtful(scripts: list[tuple[str, bytes]]) -> set[str]:
    """Return the names of the scripts that runtime/shell cannot parse. Their syntax may be wrong."""
    from bollard.runtime.shell import syntax
    from bollard.runtime.shell.words import Unsupported

    found = set()
    for name, text in scripts:
        try:
            syntax.script(text)
        except Unsupported:
            found.add(name)
    return found


def entrypoint_script(entrypoint: list[str], cwd: bytes, log: bool) -> bytes:
    """Return an sh script that runs the image's entrypoint and prints the environment which the entrypoint sets.

    entrypoint  the entrypoint's command. It gets a command to start; that command prints its environment.
    cwd         directory in which it runs
    log         True: the entrypoint's output goes to stderr. False: it goes to a file of the launcher, which prints
                the end of that file if the entrypoint fails.
    """
    printer = image_shell.quoted(b"exec " + image_shell.PRINTER + b" >&3")
    lines = [
        b"exec 3>&1 >&2",
        b"cd " + image_shell.quoted(cwd) + b" 2>/dev/null",
        b"" if log else b"exec >&%d 2>&1" % image_shell.QUIET_FD,
        b"exec " + b" ".join(image_shell.quoted(word.encode()) for word in entrypoint) + b" /bin/sh -c " + printer,
    ]
    return b"\n".join(lines) + b"\n"


def changes(before: list[bytes], answer: bytes) -> dict[bytes, bytes]:
    """Return the variables of `answer` (NUL-separated) that are new or changed since `before`, without MPI's."""
    known = set(before)
    found = image_shell.environment(answer.split(b"\0"))
    return {n: v for n, v in found.items() if n + b"=" + v not in known and not wireup.is_guarded(n)}


def changed(env: list[bytes], found: dict[bytes, bytes]) -> list[bytes]:
    """Return `env` with the variables of `found` set."""
    kept = [entry for entry in env if entry.partition(b"=")[0] not in found]
    return kept + [name + b"=" + value for name, value in found.items()]


def completed(path: bytes) -> bytes:
    """Return `path` with the missing standard directories appended."""
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


def of_task(
    image_env: ImageEnvironment,
    task_env: list[bytes],
    spec: Spec,
    command: bytes = b"exec",
    binds: bytes = b"",
    cwd: bytes = b"",
    defaults: tuple[tuple[bytes, bytes], ...] = (),
    tools: bytes = b"",
    locales: frozenset[bytes] | None = None,
    devices: tuple[tuple[bytes, bytes], ...] = (),
    libraries: bool = False,
    warnings: list[str] | None = None,
    first_libraries: bytes = b"",
) -> list[bytes]:
    """Return the environment of one task, as a list of NAME=VALUE.

    image_env  what `of_image` returned
    task_env   the task's environment on the host, NAME=VALUE
    spec       the spec of the task's step
    command    the action (exec, run, shell, test)
    binds      the user's binds, as text (spec.bind_text)
    cwd        directory in which the task starts; b"" does not set PWD
    defaults   the site's variables, used if no other source sets them
    tools      directory of the host's Slurm commands in the container, put first in PATH: an image's own Slurm
               commands usually are of another release and cannot talk to this Slurm
    locales    the image's locales, None for any; LANG and LC_... pass only if they name one of these
    devices    variables of CDI devices
    libraries  the container has libraries of the host's drivers in LIBRARIES: let its loader find them
    warnings   gets a line for each value that would run a command: it is passed as it is
    first_libraries  directory that comes first in LD_LIBRARY_PATH: the host's MPI, which was asked for

    Raises:
        BollardError: the values of the user's variables together are too large.
    """
    env, kept, asked, gpus, host_home = _sorted(task_env, spec)
    # With --no-home the directory is not mounted, but HOME is still set.
    home = os.fsencode(spec.home) or (b"/root" if spec.fakeroot else host_home)
    held = {name: env[name] for name in spec.keep_env if name in env} if spec.keep_env else {}
    for name, image_value in image_env.items():
        # As in Apptainer, a variable that the image sets to "" is removed if the host has set it.
        if image_value is None or (not image_value and name in env):
            env.pop(name, None)
        else:
            env[name] = image_value
    if locales is not None:
        for name in [name for name in env if name not in image_env and is_locale(name)]:
            if normalized(env[name]) not in locales:
                del env[name]
    env.update(devices)
    if b"SLURM_JOB_ID" in kept:
        env.update(gpus)
    env.update(held)
    if home and b"HOME" not in image_env:
        env[b"HOME"] = home
    if tools and b"PATH" not in held:
        env[b"PATH"] = tools + b":" + env.get(b"PATH", DEFAULT_PATH)
    asked.update(spec.env)
    if asked:
        _override(env, asked, {**kept, **_own_numbers(cwd)}, spec.no_eval, warnings)
    _describe(env, image_env, spec, command, binds)
    if cwd:
        env[b"PWD"] = cwd
    for name, value in defaults:
        env.setdefault(name, value)
    if libraries and LIBRARIES not in env.get(b"LD_LIBRARY_PATH", b"").split(b":"):
        # Images of Apptainer's add the directory themselves. It comes last: the image's libraries win (Apptainer 1.5).
        env[b"LD_LIBRARY_PATH"] = b":".join([part for part in (env.get(b"LD_LIBRARY_PATH"), LIBRARIES) if part])
    if first_libraries:
        env[b"LD_LIBRARY_PATH"] = b":".join([part for part in (first_libraries, env.get(b"LD_LIBRARY_PATH")) if part])
    env.update(kept)
    for mark, name, default in wireup.DEFAULTS:
        if mark in kept:
            env.setdefault(name, default)
    return [name + b"=" + value for name, value in env.items()]


def _sorted(
    task_env: list[bytes], spec: Spec
) -> tuple[dict[bytes, bytes], dict[bytes, bytes], dict[bytes, bytes], dict[bytes, bytes], bytes]:
    """Return the task's variables by the rank that they have in the container, and the home on the host.

    The first dictionary has what passes to the container. The second has what nothing may change (`wireup`). The third
    has what BOLLARDENV_X and the like ask for, without the prefix. The last has the GPUs that Slurm gives the step.
    """
    clean, host_home = spec.cleanenv, os.fsencode(spec.user_home)
    passed: dict[bytes, bytes] = {b"LANG": b"C"} if clean else {}
    kept: dict[bytes, bytes] = {}
    asked: dict[bytes, bytes] = {}
    gpus: dict[bytes, bytes] = {}
    ranks: dict[bytes, int] = {}
    for entry in task_env:
        name, equals, value = entry.partition(b"=")
        if name in _GPUS and name not in spec.no_env:
            gpus[name] = value
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
            if name == b"HOME":
                host_home = value or host_home
        elif equals and name not in spec.no_env and (not clean or name in _CLEAN_KEEPS):
            passed[name] = value
    return passed, kept, asked, gpus, host_home


def normalized(name: bytes) -> bytes:
    """Return a locale's name with its codeset normalized as in glibc: UTF-8 becomes utf8, 8859-1 becomes iso88591."""
    head, at, modifier = name.partition(b"@")
    head, dot, codeset = head.partition(b".")
    codeset = bytes(c for c in codeset.lower() if chr(c).isalnum())
    if codeset.isdigit():
        codeset = b"iso" + codeset
    return head + dot + codeset + at + modifier


def is_locale(name: bytes) -> bool:
    """Return whether the environment variable `name` holds the name of a locale."""
    return name == b"LANG" or name.startswith(b"LC_")


def _own_numbers(cwd: bytes) -> dict[bytes, bytes]:
    """Return the variables that a shell sets by itself. The user's values can refer to them."""
    uid, gid = b"%d" % os.getuid(), b"%d" % os.getgid()
    return {b"UID": uid, b"EUID": uid, b"GID": gid, b"PWD": cwd or b"/"}


def _override(
    env: dict[bytes, bytes], asked: dict[bytes, bytes], more: dict[bytes, bytes], literal: bool,
    warnings: list[str] | None,
) -> None:  # fmt: skip
    """Set the user's own variables in `env`.

    Values are expanded as between double quotes in the container, so PATH='$PATH:/opt/bin' means the image's PATH.
    A value can name other variables of the user: those that name none themselves are set first, then the rest in
    their order. A value that would run a command is not expanded.

    env      the environment so far
    asked    the user's variables
    more     variables that the values can refer to, besides `env`
    literal  do not expand any value (--no-eval)
    warnings  gets a line for each value that is not expanded, and one for variables that stay as they are

    Raises:
        BollardError: the values together are too large.
    """
    seen, size, fixed = {**env, **more}, 0, []
    for name, value in sorted(asked.items(), key=lambda item: b"$" in item[1]):
        if not literal and (b"$" in value or b"\\" in value or b"`" in value):
            from bollard.runtime.shell import interpreter, words

            try:
                value = interpreter.expand(value, seen)
            except words.Unsupported as error:
                if warnings is not None:
                    shown = name.decode("utf-8", "replace")
                    why = f"a value is not evaluated if it has {error}"
                    warnings.append(f"{shown} is passed as it is: {why} (--no-eval)")
            size += len(value)
            if size > VALUES_MAX:
                raise BollardError(
                    f"the variables given for the container, with those they name, have more than {VALUES_MAX} bytes",
                    "give fewer, or shorter ones",
                )
        if (name in more or name in _NOT_BY_OPTION) and value != seen.get(name):
            fixed.append(name.decode("utf-8", "replace"))
        if name == b"LD_LIBRARY_PATH":
            if value:
                env[name] = value + b":" + LIBRARIES
        elif name in _PATH_FORMS:
            asked = {**asked, name: value}
        elif name not in _NOT_BY_OPTION:
            env[name] = value
            if name not in more and name != b"PATH":
                seen[name] = value  # in other values PATH is the image's
    if fixed and warnings is not None:
        hint = "; --home sets HOME" if "HOME" in fixed else ""
        warnings.append(f"{', '.join(sorted(fixed))} cannot be set for a container{hint}")
    path = env.get(b"PATH", DEFAULT_PATH)
    if asked.get(b"PREPEND_PATH"):
        path = asked[b"PREPEND_PATH"] + b":" + path
    if asked.get(b"APPEND_PATH"):
        path = path + b":" + asked[b"APPEND_PATH"]
    env[b"PATH"] = asked.get(b"PATH") or path
    libraries = env.get(b"LD_LIBRARY_PATH")
    if libraries:  # as in Apptainer 1.5: prepend and append only if LD_LIBRARY_PATH is set
        before, after = env.get(b"PREPEND_LD_LIBRARY_PATH"), env.get(b"APPEND_LD_LIBRARY_PATH")
        env[b"LD_LIBRARY_PATH"] = b":".join([part for part in (before, libraries, after) if part])


def _describe(env: dict[bytes, bytes], image_env: ImageEnvironment, spec: Spec, command: bytes, binds: bytes) -> None:
    """Set the variables that tell a program in which container it runs, and the prompt."""
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
    # bash reads its start-up files after the environment. They set a prompt like the host's, so set PS1 again.
    again = b'PS1="' + prompt + b'"; unset PROMPT_COMMAND'
    before = env.get(b"PROMPT_COMMAND")
    if before:
        again = before + b'; PROMPT_COMMAND="${PROMPT_COMMAND%%; PROMPT_COMMAND=*}"; PS1="' + prompt + b'"'
    env[b"PROMPT_COMMAND"] = again
