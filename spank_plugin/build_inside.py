# SPDX-License-Identifier: BSD-3-Clause
"""Find the files of this node's Slurm that its commands need in a container: once, when bollard is installed.

The result is rendered as `host_slurm.h` for C (inside.c, paths.c) and as `runtime/host_slurm.py` for the plan.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from bollard.runtime.request.plan import VIEW

COMMANDS = (
    "srun", "sbatch", "salloc", "squeue", "sinfo", "scontrol", "scancel", "sacct", "sacctmgr", "sattach", "sbcast",
    "sdiag", "sprio", "sreport", "sshare", "sstat", "strigger", "scrontab",
)  # fmt: skip

# One program under all these names.
PROGRAM = "bollard-inside"

# The names of mpirun in images; bollard-inside has these names too.
MPIRUN = (
    "mpirun", "mpiexec", "mpirun.openmpi", "mpiexec.openmpi", "orterun", "prterun", "mpirun.mpich", "mpiexec.mpich",
    "mpiexec.hydra",
)  # fmt: skip

# Sockets of munge and of Slurm's own authentication (23.11 and later).
SOCKETS = ("/run/munge", "/run/slurm")


class HostSlurm(NamedTuple):
    """The files of this node's Slurm: absolute paths, symlinks resolved."""

    commands: tuple[tuple[str, str], ...]  # (name, program)
    loader: str
    libraries: tuple[str, ...]  # directories
    plugins: tuple[str, ...]  # directories
    trees: tuple[str, ...]  # directories that hold all of the above, and the installation
    conf: str  # the directory of slurm.conf


def find(conf: Path, prefix: str) -> HostSlurm | None:
    """The files of this machine's Slurm, with slurm.conf in the directory `conf`; None when there is no srun."""
    found = {name: os.path.realpath(path) for name in COMMANDS if (path := shutil.which(name))}
    if "srun" not in found:
        return None
    loader, libraries = needed(found["srun"])
    own = [path for path in libraries if os.path.basename(path).startswith("libslurm")]
    plugins = [os.path.realpath(os.path.dirname(path)) for path in own] + plugin_directories(conf)
    if not plugins:  # srun is linked with libslurm statically: use Slurm's default, LIBDIR/slurm
        parent = os.path.dirname(os.path.dirname(found["srun"]))
        usual = (f"{parent}/lib64/slurm", f"{parent}/lib/slurm")
        plugins = [os.path.realpath(path) for path in usual if os.path.isdir(path)]
    for program in found.values():
        libraries |= needed(program)[1]
    for folder in plugins:
        for plugin in sorted(Path(folder).glob("*.so")):
            libraries |= needed(str(plugin))[1]
    # The directory of each name, and the directory of the file to which a link leads: the loader may open either.
    folders = {os.path.realpath(os.path.dirname(path)) for path in libraries}
    folders |= {os.path.dirname(os.path.realpath(path)) for path in libraries}
    places = [loader, *found.values(), *(f"{folder}/" for folder in (*folders, *plugins)), f"{prefix}/"]
    return HostSlurm(
        tuple(sorted(found.items())),
        loader,
        tuple(sorted(folders)),
        tuple(dict.fromkeys(plugins)),
        trees(places),
        str(conf),
    )


def needed(program: str) -> tuple[str, set[str]]:
    """(loader, libraries) of a program or library, from ldd(1); the loader is "" when the file names none."""
    text = subprocess.run(["ldd", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    loader, libraries = "", set()
    for line in text.splitlines():
        named = re.match(r"\s*(?:\S+ => )?(/\S+) \(0x", line)
        if named and "=>" in line:
            libraries.add(named[1])
        elif named:
            loader = os.path.realpath(named[1])
    return loader, libraries


def plugin_directories(conf: Path) -> list[str]:
    """The directories of PluginDir in slurm.conf in the directory `conf`; empty when it has none."""
    try:
        text = (conf / "slurm.conf").read_text()
    except OSError:
        return []
    lines = re.findall(r"^\s*plugindir\s*=\s*([^\s#]+)", text, re.IGNORECASE | re.MULTILINE)
    return [os.path.realpath(folder) for line in lines for folder in line.split(":") if folder]


def trees(places: list[str]) -> tuple[str, ...]:
    """The directories to mount so that all `places` are visible.

    For a path below /usr, /lib, /lib64 or /bin: its first component. For other paths: the first two components, because
    /opt and the like hold more than Slurm.
    """
    tops = set()
    for place in places:
        parts = os.path.dirname(place).strip("/").split("/")
        tops.add("/" + "/".join(parts[:1] if parts[0] in ("usr", "lib", "lib64", "bin") else parts[:2]))
    return tuple(sorted(tops))


def c_string(text: str) -> str:
    """`text` as a string literal of C."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def header(found: HostSlurm | None, prefix: str) -> str:
    """Text of host_slurm.h for an installation at `prefix`."""
    host = found or HostSlurm((), "", (), (), (), "/etc/slurm")
    directories = dict.fromkeys((*host.plugins, host.conf, prefix, *SOCKETS))
    return "\n".join(
        [
            "/* Rendered by build.py. */",
            "#include <stddef.h>",
            f"#define BOLLARD_VIEW {c_string(VIEW)}",
            f"#define BOLLARD_PREFIX {c_string(prefix)}",
            f"#define HOST_LOADER {c_string(host.loader)}",
            f"#define HOST_LIBRARIES {c_string(':'.join(VIEW + folder for folder in host.libraries))}",
            "__attribute__((unused)) static const struct { const char *name, *path; } HOST_COMMANDS[] = {",
            *(f"\t{{ {c_string(name)}, {c_string(path)} }}," for name, path in host.commands),
            "\t{ NULL, NULL },",
            "};",
            "__attribute__((unused)) static const char *const SLURM_DIRECTORIES[] = {",
            *(f"\t{c_string(folder)}," for folder in directories),
            "\tNULL,",
            "};",
            "",
        ]
    )


def module(found: HostSlurm | None, prefix: str) -> str:
    """Text of runtime/host_slurm.py for an installation at `prefix`."""
    # One mount of /etc has users, groups and, on most sites, Slurm's configuration.
    outside = [found.conf] if found and not found.conf.startswith("/etc/") else []
    places = [*found.trees, "/etc", *outside, *SOCKETS] if found else []
    tools = f"{prefix}/inside/bin" if found else ""
    return (
        "# SPDX-License-Identifier: BSD-3-Clause\n"
        '"""Written by spank_plugin/build.py for this node."""\n\n'
        f"TOOLS = {tools!r}\nPLACES = {tuple(places)!r}\n"
    )
