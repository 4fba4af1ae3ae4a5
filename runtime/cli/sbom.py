# SPDX-License-Identifier: BSD-3-Clause
"""`bollard sbom`: list the packages in images, from their SBOMs; of a directory, from its package databases."""

from __future__ import annotations

import json
import os
import sys
import time

from bollard.runtime.errors import BollardError, shown
from bollard.runtime.image import image_sbom

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from bollard.runtime.image.image_sbom import Listed, Sbom

    Opened = Callable[[str], tuple[str, Callable[[], None]]]


def run(given: list[tuple[str, str]], words: list[str], opened: Opened) -> int:
    """Run `bollard sbom`; return 0, 1 if --find has found nothing, or 255 if an image could not be read.

    given: the parsed options, name and value.
    words: the images.
    opened: returns the path of an image, and a function to call when it has been read; it fetches a URI.

    Raises:
        BollardError: no image is named, or --find has no name.
    """
    if not words:
        raise BollardError("no image named", "write `bollard sbom IMAGE...`")
    asked = dict(given)
    name = asked.get("find")
    if name == "":
        raise BollardError("--find has no name", "write `--find openssl`")
    found: list[tuple[str, list[Listed], str]] = []
    status = 0
    for word in words:
        try:
            path, close = opened(word)
            try:
                whole = _read(path)
            finally:
                close()
        except BollardError as error:
            print("bollard:", shown(str(error)), file=sys.stderr)
            status = 255
            continue
        found.append((word, matching(whole.packages, name), whole.gaps))
        if whole.gaps:
            print(f"bollard: {shown(word)}: its SBOM lacks packages: {shown(whole.gaps)}", file=sys.stderr)
    shown_lines = [json_text(found)] if "json" in asked else lines(found, len(words) > 1)
    print("".join(f"{line}\n" for line in shown_lines), end="")
    if not status and name is not None and not any(packages for _, packages, _ in found):
        return 1
    return status


def _read(path: str) -> Sbom:
    if not os.path.isdir(path):
        return image_sbom.parse(image_sbom.text_in(path), path)
    from bollard.runtime.build import sbom
    from bollard.runtime.image import image
    from bollard.runtime.system.tree import Tree

    image.open_image(path).close()  # raises if the directory is not a root filesystem
    tree = Tree(path)
    try:
        return image_sbom.parse(sbom.of_tree(tree, time.time())[0].data, path)
    finally:
        tree.close()


def matching(packages: list[Listed], name: str | None) -> list[Listed]:
    """Return the packages with `name` in their name or in that of their source package; all if `name` is None."""
    if name is None:
        return packages
    name = name.lower()
    return [package for package in packages if name in package.name.lower() or name in package.upstream.lower()]


def lines(found: list[tuple[str, list[Listed], str]], several: bool) -> list[str]:
    """Return one line for each package: kind, name, version, source package; with `several`, the image first."""
    rows = [
        (*((image,) if several else ()), package.kind, package.name, package.version, package.upstream)
        for image, packages, _ in found
        for package in packages
    ]
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(shown(word).ljust(width) for word, width in zip(row, widths)).rstrip() for row in rows]


def json_text(found: list[tuple[str, list[Listed], str]]) -> str:
    """Return the packages as JSON: a list of images, each with its packages and its gaps."""
    return json.dumps(
        [
            {
                "image": image,
                "gaps": gaps,
                "packages": [
                    {"kind": p.kind, "name": p.name, "version": p.version, "source": p.upstream, "purl": p.purl}
                    for p in packages
                ],
            }
            for image, packages, gaps in found
        ],
        indent=2,
    )
