# SPDX-License-Identifier: BSD-3-Clause
"""`bollard inspect` and `bollard run-help`. Their output is that of Apptainer's commands."""

from __future__ import annotations

import json

from bollard.runtime.errors import BollardError
from bollard.runtime.image import image_sbom
from bollard.runtime.local import metadata
from bollard.runtime.request import command_options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from bollard.runtime.local.metadata import Attributes

_ORDER: Final = ("apps", "environment", "labels", "runscript", "test", "helpfile", "deffile", "startscript")
_APP_ORDER: Final = ("environment", "labels", "runscript", "startscript", "test", "helpfile")
_PRINTED: Final = ("runscript", "startscript", "test", "helpfile")
_SECTIONS: Final = ("labels", "deffile", "helpfile", "runscript", "startscript", "test", "environment")
# Go's JSON encoder escapes these characters, which have a meaning in HTML or JavaScript.
GO_ESCAPES: Final = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def run(name: str, given: list[tuple[str, str]], words: list[str]) -> int:
    """Run `bollard inspect` or `bollard run-help`; return the exit status.

    name: "inspect" or "run-help".
    given: the parsed options, name and value.
    words: the arguments; exactly one, the path of the image.

    Raises:
        BollardError: the number of arguments is wrong, or the image cannot be read.
    """
    if len(words) != 1:
        raise BollardError(f"{name} takes one image, not {len(words)}", f"write `bollard {name} IMAGE`")
    asked = dict(given)
    records = [option for option in ("sbom", "provenance") if option in asked]
    if records:
        return _print_record(records[0], asked, words[0])
    app = asked.get("app", "")
    attributes, from_json = metadata.read(words[0])
    if name == "run-help":
        shown = text_lines(selected(attributes, from_json, {"helpfile"}, app), app)
        print("\n".join(shown) if shown else "No help sections were defined for this image")
        return 0
    sections: set[str] = {section for section in _SECTIONS if section in asked}
    everything, apps = "all" in asked, "list-apps" in asked
    if everything:
        sections, app = set(_SECTIONS), ""
    elif not sections and not apps:
        sections = {"labels"}
    found = selected(attributes, from_json, sections, app, apps, everything)
    if everything or "json" in asked:
        print(json_text(found))
    else:
        print("".join(line + "\n" for line in text_lines(found, app, apps)), end="")
    return 0


def _print_record(option: str, asked: dict[str, str], path: str) -> int:
    """Print the SBOM or the provenance statement as it is in the image; return the exit status."""
    other = sorted(set(asked) - {option, "json"} - set(command_options.FETCH))
    if other:
        raise BollardError(f"--{option} is shown alone, not with --{other[0]}", "run `bollard inspect` twice")
    print(image_sbom.text_in(path, option == "provenance").decode("utf-8", "replace"))
    return 0


def selected(
    attributes: Attributes,
    from_json: bool,
    sections: set[str],
    app: str = "",
    list_apps: bool = False,
    everything: bool = False,
) -> Attributes:
    """Return the requested part of an image's attributes.

    attributes: all attributes of the image.
    from_json: they come from the JSON object of a SIF file.
    sections: the names of the requested sections.
    app: the name of a SCIF app, "" for the image itself.
    list_apps: add the apps. As in Apptainer, with all their attributes if these come from the JSON object.
    everything: --all: add all apps with all their attributes.
    """
    apps: dict[str, Attributes] = attributes.get("apps", {})
    found: Attributes = {"apps": {}}
    if list_apps or everything:
        found["apps"] = {name: dict(apps[name]) if from_json or everything else {} for name in apps}
    for section in sections:
        if app and section != "deffile":
            if app in apps:
                found["apps"].setdefault(app, {})[section] = apps[app].get(section)
        elif not app or from_json:
            found[section] = attributes.get(section)
    return found


def json_text(found: Attributes) -> str:
    """Return JSON text as Apptainer writes it: with tabs, its order of names, and without empty values."""
    apps = {name: _ordered(app, _APP_ORDER) for name, app in sorted(found["apps"].items())}
    document = {"data": {"attributes": _ordered({**found, "apps": apps}, _ORDER)}, "type": "container"}
    return json.dumps(document, indent="\t", ensure_ascii=False).translate(GO_ESCAPES)


def _ordered(found: Attributes, names: tuple[str, ...]) -> Attributes:
    pairs = [(name, found.get(name)) for name in names]
    return {name: dict(sorted(v.items())) if isinstance(v, dict) else v for name, v in pairs if v}


def text_lines(found: Attributes, app: str = "", list_apps: bool = False) -> list[str]:
    """Return the attributes as lines of text.

    found: from `selected`.
    app: the name of a SCIF app, "" for the image itself.
    list_apps: begin with the names of the apps.
    """
    of_app = found["apps"].get(app, {})
    lines = sorted(found["apps"]) if list_apps else []
    if found.get("deffile"):
        lines.append(found["deffile"])
    for section in _PRINTED:
        text = found.get(section) or of_app.get(section)
        if text:
            lines.append(text)
    scripts = found.get("environment") or of_app.get("environment") or {}
    for path, text in sorted(scripts.items()):
        lines.append(f"=== {path} ===\n{text}\n")
    labels = found.get("labels") or of_app.get("labels") or {}
    return lines + [f"{name}: {text}" for name, text in sorted(labels.items())]
