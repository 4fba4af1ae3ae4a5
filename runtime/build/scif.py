# SPDX-License-Identifier: BSD-3-Clause
"""The SCIF apps of a definition file: their files, and the commands that install them. Pure functions."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import NamedTuple

from bollard.runtime.build import definition
from bollard.runtime.build.definition import App, Transfer
from bollard.runtime.image import layout

BASE = ".singularity.d/env/94-appsbase.sh"
SCRIPT = ".singularity.d/env/95-apps.sh"


class File(NamedTuple):
    """A file to write into the tree."""

    path: str
    mode: int
    data: bytes


def directories(app: App) -> list[str]:
    """Return the directories of an app, relative to the root of the image."""
    places = [f"scif/apps/{app.name}/{name}" for name in ("bin", "lib", "scif/env")]
    return places + [f"scif/data/{app.name}/{name}" for name in ("input", "output")]


def files(app: App) -> list[File]:
    """Return the files for the sections of an app."""
    root = f"/scif/apps/{app.name}"
    meta = f"{root}/scif"
    name = _quoted(app.name)
    base = "".join(
        f"{variable}={value}\nexport {variable}\n"
        for variable, value in (
            ("SCIF_APPNAME", name),
            ("SCIF_APPROOT", f"/scif/apps/{name}"),
            ("SCIF_APPMETA", f"/scif/apps/{name}/scif"),
            ("SCIF_DATA", "/scif/data"),
            ("SCIF_APPDATA", f"/scif/data/{name}"),
            ("SCIF_APPINPUT", f"/scif/data/{name}/input"),
            ("SCIF_APPOUTPUT", f"/scif/data/{name}/output"),
        )
    )
    labels = {"SCIF_APP_NAME": app.name, **definition.labels(app.sections.get("labels", ""))}
    found = [
        File(f"{meta}/env/01-base.sh", 0o755, _bytes(f"#!/bin/sh\n{base}")),
        File(f"{meta}/labels.json", 0o644, _bytes(json.dumps(labels, indent="\t", sort_keys=True))),
    ]
    for section, file, mode, front in (
        ("env", "env/90-environment.sh", 0o755, ""),
        ("run", "runscript", 0o755, "#!/bin/sh\n\n"),
        ("start", "startscript", 0o755, "#!/bin/sh\n\n"),
        ("test", "test", 0o755, "#!/bin/sh\n\n"),
        ("help", "runscript.help", 0o644, ""),
    ):
        text = app.sections.get(section, "")
        if text:
            if front and text.lstrip().startswith("#!"):
                front, text = "", text.lstrip()
            found.append(File(f"{meta}/{file}", mode, _bytes(front + text)))
    return found


def shared_files(apps: Iterable[App]) -> list[File]:
    """Return the environment scripts that every task reads in an image with apps."""
    return [
        File(BASE, 0o755, _bytes("".join(map(_exports, apps)))),
        File(SCRIPT, 0o755, _bytes(layout.APPS_SCRIPT)),
    ]


def transfers(app: App) -> list[Transfer]:
    """Return the lines of %appfiles; their targets are in the directory of the app."""
    found = []
    for number, line in enumerate(app.sections.get("files", "").split("\n"), 1):
        line = line.strip()
        if line and not line.startswith("#"):
            source, _, target = line.split("#")[0].strip().partition(" ")
            found.append(Transfer(source, f"/scif/apps/{app.name}/{(target or source).strip()}", number))
    return found


def install(app: App) -> str:
    """Return the shell commands that install this app; they run after %post."""
    place = f"/scif/apps/{_quoted(app.name)}"
    return f"\ncd /\n. {place}/scif/env/01-base.sh\ncd {place}\n{app.sections.get('install', '')}\ncd /\n"


def _exports(app: App) -> str:
    word = re.sub(r"[^0-9A-Za-z_]", "_", app.name)
    name = _quoted(app.name)
    values = {
        "DATA": f"/scif/data/{name}",
        "META": f"/scif/apps/{name}/scif",
        "ROOT": f"/scif/apps/{name}",
        "BIN": f"/scif/apps/{name}/bin",
        "LIB": f"/scif/apps/{name}/lib",
        "LABELS": f"/scif/apps/{name}/scif/labels.json",
    }
    for section, key, file in (
        ("env", "ENV", "env/90-environment.sh"),
        ("run", "RUN", "runscript"),
        ("start", "START", "startscript"),
    ):
        if app.sections.get(section):
            values[key] = f"/scif/apps/{name}/scif/{file}"
    return "".join(f"export SCIF_APP{key}_{word}={value}\n" for key, value in values.items())


def _quoted(name: str) -> str:
    """Return the name quoted as one word for a shell script."""
    return name if re.fullmatch(r"[0-9A-Za-z_.+-]+", name) else "'" + name.replace("'", "'\\''") + "'"


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
