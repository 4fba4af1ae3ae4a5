# SPDX-License-Identifier: BSD-3-Clause
"""What srun's plugin calls for an image, or a program of it, that has no verdict in the cache yet."""

from __future__ import annotations

import os

from bollard.runtime.causes import one_line
from bollard.runtime.errors import BollardError
from bollard.runtime.image import image
from bollard.runtime.preflight import image_root, verdict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bollard.runtime.preflight.contents import Contents


def look(request: bytes, out: int) -> None:
    """Look into an image, keep the verdict in the cache, and write it to the descriptor `out`.

    request  the path of the image, a line feed, and a program of the image ("" for none)
    out      the descriptor to write to

    A failure is a verdict too: `unread` and the reason. So an image that this machine cannot show is not tried again at
    each srun; `bollard doctor` tries it again. What is not kept: a look that took too long, and the answer on an image
    that this machine cannot open. Each node opens the image too, and says what is wrong with it.
    """
    path, _, program = os.fsdecode(request).partition("\n")
    text = made(path, program, os.environ)
    data = os.fsencode(text)
    while data:
        data = data[os.write(out, data) :]


def made(path: str, program: str, environ: os._Environ[str] | dict[str, str]) -> str:
    """Return the verdict on the image at `path`, and keep it in the cache.

    path     an image file or a directory
    program  a program of the image to look at too; "" for none
    environ  environment variables, which name the place of the cache
    """
    try:
        opened = image.open_image(path, encrypted=True)
    except BollardError as error:
        return f"{verdict.HEAD}\nunread {one_line(error)}\n"
    place = verdict.place(identity(opened.identity, path), environ)
    opened.close()
    known = verdict.programs(verdict.cached(place))
    try:
        found = image_root.read(path, program)
        programs = found["programs"].items()
        families = {word: entry["family"] if entry["path"] else verdict.MISSING for word, entry in programs}
        text = verdict.text(found, {**known, **families})
    except Exception as error:  # a verdict is advice: no failure of it may keep a job from being submitted
        text = f"{verdict.HEAD}\nunread {one_line(error)}\n"
        if isinstance(error, image_root.NoAnswer):
            return text  # not kept
    verdict.keep(place, text)
    return text


def read_again(path: str, environ: os._Environ[str] | dict[str, str]) -> Contents:
    """Return the contents of the image at `path`, and put the verdict on it into the cache in place of an older one.

    environ  environment variables, which name the place of the cache

    Raises:
        BollardError: the image cannot be opened, or this machine cannot show what is in it.
    """
    found = image_root.read(path)
    opened = image.open_image(path, encrypted=True)
    place = verdict.place(identity(opened.identity, path), environ)
    opened.close()
    verdict.keep(place, verdict.text(found, verdict.programs(verdict.cached(place))))
    return found


def identity(found: tuple[int, int, int], path: str) -> tuple[int, int, int]:
    """Return the identity of an image for the cache: a directory also changes with the libraries in it.

    found  the identity of the file or directory
    path   its path
    """
    newest = found[2]
    for name in ("etc/ld.so.cache", "usr/local/lib", "opt"):
        try:
            newest = max(newest, os.stat(f"{path}/{name}").st_mtime_ns)
        except OSError:
            continue  # a file, or a directory that has none of them
    return found[0], found[1], newest
