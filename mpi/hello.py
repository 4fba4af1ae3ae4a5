# SPDX-License-Identifier: BSD-3-Clause
"""``python3 -m bollard.mpi.hello``: check whether a problem is in Slurm's wire-up or in the MPI library.

Run it in place of an MPI program, in the same container with the same srun line::

    $ srun --mpi=pmix --container=img.sif -n 2 python3 -m bollard.mpi.hello
    rank 0 of 2 on n1: pmix 4.2.2 via /usr/lib/libpmix.so.2: init 12 ms, fence 1 ms, neighbour 1 on n2 says ok
    rank 1 of 2 on n2: pmix 4.2.2 via /usr/lib/libpmix.so.2: init 12 ms, fence 1 ms, neighbour 0 on n1 says ok

Every rank joins the job, puts a value, waits for the others, reads the value of the rank to its right and
checks it. If this works and the MPI program does not, the wire-up is good, and the problem is in the program or in its
MPI library.

The check uses PMIx through the image's libpmix. It uses PMI-2 through the image's libpmi2 or, without this library,
through its own code. After an error it also names the directories of the wire-up that are not visible in the container.
The exit status is 0 or 1.

``fence`` is the time of a second fence without data. The first fence carries the values and mostly measures the
differences in the ranks' start times (``exchange_ms`` with ``--json``).
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import threading
import time
from typing import Any, Protocol

from bollard.mpi import pmi2, pmi2_wire, pmix, wireup
from bollard.mpi.errors import WireupError

KEY = "bollard.hello"


class Session(Protocol):
    """One rank's connection to its job; the same steps for every flavour of PMI. Errors are WireupError."""

    library: str
    job: str
    rank: int
    size: int

    # Join the job; this sets `job`, `rank` and `size`.
    def join(self) -> None: ...
    # Offer this rank's value to the others.
    def put(self, value: str) -> None: ...
    # Wait for all ranks, and exchange the values.
    def fence(self) -> None: ...
    # Return the value of a rank, None if it has put none.
    def get(self, rank: int) -> str | None: ...
    # Leave the job.
    def leave(self) -> None: ...


class Pmix:
    """A session through libpmix."""

    def __init__(self) -> None:
        pmix.load()
        self.library = f"pmix {pmix.version()} via {mapped('libpmix.so')}"
        self.job, self.rank, self.size = "", 0, 0

    def join(self) -> None:
        self._me = pmix.init()
        self.job, self.rank = self._me
        size = pmix.get(pmix.Process(self.job, pmix.WHOLE_JOB), pmix.JOB_SIZE)
        if not isinstance(size, int):
            raise WireupError(
                f"the PMIx server of {self.job} does not know the job's size",
                "PMIX_MCA_gds=hash helps where its data directory is not visible",
            )
        self.size = size

    def put(self, value: str) -> None:
        pmix.put(KEY, value)
        pmix.commit()

    def fence(self) -> None:
        pmix.fence(self._me)

    def get(self, rank: int) -> str | None:
        value = pmix.get(pmix.Process(self.job, rank), KEY)
        return None if value is None else str(value)

    def leave(self) -> None:
        pmix.finalize()


class Pmi2:
    """A session through libpmi2."""

    def __init__(self) -> None:
        pmi2.load()
        self.library = f"pmi2 via {mapped('libpmi2.so')}"
        self.job, self.rank, self.size = "", 0, 0

    def join(self) -> None:
        self.rank, self.size, _ = pmi2.init()
        self.job = pmi2.job_id()

    def put(self, value: str) -> None:
        pmi2.put(f"{KEY}.{self.rank}", value)

    def fence(self) -> None:
        pmi2.fence()

    def get(self, rank: int) -> str | None:
        return pmi2.get(f"{KEY}.{rank}")

    def leave(self) -> None:
        pmi2.finalize()


class Pmi2Wire:
    """A PMI-2 session without a library."""

    def __init__(self, wire: pmi2_wire.Wire) -> None:
        self._wire = wire
        self.library = "pmi2 without a library"
        self.job, self.rank, self.size = "", wire.rank, 0

    def join(self) -> None:
        self._wire.init()
        self.rank, self.size, self.job = self._wire.rank, self._wire.size, self._wire.job_id()

    def put(self, value: str) -> None:
        self._wire.put(f"{KEY}.{self.rank}", value)

    def fence(self) -> None:
        self._wire.fence()

    def get(self, rank: int) -> str | None:
        return self._wire.get(f"{KEY}.{rank}")

    def leave(self) -> None:
        self._wire.finalize()


