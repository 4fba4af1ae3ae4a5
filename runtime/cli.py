# SPDX-License-Identifier: BSD-3-Clause
"""The `bollard` command: containers by hand, with the runtime that srun --container uses.

Every failure is one line on stderr, "bollard: ...", and exit status 255. A command imports what it needs when it
runs: `exec` starts no slower than it must.
"""

from __future__ import annotations

import os
import sys

from bollard.runtime.errors import BollardError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    # usage, one line of help, its own options (see cli_options), whether it takes a container's options
    Command = tuple[str, str, dict[str, tuple[str, str]], bool, Callable[[str, list[tuple[str, str]], list[str]], int]]


_SHELL_FORMS = ("BOLLARD_SHELL", "APPTAINER_SHELL", "SINGULARITY_SHELL")


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status, unless this process has become the program."""
    import _signal as signal

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a Ctrl-C ends us without a traceback
    try:
        status = _main(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except BollardError as error:
        print(f"bollard: {error}", file=sys.stderr)
        return error.code
    except BrokenPipeError:
        os.dup2(os.open("/dev/null", os.O_WRONLY), 1)  # whoever read us has enough: `bollard plan | head`
        return 0
    except OSError as error:
        print(f"bollard: {error.filename or 'system call'}: {error.strerror or error}", file=sys.stderr)
        return 255
    return status


def _main(argv: list[str]) -> int:
    name = argv[0] if argv else "--help"
    if name in ("-h", "--help", "help"):
        sys.stdout.write(_overview())
        return 0
    if name in ("-V", "--version", "version"):
        import bollard

        print(f"bollard {bollard.__version__}")
        return 0
    if name not in COMMANDS:
        raise BollardError(f"{name}: no such command", "see `bollard --help`")
    from bollard.runtime import cli_options

    usage, what, own, container, run = COMMANDS[name]
    given, words = cli_options.parse(argv[1:], name, own, container)
    if any(option == "help" for option, _ in given):
        sys.stdout.write(cli_options.help_text(f"bollard {name} {usage}", what, own, container))
        return 0
    return run(name, given, words)


def _overview() -> str:
    lines = ["usage: bollard COMMAND ...", ""]
    lines += ["Containers by hand; under Slurm: srun --container=IMAGE PROGRAM ...", ""]
    lines += [f"  {name:<8}{command[1]}" for name, command in COMMANDS.items()]
    return "\n".join([*lines, "", "`bollard COMMAND --help` tells more.", ""])


def _values(given: list[tuple[str, str]], words: list[str]) -> list[tuple[str, str]]:
    """The (name, value) pairs of a spec, with what the shim's client would add."""
    from bollard.runtime import cli_options, client

    if not words:
        raise BollardError("no image named", "name a SIF file, a squashfs file or a directory")
    try:
        cwd = os.getcwd()
    except FileNotFoundError:
        raise BollardError("the current directory does not exist any more", "change to one that does") from None
    values = [("image", words[0]), ("asked", words[0]), ("cwd", cwd), ("userhome", _home())]
    values += client.resolve([*given, *cli_options.variables(os.environ)])
    if os.environ.get("BOLLARD_LOG") == "debug":
        values.append(("verbose", "1"))
    return values


def _home() -> str:
    home = os.environ.get("HOME", "")
    if home:
        return home
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return ""


def _start(name: str, given: list[tuple[str, str]], words: list[str]) -> int:
    """exec, run, shell, test."""
    from bollard.runtime import byhand, image, spec

    values = _values(given, words)
    shells = [value for option, value in given if option == "shell"]
    shells += [os.environ[form] for form in _SHELL_FORMS if os.environ.get(form)]
    asked = spec.make(values)
    # Here, where the name is as it was typed; the keeper opens it again by its full path.
    image.open_image(words[0] if "~" not in words[0] else asked.image, os.uname().machine).close()
    if name == "exec" and len(words) < 2:
        raise BollardError("no command given", "name a program of the image, or use `bollard shell`")
    byhand.start(asked, name, words[1:], shells[0] if shells else "")
    return 0


def _plan(name: str, given: list[tuple[str, str]], words: list[str]) -> int:
    from bollard.runtime import cli_plan, spec

    shown = cli_plan.explain(spec.make(_values(given, words)), words[1:])
    if any(option == "json" for option, _ in given):
        import json

        print(json.dumps(shown, indent=2))
    else:
        print("\n".join(cli_plan.lines(shown)))
    return 0


def _build(name: str, given: list[tuple[str, str]], words: list[str]) -> int:
    from bollard.runtime import cli_build

    return cli_build.run(name, given, words)


BUILD_OPTIONS = {
    "sandbox": ("", "make a directory instead of a SIF file"),
    "force": ("", "replace TARGET if it exists; labels and help of the definition win over the base image's"),
    "update": ("", "run the definition on the sandbox TARGET instead of its Bootstrap"),
    "section": ("NAMES", "only these sections: setup, post, files, environment, test, labels, none, ..."),
    "notest": ("", "do not run %test"),
    "build-arg": ("KEY=VALUE", "a value for {{ KEY }}"),
    "build-arg-file": ("FILE", "lines of KEY=VALUE"),
    "warn-unused-build-args": ("", "a build argument that nothing uses is no error"),
    "bind": ("SRC[:DST[:ro]],...", "make host paths visible to %post and %test"),
    "reproducible": ("", "equal trees give equal images [SOURCE_DATE_EPOCH]"),
    "fakeroot": ("", "accepted: a build without root is always one"),
    "ignore-subuid": ("", "do without the ids of /etc/subuid"),
    "ignore-seccomp": ("", "do without a seccomp filter: with the host's fakeroot"),
}

COMMANDS: dict[str, Command] = {
    "exec": ("[OPTION...] IMAGE PROGRAM [ARGUMENT...]", "run a program in a container", {}, True, _start),
    "run": ("[OPTION...] IMAGE [ARGUMENT...]", "run what the image was made for, its runscript", {}, True, _start),
    "shell": (
        "[OPTION...] IMAGE [ARGUMENT...]",
        "start a shell in a container",
        {"shell": ("PATH", f"instead of the image's bash or sh [{_SHELL_FORMS[0]}]")},
        True,
        _start,
    ),
    "test": ("[OPTION...] IMAGE [ARGUMENT...]", "run the image's own test", {}, True, _start),
    "plan": (
        "[OPTION...] IMAGE [PROGRAM [ARGUMENT...]]",
        "show what would be done: options, image, mounts, environment; nothing is started",
        {"json": ("", "for programs")},
        True,
        _plan,
    ),
    "build": (
        "[OPTION...] TARGET SOURCE",
        "make the image TARGET from a definition file, an image, an archive or a directory",
        BUILD_OPTIONS,
        False,
        _build,
    ),
}
