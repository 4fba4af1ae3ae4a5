# SPDX-License-Identifier: BSD-3-Clause
"""The findings of `bollard site check`: their names, states and form for programs. check.py makes them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

OK, WARNING, FAILURE = "ok", "warning", "failure"

# Every check, in the order of the findings: its name, and what is tried. docs/admins.md has this table. The id of a
# check in --json is its name with hyphens (`identity`); it stays the same in later versions.
TRIED = {
    "kernel": "its version",
    "root filesystem": "whether `/` is the initramfs; see [below](#stateless-nodes)",
    "user namespaces": "one is made",
    "AppArmor": "whether it takes the rights of a user's namespace away (Ubuntu 23.10 and later)",
    "SELinux": "whether it is enforcing",
    "mounts": "`open_tree`, `mount_setattr`, `move_mount` and `openat2` in a user namespace",
    "FUSE": "the device is opened and mounted in it",
    "overlay": "one with `userxattr` is mounted in it and written to",
    "C library": "its version",
    "cgroups": "which are mounted",
    "installation": "every file is there, and is the one that was installed",
    "owners": "of the prefix, Python, the command and Slurm's plugin configuration, with parents and links",
    "access": "users can read what srun loads: Slurm's plugin configuration and the prefix",
    "squashfuse": "the copy starts, and is of the program the node has today",
    "Python": "the runtime's library is loaded",
    "Python modules": "cffi and PyYAML are imported",
    "programs": "skopeo and mksquashfs are looked up",
    "bollard.yaml": "valid, and what the node follows",
    "system log": "with `journal: yes`: its socket answers",
    "policy of images": "its keys, gpgv and openssl are there; no rule lets users change what it allows",
    "GPUs": "on a node with a GPU: the libraries of its driver; [gpu.md](gpu.md)",
    "Slurm": "the release that runs is the one built for",
    "plugstack.conf": "one `required` line names this installation, and SlurmdSpoolDir",
    "plugin": "`srun --help` shows its options",
    "records": "`/var/log/bollard` is root's and closed to other writers; its filesystem is neither full nor read-only",
    "job folders": "the same of `/run/bollard-jobs`, and of its parents",
    "Slurm's settings": "PrologFlags, LaunchParameters and ProctrackType, see [below](#slurms-settings)",
    "MPI plugins": "`srun --mpi=list`",
    "PMIx library": "`libpmix` is loaded",
    "munge": "its socket answers",
    "container": "a program runs in an image, in the way of `bollard exec`",
}


def identity(name: str) -> str:
    """The id of the check `name`: "slurms-settings" for "Slurm's settings"."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower().replace("'", ""))


class Finding(NamedTuple):
    """The result of one check; `fix` is a command, or an instruction, when the state is not ok."""

    check: str
    state: str
    text: str
    fix: str = ""


Found = Iterator[Finding]


def status(found: list[Finding]) -> str:
    """The worst state of all findings."""
    states = {finding.state for finding in found}
    return next((state for state in (FAILURE, WARNING) if state in states), OK)


def as_json(found: list[Finding], version: str) -> dict[str, Any]:
    """The findings as the object that `bollard site check --json` prints; `version` is bollard's."""
    return {
        "node": os.uname().nodename,
        "bollard": version,
        "status": status(found),
        "checks": [{"id": identity(finding.check), **finding._asdict()} for finding in found],
    }
