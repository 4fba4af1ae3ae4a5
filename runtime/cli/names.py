# SPDX-License-Identifier: BSD-3-Clause
"""Other names of the command: what calls Apptainer or Singularity calls bollard under them.

`bollard site install --names` and `bollard names DIR` make them, in a directory that goes into PATH before or instead
of Apptainer's. docs/from-apptainer.md names the programs that call them.
"""

from __future__ import annotations

import os
import shutil
import sys

from bollard.runtime.errors import BollardError
from bollard.runtime.installed import OTHER_NAMES, PEERS

# The release of Apptainer whose command line bollard has. Callers compare it: Snakemake wants 1.0 or later, and cwltool
# uses `run --no-eval` from 1.1 on.
RELEASE = "1.4.5"


def version(name: str, own: str) -> str:
    """Return the line of `NAME --version`.

    name: the name by which the command was called.
    own: bollard's version.

    Both names of Apptainer give the word "apptainer", as Apptainer's link does. Snakemake takes the last word as the
    number, and refuses a number below 2.4.1 after the word "singularity".
    """
    return f"apptainer version {release(own)}" if name in PEERS else f"bollard {own}"


def release(own: str) -> str:
    """Return what `apptainer version` prints for bollard's version `own`: Apptainer's, with ours as the build."""
    return f"{RELEASE}+bollard.{own}"


def run(words: list[str]) -> int:
    """Run `bollard names DIR`: make links of OTHER_NAMES to this command; return the exit status.

    Raises:
        BollardError: DIR is missing or cannot be made, or a file of such a name is there that is not ours.
    """
    if len(words) != 1:
        raise BollardError("names takes one directory", "write `bollard names ~/bin`, with a directory for your PATH")
    command = _command()
    folder = os.path.abspath(words[0])
    os.makedirs(folder, exist_ok=True)
    places = [f"{folder}/{name}" for name in OTHER_NAMES]
    for place in places:
        if os.path.lexists(place) and not (os.path.islink(place) and os.path.realpath(place) == command):
            raise BollardError(f"{place}: is there already, and not a link to {command}", "choose another directory")
    for place in places:
        if not os.path.lexists(place):
            os.symlink(command, place)
    print(advice(folder))
    return 0


def _command() -> str:
    """Return the path of the running command `bollard`."""
    found = shutil.which(sys.argv[0]) or shutil.which("bollard")
    if not found or os.path.basename(os.path.realpath(found)) != "bollard":
        raise BollardError("the command bollard is not in PATH", "call it by its full path: /usr/bin/bollard names DIR")
    return os.path.realpath(found)


def advice(folder: str) -> str:
    """Return the line that tells how to use the names in `folder`, and which real Apptainer they would replace."""
    lines = [f"made {', '.join(OTHER_NAMES)} in {folder}; to use them: PATH={folder}:$PATH"]
    path = os.pathsep.join(place for place in os.get_exec_path() if os.path.realpath(place) != os.path.realpath(folder))
    lines += [f"{found} is another {name}; the first in PATH wins" for name in PEERS if (found := _other(name, path))]
    return "\n".join(lines)


def _other(name: str, path: str) -> str:
    """Return the path of a program `name` in `path` that is not bollard; "" if there is none."""
    found = shutil.which(name, path=path)
    return found if found and os.path.basename(os.path.realpath(found)) != "bollard" else ""
