# SPDX-License-Identifier: BSD-3-Clause
"""`bollard job`, `ps` and `attach`: the containers of jobs."""

from __future__ import annotations

import json
import sys
from typing import NoReturn

from bollard.runtime.errors import BollardError
from bollard.runtime.local import job, running

Given = list[tuple[str, str]]


def show(given: Given, words: list[str]) -> int:
    """Print which containers a job had. Returns the exit status.

    Raises:
        BollardError: `words` is not one job.
    """
    if len(words) != 1:
        raise BollardError(f"job takes one number, not {len(words)} words", "write `bollard job JOBID`")
    options = {option for option, _ in given}
    number = running.parse(words[0])[0]
    if "here" in options:
        print(json.dumps(job.records(number)))
        return 0
    found = job.look(number, collect="collect" in options)
    if "verify" in options:
        verdicts, same = job.verify(found)
        print("\n".join(verdicts))
        return 0 if same else 1
    print(json.dumps(found, indent=2) if "json" in options else "\n".join(job.lines(found)))
    return 0


def ps(given: Given, words: list[str]) -> int:
    """Print the running containers of this node. Returns the exit status.

    Raises:
        BollardError: there are `words`.
    """
    if words:
        raise BollardError(f"{words[0]}: ps takes no words", "write `bollard ps`")
    found, mute = running.containers()
    if mute:
        jobs = ", ".join(dict.fromkeys(address.split("/")[-2] for address in mute))
        print(f"bollard: no answer from {len(mute)} containers, of jobs {jobs}", file=sys.stderr)
    if any(option == "json" for option, _ in given):
        print(json.dumps([item.plain() for item in found], indent=2))
    else:
        print("\n".join(running.lines(found)))
    return 0


def attach(words: list[str]) -> NoReturn:
    """Become a program in the container of a job.

    Raises:
        BollardError: there are no `words`.
    """
    if not words:
        raise BollardError("no job named", "write `bollard attach JOB` or JOB.STEP, see `bollard ps`")
    running.attach(words[0], words[1:])
