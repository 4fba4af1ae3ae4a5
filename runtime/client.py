# SPDX-License-Identifier: BSD-3-Clause
"""The thorough look of srun, sbatch and salloc at what the user asked, where a glance did not settle it."""

from __future__ import annotations

import os
import time

from bollard.runtime import image, options, spec

# Not a part of the container; stepd.c cuts it off.
LAST = ("verbose",)
# Directories of which every node has its own: an image there may exist on the nodes alone.
NODE_LOCAL = ("/tmp", "/var/tmp", "/dev/shm")


def resolve(values: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """`values` with environment forms replaced by the options they stand for.

    An option given by name wins over its forms; among those BOLLARD_ wins over APPTAINER_ over SINGULARITY_;
    two forms of one prefix (BIND and BINDPATH) add up. Files of variables become the `env` they stand for.
    """
    present = dict(values)
    forms = {form for row in options.TABLE for form in options.variables(row)}
    result = [(name, value) for name, value in values if name not in forms]
    for row in options.TABLE:
        if row[0] in present:
            continue
        for prefix in options.PREFIXES:
            found = [present[form] for form in options.variables(row) if form.startswith(prefix) and form in present]
            if found:
                result += [(row[0], value) for value in found]
                break
    files = [value for name, value in result if name == "env-file"]
    if files:
        from bollard.runtime import envfile

        # In front, so that what was given by --env wins.
        return envfile.pairs(files) + [pair for pair in result if pair[0] != "env-file"]
    return result


def check(text: bytes, out: int) -> None:
    """Write the settled form of the spec `text` to `out`; BollardError for what cannot work."""
    values = resolve(spec.pairs(text))
    asked = spec.make(values)
    image.refuse_uri(asked.asked, image.shown(asked.asked))
    if not any(name == "id" for name, _ in values) and not _on_nodes_only(asked.image):
        opened = image.open_image(asked.image, os.uname().machine)
        values.append(("id", ".".join(map(str, opened.identity))))
    values = [(name, asked.image if name == "image" else value) for name, value in values if name not in LAST]
    if asked.verbose:
        values.append(("verbose", str(time.time_ns())))
    os.write(out, spec.text(values))


def _on_nodes_only(path: str) -> bool:
    return not os.path.lexists(path) and any(path.startswith(place + "/") for place in NODE_LOCAL)