def main(argv: list[str] | None = None) -> int:
    """Run the check; return the exit status, 0 or 1. ``argv`` are the arguments, None for those of this process."""
    parser = argparse.ArgumentParser(
        prog="python3 -m bollard.mpi.hello",
        description="Join the job, exchange a value with a neighbour, say how it went.",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per rank instead of a sentence")
    parser.add_argument(
        "--no-library",
        action="store_true",
        help="with --mpi=pmi2, speak to Slurm directly even where the image has libpmi2",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=60,
        metavar="SECONDS",
        help="give up when a rank does not come (default 60)",
    )
    args = parser.parse_args(argv)
    host = socket.gethostname()
    env = dict(os.environb)
    rank = env.get(b"PMIX_RANK", env.get(b"PMI_RANK", b"")).decode("utf-8", "replace")
    label = f"rank {rank} on {host}: " if rank else ""
    limit = threading.Timer(
        args.timeout,
        give_up,
        [f"{label}no answer in {args.timeout:g} s; did all ranks of the step start, and none of them fail?"],
    )
    limit.daemon = True
    limit.start()
    try:
        report = exchange(choose(env, args.no_library), host)
    except (WireupError, OSError) as problem:
        for line in (str(problem), *invisible(env, os.getuid())):
            print(f"bollard: {label}{line}", file=sys.stderr)
        return 1
    finally:
        limit.cancel()
    # One write per rank, so that the lines of several ranks do not mix.
    sys.stdout.write((json.dumps(report) if args.json else sentence(report)) + "\n")
    sys.stdout.flush()
    return 0


def invisible(env: dict[bytes, bytes], uid: int) -> list[str]:
    """Return a line for each directory of this step's wire-up that is not visible: a possible cause of the error."""
    wanted = wireup.directories(env, uid) if wireup.flavours(env) else ()
    return [
        f"{os.fsdecode(path)} is not visible here; if it is there on the node, bind it with BOLLARD_BIND"
        for path in wanted
        if not os.path.isdir(path)
    ]


def choose(env: dict[bytes, bytes], no_library: bool = False) -> Session:
    """Return a session for the flavour that Slurm prepared; it has not joined yet.

    env: the environment of the task.
    no_library: for PMI-2, do not use libpmi2.

    Raises:
        WireupError: Slurm has prepared no flavour that this check supports.
    """
    prepared = wireup.flavours(env)
    if "pmix" in prepared:
        return Pmix()
    if "pmi2" in prepared:
        wire = pmi2_wire.from_environment(env)
        if no_library:
            return Pmi2Wire(wire)
        try:
            return Pmi2()
        except WireupError:
            return Pmi2Wire(wire)
    if prepared:
        raise WireupError(
            f"{prepared[0]} is prepared, which this check does not speak",
            "run the MPI program itself, or start this with srun --mpi=pmi2",
        )
    for flavour, step in wireup.stale(env).items():
        raise WireupError(
            f"the {flavour} variables in the environment are of another step ({step})",
            f"start it with srun --mpi={flavour}",
        )
    raise WireupError("no PMI in the environment", "start it with srun --mpi=pmix or --mpi=pmi2")


def exchange(session: Session, host: str) -> dict[str, Any]:
    """Run the check in a session; return the report, with times in milliseconds. ``host`` is this node's name.

    Raises:
        WireupError: a call fails, or the neighbour's value is wrong.
    """
    begin = time.perf_counter()
    session.join()
    joined = time.perf_counter()
    session.put(f"{session.job} {session.rank} {host}")
    session.fence()
    exchanged = time.perf_counter()
    session.fence()
    fenced = time.perf_counter()
    neighbour = (session.rank + 1) % session.size
    value = session.get(neighbour)
    words = (value or "").split(" ")
    if words[:2] != [session.job, str(neighbour)] or len(words) != 3:
        found = "nothing" if value is None else repr(value[:200])
        raise WireupError(
            f"expected '{session.job} {neighbour} HOST' of neighbour {neighbour}, got {found}",
            "fences do not carry data; look in slurmd's log on both nodes",
        )
    session.leave()
    return {
        "rank": session.rank,
        "size": session.size,
        "host": host,
        "job": session.job,
        "library": session.library,
        "init_ms": round((joined - begin) * 1e3, 2),
        "exchange_ms": round((exchanged - joined) * 1e3, 2),
        "fence_ms": round((fenced - exchanged) * 1e3, 2),
        "neighbour": neighbour,
        "neighbour_host": words[2],
    }


def sentence(report: dict[str, Any]) -> str:
    """Return a report as one line of text."""
    text = (
        "rank {rank} of {size} on {host}: {library}: init {init_ms:.0f} ms, fence {fence_ms:.1f} ms, "
        "neighbour {neighbour} on {neighbour_host} says ok"
    )
    return text.format_map(report)


def mapped(name: str) -> str:
    """Return the path of a loaded library; ``name`` is a part of its file name, returned if none is found."""
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            path = line.rstrip("\n").partition("/")[2]
            if name in path.rpartition("/")[2]:
                return "/" + path
    return name


def give_up(message: str) -> None:
    """Print a message and end the process. Runs in the timer's thread: the main thread may be inside a library."""
    sys.stderr.write(f"bollard: {message}\n")
    sys.stderr.flush()
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
