# SPDX-License-Identifier: BSD-3-Clause
"""What `exec`, `run`, `shell`, `test` and `instance start` start in a container: pure functions of what the image has.

Order and names are Apptainer's (its action script). Runs in the keeper, which stands in the container, so that
`has` can look; `exec` asks nothing, and so works in an image without a shell.
"""

from __future__ import annotations

from bollard.runtime.errors import BollardError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# The image's own programs for an action, the first that is there.
_SCRIPTS = {
    "run": ("/.singularity.d/runscript", "/apptainer", "/singularity"),
    "test": ("/.singularity.d/test",),
    "start": ("/.singularity.d/startscript",),
}
_SHELLS = (("/bin/bash", "--norc"), ("/bin/sh",))


def inside(action: str, argv: list[str], has: Callable[[str], bool], shell: str = "", app: str = "") -> list[str]:
    """The command to start for `action` with the user's `argv`; [] where there is nothing to do.

    `has(path)` tells whether the container has an executable file there; `shell` is the shell the user asked
    for, or ""; `app` the one of the image's apps to run or test. `BollardError` when the image cannot do it.
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
    """Apptainer passes over a shell that was asked for and is not there; so does this."""
    if asked and has(asked):
        return (asked,)
    for command in _SHELLS:
        if has(command[0]):
            return command
    raise BollardError("the image has no /bin/bash and no /bin/sh", "use `bollard exec` with a program it has", 1)


def variables(action: str, command: list[str]) -> dict[str, str]:
    """What the started program must find set, beyond the container's environment."""
    if action == "shell" and command[0] in [shell[0] for shell in _SHELLS]:
        return {"SHELL": command[0]}
    return {}
