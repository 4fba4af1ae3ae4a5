# SPDX-License-Identifier: BSD-3-Clause
"""One line that is run under both programs, and words that many lines have."""

from __future__ import annotations

# ruff: noqa: E501
from typing import NamedTuple


class Case(NamedTuple):
    line: str
    because: str = ""  # the name of an intended difference
    env: str = ""  # NAME=VALUE of the user's, parted by |


def plain(options: str, command: str, because: str = "", env: str = "") -> Case:
    """`exec` in the plain image."""
    return Case(f"BOX exec {options} $I/plain.sif {command}", because, env)


SEEN = "seen /proc /sys /dev /tmp /var/tmp ~ ~/w"
SITE = "seen /etc/passwd /etc/group /etc/hosts /etc/localtime /etc/resolv.conf"

# USER_PATH and an empty APPTAINER_APPNAME are Apptainer's own, BOLLARD_* ours; PROMPT_COMMAND and PS1 hold names.
ENV = "env -0 | sort -z | grep -zvE '^(USER_PATH|APPTAINER_APPNAME|BOLLARD_[A-Z]*|PS1|PROMPT_COMMAND|_)=' | tr '\\0' '\\n'"
