# SPDX-License-Identifier: BSD-3-Clause
"""What a container must keep unchanged so that MPI in it finds Slurm on the host. Data and pure functions.

The input is always the task's environment as Slurm made it (``dict[bytes, bytes]``). It is read in
``slurm_spank_task_init`` or later, when Slurm's MPI plugins have set all their variables. This module reads no file,
no file descriptor and no ``os.environ``, and imports nothing, because it runs once per task.

    >>> env = {b"PMI_FD": b"9", b"PMI_RANK": b"0", b"PMI_SIZE": b"2", b"HOME": b"/root"}
    >>> flavours(env), sorted(name for name in env if is_kept(name))
    (('pmi2',), [b'PMI_FD', b'PMI_RANK', b'PMI_SIZE'])

Every flavour also needs two things that are not in the environment: the host's network namespace (PMIx servers listen
on loopback TCP, PMI-1 connects to srun over TCP) and the host's ``/dev/shm`` (shared memory between ranks). User
and group ids must not change: PMIx's ``native`` security compares them with those of the job.
"""

# The variables that show which `--mpi=` type Slurm used: every variable of a row must be set. The first match
# is the main flavour. "pmi2" includes PMI-1, which the same plugin serves on the same file descriptor.
# fmt: off
FLAVOURS = (
    # flavour       variables                               set by
    ("pmix", (b"PMIX_NAMESPACE", b"PMIX_RANK")),          # PMIx_server_setup_fork, from mpi/pmix or mpirun
    ("cray_shasta", (b"PALS_APID", b"PALS_SPOOL_DIR")),   # mpi/cray_shasta
    ("pmi2", (b"PMI_FD",)),                               # mpi/pmi2
)
# fmt: on

# The variables that keep the host's value in a container. A name that ends in `*` is a prefix. `guarded` names are
# used only for a wire-up: an image must never set them, even if Slurm has not. (The build of an image may leave PMI_FD
# in it.) The other names have the host's value if the host sets them, else the image's.
# fmt: off
VARIABLES = (
    # name                                     guarded  where it comes from
    (b"PMIX_MCA_*",                            False),  # the user's tuning of libpmix (PMIX_MCA_gds=hash)
    (b"PMIX_*",                                True),   # PMIx_server_setup_fork, libpmix 3.2 to 6.x
    (b"PMI_*",                                 True),   # mpi/pmi2: FD JOBID RANK SIZE SPAWNED; Cray adds more
    (b"PMI2_*",                                True),   # libpmi2's own switches (PMI2_DEBUG)
    (b"PALS_*",                                True),   # mpi/cray_shasta: APID APINFO RANKID NODEID SPOOL_DIR
    (b"SLINGSHOT_*",                           True),   # switch/hpe_slingshot: the step's network credentials
    (b"SLURM_*",                               False),  # Slurm itself; PMI-1 over TCP uses SLURM_SRUN_COMM_*
    (b"SLURMD_*",                              False),  # Slurm itself
    (b"OMPI_MCA_orte_precondition_transports", True),   # mpi/pmix, 25.05: the step's key for PSM2
    (b"OMPI_MCA_orte_*",                       True),   # mpirun of Open MPI 4 outside the container
    (b"OMPI_MCA_ess*",                         True),   # the same
    (b"OMPI_MCA_pmix",                         True),   # the same
    (b"OMPI_COMM_WORLD_*",                     True),   # mpirun of Open MPI 4 and 5: rank and size
    (b"OMPI_UNIVERSE_SIZE",                    True),   # the same
)
# fmt: on

# The names of the table in a form for fast search: `is_kept` is called for each variable of each task.
KEPT = frozenset(name for name, _ in VARIABLES if not name.endswith(b"*"))
KEPT_BEGIN = tuple(name[:-1] for name, _ in VARIABLES if name.endswith(b"*"))

# Variables that a container adds for a wire-up, unless they are set: (variable of the flavour, name, value).
DEFAULTS = (
    # A server that offers munge and native makes the image's libpmix search for munge, which few images have, and print
    # eleven lines about it. "native" compares uid and gid, which are the same in the container.
    (b"PMIX_NAMESPACE", b"PMIX_MCA_psec", b"native"),
)

# Variables whose value is a directory that must be visible at the same path, readable and writable.
# fmt: off
DIRECTORIES = (
    b"PMIX_SERVER_TMPDIR",         # SlurmdSpoolDir/pmix.JOB.STEP: rendezvous files of the server
    b"PMIX_DSTORE_ESH_BASE_PATH",  # shared data store ds12, libpmix <= 4: clients map its files
    b"PMIX_DSTORE_21_BASE_PATH",   # shared data store ds21, libpmix <= 4
    b"PALS_SPOOL_DIR",             # SlurmdSpoolDir/mpi_cray_shasta/JOB.STEP; holds the PALS_APINFO file
)
# fmt: on

