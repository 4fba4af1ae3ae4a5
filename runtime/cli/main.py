# SPDX-License-Identifier: BSD-3-Clause
"""The `bollard` command: containers by hand, with the runtime that srun --container uses.

Every error is one line on stderr, "bollard: ...", and usually exit status 255. Each command imports its modules when it
runs, so that `exec` starts fast.
"""

from __future__ import annotations

import os
import sys

from bollard.runtime.causes import has_memory_limit, one_line
from bollard.runtime.cli.commands import COMMANDS, REFUSED
from bollard.runtime.errors import BollardError, shown
from bollard.runtime.installed import IMAGE_LAUNCHER, OTHER_NAMES, PEERS
from bollard.runtime.request import command_options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


GLOBAL = {
    "--build-config": False,
    **dict.fromkeys(("-q", "--quiet", "-s", "--silent", "--nocolor"), False),
    **dict.fromkeys(("-d", "--debug", "-v", "--verbose"), True),
}


_CONFIG = ("-c", "--config")


def main(argv: list[str] | None = None) -> int:
    """Run one command; return the exit status. Does not return if this process becomes the program.

    argv: the arguments after `bollard`; None for those of this process, which then has the meaning of its name.
    """
    import _signal as signal

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends this process without a traceback
    try:
        _open_streams()
        if sys.stdout.isatty() or sys.stderr.isatty():
            from bollard.runtime.cli import terminal

            terminal.guard()
        if argv is None:
            _called_as(os.path.basename(sys.argv[0]))
            argv = sys.argv[1:]
        status = _main(["run", *argv] if _name == IMAGE_LAUNCHER else argv)
        sys.stdout.flush()
    except BollardError as error:
        if "bollard.runtime.progress" in sys.modules:
            sys.modules["bollard.runtime.progress"].abandon()  # the live line of a step
        print("bollard:", *map(shown, str(error).split("\n")), file=sys.stderr)
        return error.code
    except ImportError as error:
        # The loader's failures have the path, and the name without its package.
        own = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
        if not (error.name or "").startswith("bollard.") and not (error.path or "").startswith(f"{own}/"):
            raise
        print("bollard:", shown(str(_not_loaded(error))), file=sys.stderr)
        return 255
    except BrokenPipeError:
        _drop_output()  # the reader has ended, as in `bollard plan | head`
        return 0
    except (OSError, MemoryError, SystemError) as error:
        # SystemError: an import of Python 3.11 that fails for memory can lose its exception.
        if isinstance(error, SystemError) and not has_memory_limit():
            raise
        print("bollard:", one_line(MemoryError() if isinstance(error, SystemError) else error), file=sys.stderr)
        _drop_output()  # so that a full disk is reported only once
        return 255
    return status


def _not_loaded(error: ImportError) -> BollardError:
    """The error for a module of the installation that this Python cannot load."""
    file = error.path or error.name or ""
    text = f"{file} cannot be loaded by Python {sys.version.split()[0]} ({str(error).removeprefix(f'{file}: ')})"
    try:
        closed = os.statvfs(os.path.dirname(file)).f_flag & os.ST_NOEXEC
    except OSError:  # no such file: it was built for another Python
        closed = 0
    again = "the administrator installs it again: the package, or `python3 spank_plugin` in a checkout"
    return BollardError(text, "mount that filesystem without noexec" if closed else again)


_name = "bollard"


def _called_as(name: str) -> None:
    """Store the name of this command, if it is one of Apptainer's."""
    global _name
    _name = name if name in OTHER_NAMES else "bollard"


