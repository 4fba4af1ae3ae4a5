# SPDX-License-Identifier: BSD-3-Clause
"""Describe what `bollard plan` shows: the spec, the image, the plan and the environment. No container is made.

The plan is made by the same function, from the same facts, as in the keeper. docs/users.md lists the keys of `--json`.
"""

from __future__ import annotations

import os

from bollard.runtime import host_slurm, installed
from bollard.runtime.container import environment, keeper
from bollard.runtime.frozen import values_of
from bollard.runtime.image import image
from bollard.runtime.local import execution
from bollard.runtime.request import binds, plan, plan_records, site
from bollard.runtime.trust import evidence

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from bollard.runtime.image.image import Image
    from bollard.runtime.request.spec import Spec


def explain(asked: Spec, command: list[str]) -> dict[str, Any]:
    """Return the description as plain data for JSON; `asked` is the spec, `command` the program and its arguments.

    Keys: `spec`, `image`, those of the plan, `text`, `environment`, `command`.
    text: the plan in words.
    environment: the variables of a program that is started from this process.
    image.scripts: false if the image's own variables are known only after it is mounted.

    Raises:
        BollardError: the image or an overlay cannot be used or is not allowed here, or the options have no plan.
    """
    here = site.load(installed.PREFIX)
    opened = image.open_image(asked.image, os.uname().machine, encrypted=True)
    try:
        site.refuse_image(here, opened.fd, asked.asked)
        if here.trust:
            evidence.check_image(here.trust, opened, asked.asked)
        site.refuse_overlays(here, asked.overlays)
        scripts = _scripts(opened)
        made = plan.make(asked, keeper.facts(asked, opened, here, execution.spool(here)))
        described = {
            "path": opened.path,
            "kind": opened.kind,
            "offset": opened.offset,
            "size": opened.size,
            "compression": opened.compression,
            "arch": opened.arch,
            "scripts": scripts is not None,
        }
    finally:
        opened.close()
    of_image = environment.of_image(
        scripts or [],
        os.fsencode(asked.home or asked.user_home),
        os.fsencode(asked.image),
        lambda script, env: None,
        os.fsencode(asked.app),
    )
    env = [name + b"=" + value for name, value in os.environb.items()]
    shown = os.fsencode(binds.bind_text(asked.binds))
    tools = b"" if asked.no_slurm or not host_slurm.TOOLS else plan.TOOLS.encode()
    hosts_mpi = any(plan_records.below(mount.target, plan_records.MPI_LIBRARIES) for mount in made.mounts)
    first = plan_records.MPI_LIBRARIES.encode() if hosts_mpi else b""
    env = environment.of_task(
        of_image, env, asked, b"exec", shown, defaults=here.environment, tools=tools, devices=made.variables,
        libraries=made.libraries,
        first_libraries=first,
    )  # fmt: skip
    pairs = [entry.partition(b"=") for entry in sorted(env)]
    return {
        "spec": {name: _plain(value) for name, value in sorted(values_of(asked).items())},
        "image": described,
        **made.data(),
        "text": made.lines(),
        "environment": {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs},
        "command": command,
    }


def lines(shown: dict[str, Any]) -> list[str]:
    """Return the description as lines of text."""
    spec, picture = shown["spec"], shown["image"]
    what = "a directory"
    if picture["kind"] == image.SQUASHFS:
        what = f"{picture['compression']} squashfs, {picture['size']} bytes at {picture['offset']}"
    found = [
        f"image        {image.shown(picture['path'])}",
        f"             {what}, {picture['arch'] or 'for a machine it does not name'}",
        f"home         {spec['home'] or 'none'}",
        f"starts in    {spec['pwd'] or spec['cwd']}",
    ]
    if shown["command"]:
        found.append(f"program      {' '.join(image.shown(word) for word in shown['command'])}")
    found += ["", "what is made, in this order:"]
    found += [f"  {line}" for line in shown["text"]]
    node = os.uname().nodename
    found += [f"  left out: {kind}: {node} has no driver for it" for kind in shown["missing_gpus"]]
    found += [f"  {line}" for line in shown["warnings"]]
    found += ["", "environment, in addition to what passes from yours unchanged:"]
    for name, value in shown["environment"].items():
        if os.environ.get(name) != value:
            found.append(f"  {name}={image.shown(value)}")
    hidden = sorted(name for name in os.environ if name not in shown["environment"])
    if hidden:
        found.append(f"  not passed: {' '.join(hidden)}")
    if not picture["scripts"]:
        found.append("  and what the image itself sets, which is known once it is mounted")
    return found


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return os.fsdecode(value)
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return value


def _scripts(opened: Image) -> list[tuple[str, bytes]] | None:
    """Return the image's environment scripts (name, text); None if they cannot be read without a mount.

    They are read from a directory or from the metadata in a SIF file. The metadata lacks the fixed scripts of
    Apptainer, 01-base and 94 to 99.
    """
    if opened.kind == image.DIRECTORY:
        folder = os.path.join(opened.path, ".singularity.d/env")
        names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
        return [(name, _read(os.path.join(folder, name))) for name in names if name.endswith(".sh")]
    text = opened.metadata()
    if not text:
        return None
    import json

    try:
        found = json.loads(text)["data"]["attributes"].get("environment") or {}
        return sorted((os.path.basename(path), script.encode()) for path, script in found.items())
    except (ValueError, KeyError, AttributeError, TypeError):
        return None  # the caller says that the scripts are not known


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(1 << 20)
