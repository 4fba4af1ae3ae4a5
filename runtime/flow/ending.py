# SPDX-License-Identifier: BSD-3-Clause
"""The last job of a flow: it writes the verdict, and removes ephemeral volumes after a success."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from bollard.runtime.errors import BollardError
from bollard.runtime.flow import folder, state, volume

_PATIENCE = 20.0  # seconds to wait until Slurm reports the end of all jobs


def end(path: Path) -> None:
    """Write the verdict of the flow in this directory.

    Raises:
        BollardError: the verdict cannot be written.
    """
    plan = folder.plan(path)
    deadline = time.monotonic() + _PATIENCE
    found = state.of(path)
    while (
        found.complaint or any(part.state not in state.FINAL for part in found.parts)
    ) and time.monotonic() < deadline:
        time.sleep(1)
        found = state.of(path)
    if found.complaint:
        raise BollardError(
            f"{path.name}: no verdict: {found.complaint}", "bollard flow status shows the state without it"
        )
    open_parts = [f"{part.name} is still {part.state}" for part in found.parts if part.state not in state.FINAL]
    if open_parts:
        raise BollardError(
            f"{path.name}: no verdict: {open_parts[0]}", f"bollard flow status {path.name} shows the state without it"
        )
    if found.word == "ok":
        remove_volumes(path)
    folder.write(path / f"verdict.{plan['generation']}.json", json.dumps(state.plain(found)))


def remove_volumes(path: Path) -> None:
    """Remove the ephemeral volumes of a flow. What cannot be removed is told on standard error.

    Raises:
        BollardError: the flow's plan cannot be read.
    """
    for place in folder.plan(path).get("ephemeral", []):
        try:
            volume.remove(place)
        except FileNotFoundError:
            continue  # it was removed before, or never made
        except (BollardError, OSError) as error:
            why = error.message if isinstance(error, BollardError) else f"{place}: {error.strerror}"
            os.write(2, f"bollard: a volume is left: {why}\n".encode("utf-8", "surrogateescape"))