def _open_streams() -> None:
    """Open /dev/null for each closed standard stream; else the next opened file would become a standard stream."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open("/dev/null", os.O_RDWR), True)
    sys.stdout = sys.stdout or open(1, "w")  # noqa: SIM115 - stays open until the process ends
    sys.stderr = sys.stderr or open(2, "w")  # noqa: SIM115


def _drop_output() -> None:
    """Redirect standard output to /dev/null, so that buffered output is discarded."""
    os.close(1)  # first, because no other file descriptor may be free
    os.dup2(os.open("/dev/null", os.O_WRONLY), 1)


def _main(argv: list[str]) -> int:
    argv = _without_global(argv)
    name = argv[0] if argv else "--help"
    if name in ("-h", "--help") or argv == ["help"]:
        sys.stdout.write(_overview())
        return 0
    if name == "help":
        return _help(argv[1:])
    if name in ("-V", "--version", "version"):
        import bollard
        from bollard.runtime.cli import names

        short = name == "version" and _name in PEERS
        print(names.release(bollard.__version__) if short else names.version(_name, bollard.__version__))
        return 0
    rest = argv[1:]
    if rest and (f"{name} {rest[0]}" in COMMANDS or f"{name} {rest[0]}" in REFUSED):
        name, rest = f"{name} {rest[0]}", rest[1:]
    if name in REFUSED and name not in COMMANDS:
        return _refused(name, rest)
    if name not in COMMANDS:
        return _family(name, rest)
    from bollard.runtime.request import command_line

    usage, what, own, container = COMMANDS[name]
    given, words = command_line.parse(rest, name, own, container)
    if any(option == "help" for option, _ in given):
        sys.stdout.write(command_line.help_text(name, f"bollard {name} {usage}", what, own, container))
        return 0
    return RUN[name](name, given, words)


def _help(words: list[str]) -> int:
    """Run `bollard help COMMAND` as `bollard COMMAND --help`; an unknown command gives exit status 1."""
    name = " ".join(words[:2])
    if name not in COMMANDS and name not in REFUSED:
        name = words[0]
    if name not in COMMANDS and name not in REFUSED and not any(command.startswith(name + " ") for command in COMMANDS):
        raise BollardError(f"{name}: no such command", _similar(name), 1)
    more = words[len(name.split()) :]
    if more and not more[0].startswith("-"):
        raise BollardError(f"{name} {more[0]}: no such command", f"see `bollard {name} --help`", 1)
    return _main([*name.split(), "--help"])


def _refused(name: str, rest: list[str]) -> int:
    """Say why there is no such command: on standard output for --help, else as an error."""
    why, instead = REFUSED[name]
    if not {"-h", "--help"}.intersection(rest):
        raise BollardError(f"{name}: {why}", instead)
    sys.stdout.write(f"bollard has no command {name}: {why}\n\n{instead}\n")
    return 0


def _similar(name: str) -> str:
    import difflib

    from bollard.runtime.request import docker

    if name in docker.COMMANDS:
        return docker.COMMANDS[name]
    if name.startswith("-"):
        return f"options come after the command: `bollard exec {name} ... IMAGE PROGRAM`"
    known = {word for command in COMMANDS for word in (command, command.split()[0])}
    close = difflib.get_close_matches(name, sorted(known), 1)
    return f"did you mean `bollard {close[0]}`?" if close else "see `bollard --help`"


def _without_global(argv: list[str]) -> list[str]:
    """Return `argv` without Apptainer's global options before the command; -d and -v set BOLLARD_VERBOSE."""
    at = 0
    while at < len(argv) and (argv[at] in GLOBAL or argv[at].startswith(_CONFIG)):
        if argv[at].startswith(_CONFIG):
            raise BollardError(
                f"{argv[at]}: Apptainer's configuration file has no effect here",
                "leave it out; a site's settings are in /etc/bollard/bollard.yaml, a user's in options and variables",
            )
        if GLOBAL[argv[at]]:
            os.environ["BOLLARD_VERBOSE"] = "1"
        at += 1
    return argv[at:]


