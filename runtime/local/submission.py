# SPDX-License-Identifier: BSD-3-Clause
"""The full check that srun, sbatch and salloc make before a job is submitted, in Python.

The client's C code skips it where only an image is named and that image is plain (spank_plugin/plain.c).
"""

from __future__ import annotations

import os
import time

from bollard.runtime.errors import BollardError
from bollard.runtime.image import image
from bollard.runtime.installed import PREFIX
from bollard.runtime.request import forms, site, spec

# Not a part of the container; stepd.c cuts it off.
LAST = ("verbose",)
# Directories of which every node has its own: an image there may exist on the nodes alone.
NODE_LOCAL = ("/tmp", "/var/tmp", "/dev/shm")


def check(text: bytes, out: int) -> None:
    """Write the settled form of the spec `text` to `out`; BollardError for what cannot work."""
    values = _fetched(forms.resolve(spec.pairs(text)))
    asked = spec.make(values)
    if asked.image and not any(name == "id" for name, _ in values) and not _on_nodes_only(asked.image):
        opened = image.open_image(asked.image, os.uname().machine)
        site.refuse_image(site.load(PREFIX), opened.fd, asked.asked)
        values.append(("id", ".".join(map(str, opened.identity))))
    values = [(name, asked.image if name == "image" else value) for name, value in values if name not in LAST]
    if not spec.is_of_one_step(asked):
        values = [pair for pair in values if pair[0] != "once"]
    if asked.verbose:
        values.append(("verbose", str(time.time_ns())))
    os.write(out, spec.text(values))


def _fetched(values: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """With an image that lies elsewhere brought into the user's cache: once, here, and not on each node."""
    given = dict(values)
    uri = given.get("asked", "")
    if "#" in uri and not image.is_uri(uri) and not os.path.lexists(given["image"]):
        uri = f"docker://{uri}"  # pyxis's form, which needs no scheme
    if not image.is_uri(uri):
        return values
    from bollard.runtime.build import conversion
    from bollard.runtime.fetch import sources

    settings = sources.settings([], os.environ)
    if settings.disable_cache:
        raise BollardError(f"{uri}: the cache is disabled, where a job's image is kept", "use `bollard pull`")
    found = conversion.image_of(uri, settings)
    found.close()
    return [(name, found.path if name == "image" else value) for name, value in values]


def _on_nodes_only(path: str) -> bool:
    return not os.path.lexists(path) and any(path.startswith(place + "/") for place in NODE_LOCAL)
