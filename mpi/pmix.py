# SPDX-License-Identifier: BSD-3-Clause
"""PMIx client calls through libpmix, by cffi in ABI mode: no compiler and no header are needed.

There is one Python function per call; callers see no C types. `load` searches for the library in the file system of
this process, usually the image.

The declarations are valid for libpmix 3.2 to 6.x, which all have the name ``libpmix.so.2``. The sizes and offsets below
have not changed: newer releases only added pointers to the union in ``pmix_value_t`` (32 bytes, checked by
`load`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from bollard.mpi import library
from bollard.mpi.errors import PmixError

_DECLARATIONS = """
typedef struct { char nspace[256]; uint32_t rank; } pmix_proc_t;
typedef struct {
    uint16_t type;
    union { bool flag; char *string; int integer; size_t size; int64_t int64;
            uint8_t uint8; uint16_t uint16; uint32_t uint32; uint64_t uint64; char room[24]; } data;
} pmix_value_t;
typedef struct { char key[512]; uint32_t flags; pmix_value_t value; } pmix_info_t;
int PMIx_Init(pmix_proc_t *proc, pmix_info_t info[], size_t ninfo);
int PMIx_Finalize(const pmix_info_t info[], size_t ninfo);
int PMIx_Put(uint8_t scope, const char key[], pmix_value_t *val);
int PMIx_Commit(void);
int PMIx_Fence(const pmix_proc_t procs[], size_t nprocs, const pmix_info_t info[], size_t ninfo);
int PMIx_Get(const pmix_proc_t *proc, const char key[], const pmix_info_t info[], size_t ninfo,
             pmix_value_t **val);
const char *PMIx_Error_string(int status);
const char *PMIx_Get_version(void);
void free(void *);
"""
_SIZES = {"pmix_proc_t": 260, "pmix_value_t": 32, "pmix_info_t": 552}

NAMES = (
    "libpmix.so.2",
    "/usr/lib/*/libpmix.so.2",
    "/usr/lib/*/pmix2/lib/libpmix.so.2",
    "/usr/lib64/libpmix.so.2",
)

# From pmix_common.h: PMIX_JOB_SIZE, PMIX_RANK_WILDCARD, PMIX_GLOBAL.
JOB_SIZE = "pmix.job.size"
WHOLE_JOB = 0xFFFFFFFE
_GLOBAL = 3
_COLLECT = b"pmix.collect"
_BOOL, _STRING = 1, 3
# pmix_data_type_t -> member of the union, for the types of job and peer attributes.
_MEMBERS = {
    1: "flag",
    4: "size",
    6: "integer",
    10: "int64",
    12: "uint8",
    13: "uint16",
    14: "uint32",
    15: "uint64",
    40: "uint32",
}

_NOT_FOUND = -46
_IDS = "the server saw other ids than the job's: the container must not map them to root"
# status -> (name, hint). The names are the same in every release; the texts of the library are not.
_STATUS = {
    -12: ("INVALID_CRED", _IDS),
    -23: ("NO_PERMISSIONS", _IDS),
    -24: ("TIMEOUT", "a rank did not come; see whether all of them started"),
    -25: (
        "UNREACH",
        "no server answered: start with srun --mpi=pmix, and keep the host's network and the "
        "directory in PMIX_SERVER_TMPDIR visible",
    ),
    -31: ("INIT", "the library could not start; PMIX_MCA_pmix_client_base_verbose=5 says more"),
    _NOT_FOUND: ("NOT_FOUND", "the rank that should have put the key did not, or did not fence"),
    -47: ("NOT_SUPPORTED", "the image's libpmix and the node's are too far apart"),
    -49: ("COMM_FAILURE", "the connection to slurmstepd broke; look in slurmd's log on this node"),
    -61: ("LOST_CONNECTION", "the connection to slurmstepd broke; look in slurmd's log on this node"),
}


class Process(NamedTuple):
    """One process of a job: PMIx's name of the job (``slurm.pmix.JOB.STEP``) and the rank."""

    namespace: str
    rank: int


_ffi: Any = None
_library: Any = None