def _family(name: str, rest: list[str]) -> int:
    """Print the commands of a group, as for `bollard sif` without a second word."""
    found = [command for command in COMMANDS if command.startswith(name + " ")]
    if not found:
        what = "not an option of all commands" if name.startswith("-") else "no such command"
        raise BollardError(f"{name}: {what}", _similar(name))
    if rest and rest[0].startswith(_CONFIG) and name in command_options.REFUSED:
        raise BollardError(f"{rest[0]} is not supported: {command_options.REFUSED[name]['config'][1]}", "leave it out")
    if rest and rest[0] not in ("-h", "--help", "help"):
        raise BollardError(f"{name} {rest[0]}: no such command", f"see `bollard {name} --help`")
    sys.stdout.write("\n".join([f"usage: bollard {name} COMMAND ...", "", *_rows(found), ""]))
    return 0


def _overview() -> str:
    lines = ["usage: bollard COMMAND ...", ""]
    lines += ["Containers by hand; under Slurm: srun --container=IMAGE PROGRAM ...", ""]
    return "\n".join([*lines, *_rows(list(COMMANDS)), "", "`bollard COMMAND --help` tells more.", ""])


def _rows(names: list[str]) -> list[str]:
    width = max(map(len, names)) + 2
    return [f"  {name:<{width}}{COMMANDS[name][1]}" for name in names]


def _start(name: str, given: list[tuple[str, str]], words: list[str]) -> int:
    from bollard.runtime.cli import start

    return start.run(name, given, words)


def _names(name: str, given: list[tuple[str, str]], words: list[str]) -> int:
    from bollard.runtime.cli import names

    return names.run(words)


def _plan(name: str, given: list[tuple[str, str]], words: list[str]) -> int:
    from bollard.runtime.cli import plan, start
    from bollard.runtime.request import spec

    path, opened = start.image_of(given, words)
    try:
        shown = plan.explain(spec.make(start.values_of(given, words, path)), words[1:])
    finally:
        opened()
    if any(option == "json" for option, _ in given):
        import json

        print(json.dumps(shown, indent=2))
    else:
        print("\n".join(plan.lines(shown)))
    return 0


def _build(name: str, given: list[tuple[str, str]], words: list[str]) -> int:
    from bollard.runtime.cli import build

    return build.run(name, given, words)


def _instance(name: str, given: list[tuple[str, str]], words: list[str]) -> int:
    from bollard.runtime.cli import instance

    return instance.run(name.split()[1], given, words)


def _instance_start(name: str, given: list[tuple[str, str]], words: list[str]) -> int:
    from bollard.runtime.cli import instance, start

    instance.check(name.split()[1], words)
    path, opened = start.image_of(given, words)
    try:
        return instance.start(name.split()[1], given, words, start.values_of(given, words, path), path)
    finally:
        opened()


def _pull(name: str, given: list[tuple[str, str]], words: list[str]) -> int:
    from bollard.runtime.cli import pull as cli_pull

    return cli_pull.run(given, words)


def _push(name: str, given: list[tuple[str, str]], words: list[str]) -> int:
    from bollard.runtime.cli import push

    return push.run(name, given, words)


def _registry(name: str, given: list[tuple[str, str]], words: list[str]) -> int:
    from bollard.runtime.cli import registry

    return registry.run(name.split()[1], given, words)


def _remote(name: str, given: list[tuple[str, str]], words: list[str]) -> int:
    from bollard.runtime.cli import remote

    return remote.run(name.split()[1], given, words)


def _cache(name: str, given: list[tuple[str, str]], words: list[str]) -> int:
    from bollard.runtime.cli import cache

    return cache.run(name.split()[1], given, words)


def _doctor(name: str, given: list[tuple[str, str]], words: list[str]) -> int:
    from bollard.runtime.cli import doctor

    return doctor.run(given, words)


def _site(name: str, given: list[tuple[str, str]], words: list[str]) -> int:
    from bollard.runtime.cli import site as cli_site

    return cli_site.run(name.split()[1], given, words)


def _job(name: str, given: list[tuple[str, str]], words: list[str]) -> int:
    from bollard.runtime.cli import job

    return job.show(given, words)


