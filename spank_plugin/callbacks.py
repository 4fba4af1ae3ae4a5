# SPDX-License-Identifier: BSD-3-Clause
"""The three Python functions that C calls. They run as the user.

`keeper.c` or `spec.c` forks; `python.c` opens `_bollard.so`; `start.c` starts an isolated interpreter and calls
`keep`, `check` or `look` below. The verdict is a failure until it is set to 0 here. So an exception, a missing module
or a broken installation always refuses the container.
"""

from __future__ import annotations

import gc

from _bollard import ffi

from bollard.runtime import archive

gc.disable()  # until all is imported: nothing of that becomes garbage
archive.use(__file__.rsplit("/", 3)[0])

from bollard.runtime.causes import one_line  # noqa: E402

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def _explain(error: BaseException, why: Any, size: int) -> None:
    if isinstance(error, ImportError):
        text = f"the installation is not whole ({error}); the site's administrator should install bollard again"
    else:
        text = one_line(error)
    data = text.encode("utf-8", "replace")[: size - 1]
    ffi.memmove(why, data + b"\0", len(data) + 1)


@ffi.def_extern()  # type: ignore[untyped-decorator]
def keep(
    spec: Any,
    site: Any,
    program: Any,
    listener: int,
    job: int,
    before: int,
    forked: int,
    dropped: int,
    why: Any,
    size: int,
    verdict: Any,
) -> None:
    """Run the keeper of one container until its step, or its job, has ended.

    Args:
        spec: the container's spec (C string).
        site: the plugin's arguments in plugstack.conf (C string).
        program: argument 0 of the tasks, or "" (C string).
        listener: descriptor to which tasks connect.
        job: descriptor of the connection to the job socket, which hangs up when the job ends.
        before: connection to the keeper of the container that this one follows, or -1.
        forked: when slurmstepd forked, CLOCK_MONOTONIC, ns.
        dropped: when the child gave up root, CLOCK_MONOTONIC, ns.
        why: buffer for the reason of a failure.
        size: bytes of `why`.
        verdict: pointer to an int, set to 0 on success.
    """
    try:
        archive.start()
        from bollard.runtime.container import step

        gc.freeze()
        gc.enable()
        times = forked, dropped
        step.main(ffi.string(spec), ffi.string(site), ffi.string(program), listener, job, times, before)
        verdict[0] = 0
    except BaseException as error:
        _explain(error, why, size)


@ffi.def_extern()  # type: ignore[untyped-decorator]
def check(spec: Any, out: int, why: Any, size: int, verdict: Any) -> None:
    """Check the spec that a client made, and its image, and write the full spec to the descriptor `out`.

    Args:
        spec: the client's spec (C string).
        out: descriptor for the full spec.
        why: buffer for the reason of a failure.
        size: bytes of `why`.
        verdict: pointer to an int, set to 0 on success.
    """
    try:
        from bollard.runtime.local import submission

        submission.check(ffi.string(spec), out)
        verdict[0] = 0
    except BaseException as error:
        _explain(error, why, size)


@ffi.def_extern()  # type: ignore[untyped-decorator]
def look(request: Any, out: int, why: Any, size: int, verdict: Any) -> None:
    """Look into an image for the pre-flight, and write the verdict to the descriptor `out`.

    Args:
        request: the image's path, a line feed, a program of the image (C string).
        out: descriptor for the verdict.
        why: buffer for the reason of a failure.
        size: bytes of `why`.
        verdict: pointer to an int, set to 0 on success.
    """
    try:
        from bollard.runtime.preflight import client

        client.look(ffi.string(request), out)
        verdict[0] = 0
    except BaseException as error:
        _explain(error, why, size)