def load(names: tuple[str, ...] = NAMES) -> None:
    """Open libpmix; call this before the functions below. ``names`` are tried in order and can be glob patterns.

    Raises:
        PmixError: cffi or the library is missing.
    """
    global _ffi, _library
    if _library is not None:
        return
    hint = "install libpmix2 and python3-cffi in the image; srun --mpi=pmi2 needs neither"
    _ffi, _library = library.open_library(NAMES[0], _DECLARATIONS, names, PmixError, hint)
    for kind, size in _SIZES.items():
        assert _ffi.sizeof(kind) == size, kind


def version() -> str:
    """Return the library's version, for example ``4.2.2``. The library's own text is longer and varies by release."""
    text = _ffi.string(_library.PMIx_Get_version()).decode("ascii", "replace")
    for word in text.replace(",", " ").split():
        if word[0].isdigit():
            return str(word)
    return str(text)


def init() -> Process:
    """Connect to the PMIx server of this node; return this process's name. Takes one to some tens of milliseconds."""
    who = _ffi.new("pmix_proc_t *")
    _check("PMIx_Init", _library.PMIx_Init(who, _ffi.NULL, 0))
    return Process(_ffi.string(who.nspace).decode(), int(who.rank))


def get(who: Process, key: str) -> str | int | bool | None:
    """Return a value that ``who`` has put, or an attribute of PMIx; None if there is no such value.

    who: the process. Rank `WHOLE_JOB` means the attributes of the job.
    key: the key of the value or the name of the attribute.

    Raises:
        PmixError: the call fails, or the value is neither a number nor a string.
    """
    answer = _ffi.new("pmix_value_t **")
    status = _library.PMIx_Get(_process(who), key.encode(), _ffi.NULL, 0, answer)
    if status == _NOT_FOUND:
        return None
    _check(f"PMIx_Get of {key}", status)
    value = answer[0]
    kind = int(value.type)
    try:
        if kind == _STRING:
            text = str(_ffi.string(value.data.string).decode("utf-8", "backslashreplace"))
            _library.free(value.data.string)
            return text
        if kind not in _MEMBERS:
            raise PmixError(f"PMIx_Get of {key}: a value of type {kind}", "only numbers and strings are read here")
        number = getattr(value.data, _MEMBERS[kind])
        return bool(number) if kind == _BOOL else int(number)
    finally:
        _library.free(value)


def put(key: str, value: str) -> None:
    """Offer a string to every process of the job; they see it after `commit` and `fence`."""
    text = _ffi.new("char[]", value.encode())
    record = _ffi.new("pmix_value_t *")
    record.type = _STRING
    record.data.string = text
    _check(f"PMIx_Put of {key}", _library.PMIx_Put(_GLOBAL, key.encode(), record))


def commit() -> None:
    """Send the values of `put` to the PMIx server of this node."""
    _check("PMIx_Commit", _library.PMIx_Commit())


def fence(who: Process) -> None:
    """Wait until every process of the job of ``who`` has called this, and exchange their values."""
    collect = _ffi.new("pmix_info_t *")
    _ffi.memmove(collect.key, _COLLECT, len(_COLLECT))
    collect.value.type = _BOOL
    collect.value.data.flag = True
    everyone = _process(Process(who.namespace, WHOLE_JOB))
    _check("PMIx_Fence", _library.PMIx_Fence(everyone, 1, collect, 1))


def finalize() -> None:
    """Leave the job."""
    _check("PMIx_Finalize", _library.PMIx_Finalize(_ffi.NULL, 0))


def _process(who: Process) -> Any:
    return _ffi.new("pmix_proc_t *", {"nspace": who.namespace.encode(), "rank": who.rank})


def _check(call: str, status: int) -> None:
    if status == 0:
        return
    name, hint = _STATUS.get(status, ("", "PMIX_MCA_pmix_client_base_verbose=5 in the environment says more"))
    if not name:
        name = _ffi.string(_library.PMIx_Error_string(status)).decode("ascii", "replace")
    raise PmixError(f"{call}: {name} ({status})", hint, status)
