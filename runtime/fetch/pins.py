# SPDX-License-Identifier: BSD-3-Clause
"""Which image a name means in a job: the first step that fetches it decides for all later steps and array elements.

    CACHE/pin/CLUSTER.JOB.HEX     the name with a digest; HEX is of the name as the user typed it

So a tag that moves while a job runs changes nothing in it, and later steps ask no registry. JOB is the number of the
whole array. The file is made once: of two steps at a time one decides.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Mapping

from bollard.runtime.fetch import cache
from bollard.runtime.fetch.cache import Store

_MAX_BYTES = 4096


def job(environ: Mapping[str, str]) -> str:
    """Return the word for the job that this process is a step of; "" outside of a job."""
    number = environ.get("SLURM_ARRAY_JOB_ID") or environ.get("SLURM_JOB_ID", "")
    cluster = re.sub(r"[^0-9A-Za-z_-]", "_", environ.get("SLURM_CLUSTER_NAME", ""))
    return f"{cluster}.{number}" if number.isascii() and number.isdigit() else ""


def get(store: Store, job: str, uri: str) -> str:
    """Return the name with a digest that `uri` has in the job; "" if none is known yet.

    store: the opened cache.
    job: from `job`.
    uri: the image as the user typed it.
    """
    path = _path(store, job, uri)
    try:
        with open(path, encoding="utf-8") as file:
            found = file.read(_MAX_BYTES)
        os.utime(path)  # it is removed when nobody has used it for long
    except (OSError, ValueError):
        return ""  # no step has asked for it yet, or the cache was emptied meanwhile
    return found


def keep(store: Store, job: str, uri: str, source: str) -> str:
    """Note what `uri` means in the job; return it, or what another step has noted meanwhile.

    store: the opened cache.
    job: from `job`.
    uri: the image as the user typed it.
    source: the same with a digest.
    """
    fd, made = tempfile.mkstemp(prefix="pin-", dir=f"{store.root}/tmp")
    try:
        with open(fd, "w", encoding="utf-8") as file:
            file.write(source)
        os.link(made, _path(store, job, uri))
    except FileExistsError:
        return get(store, job, uri) or source
    finally:
        cache.discard(made)
    return source


def _path(store: Store, job: str, uri: str) -> str:
    return f"{store.root}/pin/{job}.{hashlib.sha256(uri.encode('utf-8', 'surrogateescape')).hexdigest()[:32]}"
