# SPDX-License-Identifier: BSD-3-Clause
"""Environments for tests: the image's part and a task's, from few words."""

from __future__ import annotations

from bollard.runtime.container.environment import of_image, of_task
from bollard.runtime.request.spec import Spec

IMAGE = b"/data/img.sif"
LIBRARIES = b"/.singularity.d/libs"

# Files as builders write them, reduced to what they do.
FIRST = ("01-base.sh", b"#!/bin/sh\n")


OWN = ("90-environment.sh", b"#!/bin/sh\nexport WHO=image\nMINE=1\n")


LAST = (
    "99-base.sh",
    b"""if [ -z "${LD_LIBRARY_PATH:-}" ]; then
  LD_LIBRARY_PATH=/.singularity.d/libs
else
  LD_LIBRARY_PATH="$LD_LIBRARY_PATH:/.singularity.d/libs"
fi
if [ -z "${PS1:-}" ]; then PS1="Apptainer> "; fi
export LD_LIBRARY_PATH PS1
""",
)


def no_shell(script: bytes, env: list[bytes]) -> bytes | None:
    raise AssertionError("a shell was asked for")


def image_env(*scripts, home=b"/home/u", shell=no_shell):
    return of_image(list(scripts), home, IMAGE, shell)


def task_env(image=None, host=(), spec=None, **more) -> dict[bytes, bytes]:
    spec = spec or Spec("/data/img.sif", asked="img.sif", home="/home/u")
    pairs = of_task(image if image is not None else image_env(), list(host), spec, **more)
    assert len({pair.partition(b"=")[0] for pair in pairs}) == len(pairs)
    return dict(pair.split(b"=", 1) for pair in pairs)


def asking(*env: tuple[bytes, bytes], cleanenv=False) -> Spec:
    return Spec("/data/img.sif", home="/home/u", env=env, cleanenv=cleanenv)
