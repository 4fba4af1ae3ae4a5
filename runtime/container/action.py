# SPDX-License-Identifier: BSD-3-Clause
"""Choose the command that `exec`, `run`, `shell`, `test` and `instance start` start in a container. Pure functions.

Order and names are those of Apptainer's action script. For a new container the functions run in the keeper, which is in
the container. For an instance they run in the joining process. `has` checks for files in the container. `exec` does not
call `has`, so it works in an image without a shell.
"""

from __future__ import annotations

from bollard.runtime.errors import BollardError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# The image's own scripts for an action. The first that exists is used.
_SCRIPTS = {
    "run": ("/.singularity.d/runscript", "/apptainer", "/singularity"),
    "test": ("/.singularity.d/test",),
    "start": ("/.singularity.d/startscript",),
}
_SHELLS = (("/bin/bash", "--norc"), ("/bin/sh",))


def inside(action: str, argv: list[str], has: Callable[[str], bool], shell: str = "", app: str = "") -> list[str]:
    """Return the command to start; [] if there is nothing to do.

    action: "exec", "run", "shell", "test" or "start".
    argv: the program or the arguments that the user gave.
    has: returns whether the container has an executable file at a path.
    shell: the shell that the user asked for, "" for none.
    app: the name of a SCIF app of the image, "" for none.

    Raises:
        BollardError: no program is given, or the image has no shell, runscript or app for the action.
    """
    if action == "exec":
        if not argv:
            raise BollardError("no command given", "name a program of the image, or use `bollard shell`")
        return argv
    if action == "shell":
        return [*_shell(has, shell), *argv]
    if app:
        what = {"run": "runscript", "start": "startscript"}.get(action, "test")
        path = f"/scif/apps/{app}/scif/{what}"
        if not has(path):
            raise BollardError(f"the app {app} has no {what}", "see what it has with `bollard inspect --app`", 1)
        return [path, *argv]
    for path in _SCRIPTS[action]:
        if has(path):
            return [path, *argv]
    if action in ("test", "start"):
        return []
    if has("/bin/sh"):
        return ["/bin/sh", *argv]
    raise BollardError("the image has no runscript and no /bin/sh", "use `bollard exec` with a program it has", 1)


def _shell(has: Callable[[str], bool], asked: str) -> tuple[str, ...]:
    """Return the command for a shell. As in Apptainer, a requested shell that the image lacks is ignored."""
    if asked and has(asked):
        return (asked,)
    for command in _SHELLS:
        if has(command[0]):
            return command
    raise BollardError("the image has no /bin/bash and no /bin/sh", "use `bollard exec` with a program it has", 1)


def variables(action: str, command: list[str]) -> dict[str, str]:
    """Return the variables to set for the program, in addition to the container's environment."""
    if action == "shell" and command[0] in [shell[0] for shell in _SHELLS]:
        return {"SHELL": command[0]}
    return {}
