# SPDX-License-Identifier: BSD-3-Clause
"""What the shim calls in Python: two functions, both in a process that is the user already.

The way there: `keeper.c` or `spec.c` forks, `python.c` opens `_bollard.so`, `start.c` starts an isolated
interpreter and calls `keep` or `check` below. A verdict stays "no" unless it is written here, so an
exception, a missing module or a broken installation can only refuse.
"""

from __future__ import annotations

from _bollard import ffi

from bollard.runtime.causes import one_line

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
    forked: int,
    dropped: int,
    why: Any,
    size: int,
    verdict: Any,
) -> None:
    """Be the keeper of one container until its step, or its job, has ended."""
    try:
        from bollard.runtime.container import keeper

        keeper.main(ffi.string(spec), ffi.string(site), ffi.string(program), listener, job, (forked, dropped))
        verdict[0] = 0
    except BaseException as error:
        _explain(error, why, size)


@ffi.def_extern()  # type: ignore[untyped-decorator]
def check(spec: Any, out: int, why: Any, size: int, verdict: Any) -> None:
    """Read the spec a client made, look at its image, and write the spec in full to `out`."""
    try:
        from bollard.runtime.local import submission

        submission.check(ffi.string(spec), out)
        verdict[0] = 0
    except BaseException as error:
        _explain(error, why, size)