# The parent of the client directory spmix_appdir_UID_JOB.STEP, which no variable names. PMIx knows this directory as
# PMIX_NSDIR and keeps its shared memory files (shmem2, libpmix >= 5) there. Slurm uses the first of
# $SLURM_PMIX_TMPDIR, PMIxCliTmpDirBase in mpi.conf (22.05 and later) and TmpFS in slurm.conf. The last two are
# usually /tmp.
CLIENT_DIRECTORY_BASE = b"/tmp"


def flavours(env: "dict[bytes, bytes]") -> "tuple[str, ...]":
    """Return the flavours that Slurm prepared for this step, in the order of `FLAVOURS`, the main one first.

    Variables of another step do not count (see `stale`): an ``srun --mpi=none`` that is started in an MPI task
    inherits the PMIx variables of its parent.
    """
    old = stale(env)
    return tuple(flavour for flavour, names in FLAVOURS if flavour not in old and all(env.get(name) for name in names))


def stale(env: "dict[bytes, bytes]") -> "dict[str, str]":
    """Return the wire-ups of another step: flavour -> this step, as ``JOB.STEP``.

    Only names in Slurm's form are checked: the namespace ``slurm.pmix.JOB.STEP`` (pmixp_info.c) and
    ``PMI_JOBID=JOB.STEP`` (mpi/pmi2 setup.c). In heterogeneous jobs both have the job id of the first component,
    so only the step id is compared.
    """
    job, step = env.get(b"SLURM_JOB_ID"), env.get(b"SLURM_STEP_ID")
    if not job or not step:
        return {}
    found = {}
    for flavour, value in (
        ("pmix", _after(env.get(b"PMIX_NAMESPACE", b""), b"slurm.pmix.")),
        ("pmi2", env.get(b"PMI_JOBID", b"")),
    ):
        its_job, dot, its_step = value.partition(b".")
        if not (dot and its_job.isdigit() and its_step.isdigit()):
            continue
        same_job = its_job == job or b"SLURM_HET_SIZE" in env
        if not (same_job and its_step == step):
            found[flavour] = value.decode("ascii")
    return found


def is_kept(name: bytes) -> bool:
    """Return whether this variable keeps the host's value, even if an image or an option sets it."""
    return name in KEPT or name.startswith(KEPT_BEGIN)


def is_guarded(name: bytes) -> bool:
    """Return whether an image must not set this variable, even if the host does not set it.

    The first matching row of `VARIABLES` decides.
    """
    for pattern, guarded in VARIABLES:
        if _matches(name, pattern):
            return guarded
    return False


def directories(env: "dict[bytes, bytes]", uid: "int | None" = None) -> "tuple[bytes, ...]":
    """Return the directories that must be visible in the container, at the same path as on the host.

    env: the environment of the task.
    uid: the uid of the job's owner. With it the result has PMIx's client directory, at its most likely place.

    The paths are absolute, without a trailing slash, without ``..`` and without duplicates; none is below another.
    A variable with any other path is ignored, and so is ``/``.
    """
    found = [env[name] for name in DIRECTORIES if env.get(name)]
    job, step = env.get(b"SLURM_JOB_ID", b""), env.get(b"SLURM_STEP_ID", b"")
    if uid is not None and job.isdigit() and step.isdigit() and env.get(b"PMIX_NAMESPACE"):
        # Slurm makes the directory's name from the job id in the namespace, not from SLURM_JOB_ID. The two differ in
        # heterogeneous jobs.
        name = _after(env[b"PMIX_NAMESPACE"], b"slurm.pmix.") or job + b"." + step
        if b"/" not in name:
            base = env.get(b"SLURM_PMIX_TMPDIR") or CLIENT_DIRECTORY_BASE
            found.append(base + b"/spmix_appdir_" + str(uid).encode() + b"_" + name)
    clean = []
    for path in found:
        parts = [part for part in path.split(b"/") if part not in (b"", b".")]
        if path.startswith(b"/") and parts and b".." not in parts and b"\0" not in path:
            clean.append(b"/" + b"/".join(parts))
    clean = list(dict.fromkeys(clean))
    return tuple(path for path in clean if not any(path.startswith(other + b"/") for other in clean))


def _matches(name: bytes, pattern: bytes) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith(b"*") else name == pattern


def _after(value: bytes, prefix: bytes) -> bytes:
    return value[len(prefix) :] if value.startswith(prefix) else b""