def _ps(name: str, given: list[tuple[str, str]], words: list[str]) -> int:
    from bollard.runtime.cli import job

    return job.ps(given, words)


def _attach(name: str, given: list[tuple[str, str]], words: list[str]) -> int:
    from bollard.runtime.cli import job

    job.attach(words)


def _inspect(name: str, given: list[tuple[str, str]], words: list[str]) -> int:
    from bollard.runtime.cli import inspect, start

    path, opened = start.image_of(given, words)
    try:
        return inspect.run(name, given, [path, *words[1:]] if words else [])
    finally:
        opened()


def _sbom(name: str, given: list[tuple[str, str]], words: list[str]) -> int:
    from bollard.runtime.cli import sbom, start

    return sbom.run(given, words, lambda word: start.image_of(given, [word]))


def _sif(name: str, given: list[tuple[str, str]], words: list[str]) -> int:
    from bollard.runtime.cli import sif

    return sif.run(name, given, words)


def _sign(name: str, given: list[tuple[str, str]], words: list[str]) -> int:
    from bollard.runtime.cli import sign

    return sign.run(name, given, words)


def _key(name: str, given: list[tuple[str, str]], words: list[str]) -> int:
    from bollard.runtime.cli import key

    return key.run(name, given, words)


def _overlay(name: str, given: list[tuple[str, str]], words: list[str]) -> int:
    from bollard.runtime.image import overlay_create

    return overlay_create.run(given, words)


def _flow(name: str, given: list[tuple[str, str]], words: list[str]) -> int:
    from bollard.runtime.cli import flow

    return flow.run(name.split()[1], given, words)


def _completion(name: str, given: list[tuple[str, str]], words: list[str]) -> int:
    from bollard.runtime.cli import completion

    if len(words) != 1:
        raise BollardError("completion takes the name of a shell", "write `bollard completion bash`")
    sys.stdout.write(completion.script(words[0]))
    return 0


RUN: dict[str, Callable[[str, list[tuple[str, str]], list[str]], int]] = {
    "exec": _start,
    "run": _start,
    "shell": _start,
    "test": _start,
    "plan": _plan,
    "names": _names,
    "ps": _ps,
    "attach": _attach,
    "job": _job,
    "build": _build,
    "pull": _pull,
    "push": _push,
    "search": _push,
    "delete": _push,
    "tag": _push,
    "registry login": _registry,
    "registry logout": _registry,
    "registry list": _registry,
    "remote list": _remote,
    "remote use": _remote,
    "remote add": _remote,
    "remote remove": _remote,
    "remote login": _remote,
    "remote logout": _remote,
    "remote status": _remote,
    "remote get-login-password": _remote,
    "remote add-keyserver": _remote,
    "remote remove-keyserver": _remote,
    "cache list": _cache,
    "cache pull": _cache,
    "cache clean": _cache,
    "doctor": _doctor,
    "site install": _site,
    "site configure": _site,
    "site check": _site,
    "site stats": _site,
    "site ecl": _site,
    "site rollback": _site,
    "site uninstall": _site,
    "inspect": _inspect,
    "sbom": _sbom,
    "run-help": _inspect,
    "sif list": _sif,
    "sif header": _sif,
    "sif info": _sif,
    "sif dump": _sif,
    "sif new": _sif,
    "sif add": _sif,
    "sif del": _sif,
    "sif setprim": _sif,
    "sign": _sign,
    "verify": _sign,
    "key newpair": _key,
    "key list": _key,
    "key search": _key,
    "key pull": _key,
    "key push": _key,
    "key import": _key,
    "key export": _key,
    "key remove": _key,
    "overlay create": _overlay,
    **{f"flow {verb}": _flow for verb in command_options.FLOW},
    "completion": _completion,
    "instance start": _instance_start,
    "instance run": _instance_start,
    "instance list": _instance,
    "instance stop": _instance,
    "instance stats": _instance,
}
