# SPDX-License-Identifier: BSD-3-Clause
"""PMI-2 client calls through libpmi2, by cffi in ABI mode: no compiler and no header are needed.

There is one Python function per call; callers see no C types. ``libpmi2.so.0`` comes with Slurm (``slurm/pmi2.h``:
only plain C types, the same in all releases). MPI programs that are built against it make the same calls.
`bollard.mpi.pmi2_wire` does the same without this library.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from bollard.mpi import library
from bollard.mpi.errors import Pmi2Error
from bollard.mpi.pmi2_wire import KEY_LIMIT, VALUE_LIMIT

_DECLARATIONS = """
int PMI2_Init(int *spawned, int *size, int *rank, int *appnum);
int PMI2_Finalize(void);
int PMI2_Job_GetId(char jobid[], int jobid_size);
int PMI2_KVS_Put(const char key[], const char value[]);
int PMI2_KVS_Fence(void);
int PMI2_KVS_Get(const char *jobid, int src_pmi_id, const char key[], char value[], int maxvalue,
                 int *vallen);
"""

NAMES = (
    "libpmi2.so.0",
    "/usr/lib/*/libpmi2.so.0",
    "/usr/lib/*/slurm-wlm/libpmi2.so.0",
    "/usr/lib64/libpmi2.so.0",
    "/usr/lib64/slurm/libpmi2.so.0",
    "/opt/slurm/lib*/libpmi2.so.0",
)

_ANY_SOURCE = -1  # PMI2_ID_NULL

# From slurm/pmi2.h. The codes are the same in every release; libpmi2 has no function that returns their names.
_CODES = (
    "SUCCESS",
    "ERR_INIT",
    "ERR_NOMEM",
    "ERR_INVALID_ARG",
    "ERR_INVALID_KEY",
    "ERR_INVALID_KEY_LENGTH",
    "ERR_INVALID_VAL",
    "ERR_INVALID_VAL_LENGTH",
    "ERR_INVALID_LENGTH",
    "ERR_INVALID_NUM_ARGS",
    "ERR_INVALID_ARGS",
    "ERR_INVALID_NUM_PARSED",
    "ERR_INVALID_KEYVALP",
    "ERR_INVALID_SIZE",
    "ERR_OTHER",
)
_HINTS = {
    "PMI2_Init": "start it with srun --mpi=pmi2, once per task; hello --no-library leaves this library out",
    "PMI2_KVS_Fence": "a rank or its node is gone; look in slurmd's log",
}


class Start(NamedTuple):
    """The result of PMI2_Init: rank, number of ranks, and whether another job spawned this one."""

    rank: int
    size: int
    spawned: bool


_ffi: Any = None
_library: Any = None


def load(names: tuple[str, ...] = NAMES) -> None:
    """Open libpmi2; call this before the functions below. ``names`` are tried in order and can be glob patterns.

    Raises:
        Pmi2Error: cffi or the library is missing.
    """
    global _ffi, _library
    if _library is not None:
        return
    hint = "use bollard.mpi.pmi2_wire, which needs no library"
    _ffi, _library = library.open_library(NAMES[0], _DECLARATIONS, names, Pmi2Error, hint)


def init() -> Start:
    """Join the job through PMI_FD. Can be called only once per task."""
    spawned, size, rank, application = (_ffi.new("int *") for _ in range(4))
    _check("PMI2_Init", _library.PMI2_Init(spawned, size, rank, application))
    return Start(int(rank[0]), int(size[0]), bool(spawned[0]))


def job_id() -> str:
    """Return the server's name of the job: ``JOB.STEP``."""
    name = _ffi.new("char[]", VALUE_LIMIT)
    _check("PMI2_Job_GetId", _library.PMI2_Job_GetId(name, VALUE_LIMIT))
    return _string(name)


def put(key: str, value: str) -> None:
    """Offer a value to the other ranks; they see it after the next `fence`. All ranks of a job share the keys.

    Raises:
        Pmi2Error: the key or the value is too long (the library does not check this), or the call fails.
    """
    raw_key, raw_value = key.encode(), value.encode()
    if len(raw_key) >= KEY_LIMIT or len(raw_value) >= VALUE_LIMIT:
        raise Pmi2Error(
            f"PMI-2 key of {len(raw_key)} or value of {len(raw_value)} bytes",
            f"at most {KEY_LIMIT - 1} and {VALUE_LIMIT - 1} fit",
        )
    _check("PMI2_KVS_Put", _library.PMI2_KVS_Put(raw_key, raw_value))


def fence() -> None:
    """Wait until every rank of the step has called this."""
    _check("PMI2_KVS_Fence", _library.PMI2_KVS_Fence())


def get(key: str) -> str | None:
    """Return the value that a rank has put before the last fence; None if there is none."""
    value, length = _ffi.new("char[]", VALUE_LIMIT), _ffi.new("int *")
    job = job_id().encode()
    status = _library.PMI2_KVS_Get(job, _ANY_SOURCE, key.encode(), value, VALUE_LIMIT, length)
    if status == _CODES.index("ERR_OTHER"):
        # libpmi2 returns this code if the server has no such key.
        return None
    _check(f"PMI2_KVS_Get of {key}", status)
    return _string(value)


def finalize() -> None:
    """Leave the job. The server then closes the connection permanently."""
    _check("PMI2_Finalize", _library.PMI2_Finalize())


def _string(buffer: Any) -> str:
    return str(_ffi.string(buffer).decode("utf-8", "backslashreplace"))


def _check(call: str, status: int) -> None:
    if status == 0:
        return
    name = "FAIL" if status == -1 else _CODES[status] if 0 < status < len(_CODES) else "unknown code"
    hint = _HINTS.get(call, "look in slurmd's log on this node")
    raise Pmi2Error(f"{call}: PMI2_{name} ({status})", hint, status)
