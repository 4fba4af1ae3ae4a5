# SPDX-License-Identifier: BSD-3-Clause
"""The table of options, one row for each option of a container, and the spec, the record that they fill.

These are made from the table: the options of srun, sbatch and salloc (`spank_plugin/build.py` writes them as C), the
options of `bollard exec|run|shell|plan`, the environment forms, and the reference in docs/options.md. A new option is a
row and a field here, and the code of the feature.
"""

from __future__ import annotations

from bollard.runtime import constants

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from dataclasses import dataclass as record

    # source, destination, sum of the flags of spec.py; for a tmpfs the source is its mount options
    Bind = tuple[str, str, int]
else:
    from bollard.runtime.frozen import record


@record(frozen=True)
class Row:
    """One option.

    name: its key in the spec and its name on the command line, `--name`
    argument: the word for its value in the help; "" for a switch
    kind: how its values are read: one of spec.KINDS; "" if other code reads them
    field: the field of Spec that gets the values; the values of several rows with one field add up
    forms: environment variables that stand for it; the first one that is set wins. BOLLARD_X includes APPTAINER_X and
        SINGULARITY_X, except BOLLARD_CONTAINER_X. "!" before a name means the opposite of the switch
    slurm: its name for srun, sbatch and salloc; "" if they do not have it
    opposite: the name of the opposite switch for srun, sbatch and salloc
    joined: the separator of several values in one value of srun; None if only the last value counts
    added: the values of its variables are added to those of options, as in Apptainer
    fixed: it is decided when a container is made; a later step of a named container cannot ask for more
    pyxis: pyxis has an option with the same name for srun
    alone: tasks can leave something in such a container, so no other step gets it
    alike: mpirun in a container passes it on to the containers of its ranks
    help: one line
    """

    name: str
    argument: str = ""
    kind: str = "switch"
    field: str = ""
    forms: tuple[str, ...] = ()
    slurm: str = ""
    opposite: str = ""
    joined: str | None = None
    added: bool = False
    fixed: bool = False
    pyxis: bool = False
    alone: bool = False
    alike: bool = True
    help: str = ""


@record(frozen=True)
class Spec:
    """The options of one container, parsed and validated. Paths are absolute. It is made without a look at any disk."""

    image: str = ""  # "" only for a named container that another step has made
    asked: str = ""  # the image as the user typed it
    source: str = ""  # the image with its digest, if a URI names it
    cwd: str = "/"
    home: str = ""  # path of the home directory in the container; "" for no home
    home_source: str = ""  # its path on the host; "" for an empty home of the container's own
    user_home: str = ""  # the value of HOME if no home is mounted
    binds: tuple[Bind, ...] = ()
    env: tuple[tuple[bytes, bytes], ...] = ()
    keep_env: tuple[bytes, ...] = ()
    cleanenv: bool = False
    no_env: tuple[bytes, ...] = ()
    no_mount: tuple[str, ...] = ()
    contain: bool = False
    workdir: str = ""
    scratch: tuple[str, ...] = ()
    pwd: str = ""
    writable_tmpfs: bool = False
    writable: bool = False
    overlays: tuple[tuple[str, bool], ...] = ()  # path, read-only
    fakeroot: bool = False
    entrypoint: bool = False
    entrypoint_log: bool = False
    pem_path: str = ""  # a file with the RSA key of an encrypted image
    passphrase_file: str = ""  # a file whose first line is the passphrase of an encrypted image
    name: str = ""
    name_mode: str = constants.MODE_AUTO
    save: str = ""
    unshare: tuple[str, ...] = ()
    hostname: str = ""
    app: str = ""  # one of the image's apps, /scif/apps/NAME
    dns: tuple[str, ...] = ()
    shm_size: str = ""  # size of the container's own /dev/shm, as tmpfs(5) takes it; "" for the host's /dev/shm
    gpus: tuple[str, ...] = ()  # nv, rocm; no-nv, no-rocm where the user said so
    devices: tuple[str, ...] = ()  # CDI names: nvidia.com/gpu=0
    cdi_dirs: tuple[str, ...] = ()  # where their specs are; () for the usual directories
    mpi: str = "image"  # whose MPI libraries programs load: image, host or auto
    pty: bool = False  # slurmstepd makes a terminal for the task
    console: str = ""  # the terminal of `bollard exec`, on the host
    no_umask: bool = False
    no_eval: bool = False
    no_slurm: bool = False
    no_mpirun: bool = False
    options: bytes = b""  # the options as spec text, for another container with the same options
    verbose: bool = False

    def __post_init__(self) -> None:
        if not self.asked:
            self.__dict__["asked"] = self.image


# fmt: off
TABLE: tuple[Row, ...] = (
    Row(
        "image", argument="IMAGE", kind="image", field="image",
        forms=("BOLLARD_CONTAINER_IMAGE", "PYXIS_CONTAINER_IMAGE"), slurm="container-image", pyxis=True, alike=False,
        help="the image; the same as --container",
    ),
    Row(
        "bind", argument="SRC[:DST[:FLAGS]]", kind="binds", field="binds",
        forms=("BOLLARD_BIND", "BOLLARD_BINDPATH"), joined=",", added=True, fixed=True,
        help="show a file or directory of the host in the container; commas between several, FLAGS: ro, rw",
    ),
    Row(
        "mounts", argument="SRC:DST[:FLAGS]", kind="binds", field="binds",
        forms=("BOLLARD_CONTAINER_MOUNTS", "PYXIS_CONTAINER_MOUNTS"), slurm="container-mounts", joined=",",
        fixed=True, pyxis=True, help="the same; SRC may be tmpfs or umount, FLAGS have + between them: ro+noexec",
    ),
    Row(
        "mount", argument="type=bind,src=SRC,dst=DST[,ro]", kind="mounts", field="binds",
        forms=("BOLLARD_MOUNT",), joined="", added=True, fixed=True,
        help="the same, in docker's words; in the variable one a line",
    ),
    Row(
        "env", argument="NAME=VALUE", kind="assignments", field="env", joined="",
        help="set a variable in the container, over the image's own value",
    ),
    Row(
        "env-file", argument="FILE", kind="", forms=("BOLLARD_ENV_FILE",), joined=",",
        help="set the variables that FILE assigns as a shell script would; --env wins over it",
    ),
    Row(
        "app", argument="NAME", kind="app", field="app", forms=("BOLLARD_APP", "BOLLARD_APPNAME"), fixed=True,
        help="start this app of the image, or a program in its environment",
    ),
    Row(
        "keep-env", argument="NAME[,NAME]", kind="names", field="keep_env",
        forms=("BOLLARD_CONTAINER_ENV", "PYXIS_CONTAINER_ENV"), slurm="container-env", joined=",", pyxis=True,
        help="let these variables of yours win over the image's own values",
    ),
    Row("cleanenv", field="cleanenv", forms=("BOLLARD_CLEANENV",), help="start from an empty environment"),
    Row(
        "no-env", argument="NAME[,NAME]", kind="names", field="no_env", forms=("BOLLARD_NO_ENV", "BOLLARD_NOENV"),
        joined=",",
        help="do not pass these variables of yours",
    ),
    Row("home", argument="SRC[:DST]", kind="home", forms=("BOLLARD_HOME",), help="another directory as the home"),
    Row(
        "no-home", forms=(
            "BOLLARD_NO_HOME", "!BOLLARD_CONTAINER_MOUNT_HOME", "!PYXIS_CONTAINER_MOUNT_HOME", "!ENROOT_MOUNT_HOME",
        ),
        slurm="no-container-mount-home", opposite="container-mount-home", pyxis=True,
        help="do not show the home directory",
    ),
    Row(
        "no-mount", argument="WHAT[,WHAT]", kind="words", field="no_mount", forms=("BOLLARD_NO_MOUNT",), joined=",",
        fixed=True, help="leave out: proc, sys, dev, tmp, home, cwd, hosts, a path",
    ),
    Row(
        "contain", field="contain", forms=("BOLLARD_CONTAIN",), fixed=True,
        alone=True, help="a private /dev, /tmp and home instead of the host's",
    ),
    Row(
        "containall", forms=("BOLLARD_CONTAINALL",),
        help="the same, with private process and IPC namespaces and --cleanenv",
    ),
    Row(
        "compat", forms=("BOLLARD_COMPAT",),
        help="as docker would: --containall --no-init --no-umask --writable-tmpfs",
    ),
    Row(
        "workdir", argument="DIR", kind="path", field="workdir", forms=("BOLLARD_WORKDIR",),
        help="where /tmp, /var/tmp and scratch directories lie with --contain",
    ),
    Row(
        "scratch", argument="DIR", kind="directories", field="scratch",
        forms=("BOLLARD_SCRATCH", "BOLLARD_SCRATCHDIR"), joined=",", fixed=True,
        help="an empty directory in the container that ends with it",
    ),
    Row(
        "pwd", argument="DIR", kind="directory", field="pwd",
        forms=(
            "BOLLARD_PWD", "BOLLARD_CWD", "BOLLARD_TARGET_PWD", "BOLLARD_CONTAINER_WORKDIR",
            "PYXIS_CONTAINER_WORKDIR",
        ),
        slurm="container-workdir", pyxis=True, help="the working directory in the container",
    ),
    Row(
        "writable-tmpfs", field="writable_tmpfs",
        forms=(
            "BOLLARD_WRITABLE_TMPFS", "BOLLARD_CONTAINER_WRITABLE", "PYXIS_CONTAINER_WRITABLE",
            "!BOLLARD_CONTAINER_READONLY", "!PYXIS_CONTAINER_READONLY", "ENROOT_ROOTFS_WRITABLE",
        ),
        slurm="container-writable", opposite="container-readonly", pyxis=True,
        alone=True, help="let the container be written to; what is written is kept in memory and ends with it",
    ),
    Row(
        "writable", field="writable", forms=("BOLLARD_WRITABLE",), fixed=True,
        help="write into the image itself, which must be a directory",
    ),
    Row(
        "overlay", argument="PATH[:ro]", kind="overlays", field="overlays",
        forms=("BOLLARD_OVERLAY", "BOLLARD_OVERLAYIMAGE"), joined="", fixed=True,
        help="a directory or ext3 image that keeps what is written; a squashfs image is only read",
    ),
    Row(
        "fakeroot", field="fakeroot",
        forms=(
            "BOLLARD_FAKEROOT", "BOLLARD_CONTAINER_REMAP_ROOT", "PYXIS_CONTAINER_REMAP_ROOT", "ENROOT_REMAP_ROOT",
        ),
        slurm="container-remap-root", opposite="no-container-remap-root", fixed=True, pyxis=True,
        help="be root in the container; you get no rights that you do not have",
    ),
    Row(
        "entrypoint", field="entrypoint", forms=("BOLLARD_CONTAINER_ENTRYPOINT", "PYXIS_CONTAINER_ENTRYPOINT"),
        slurm="container-entrypoint", opposite="no-container-entrypoint", pyxis=True,
        alone=True, help="run the image's entrypoint once, before the first task",
    ),
    Row(
        "entrypoint-log", field="entrypoint_log",
        forms=("BOLLARD_CONTAINER_ENTRYPOINT_LOG", "PYXIS_CONTAINER_ENTRYPOINT_LOG"),
        slurm="container-entrypoint-log", pyxis=True, help="show what the entrypoint prints",
    ),
    Row(
        "pem-path", argument="FILE", kind="path", field="pem_path", forms=("BOLLARD_ENCRYPTION_PEM_PATH",),
        slurm="container-pem-path", help="the RSA key of an encrypted image, in PEM form",
    ),
    Row(
        "passphrase-file", argument="FILE", kind="path", field="passphrase_file",
        forms=("BOLLARD_ENCRYPTION_PASSPHRASE_FILE",), slurm="container-passphrase-file",
        help="a file of yours whose first line is the passphrase of an encrypted image",
    ),
    Row(
        "name", argument="NAME[:auto|create|exec|no_exec]", kind="",
        forms=("BOLLARD_CONTAINER_NAME", "PYXIS_CONTAINER_NAME"), slurm="container-name", pyxis=True,
        help="a container that later steps of the job can name, without its image",
    ),
    Row(
        "save", argument="PATH", kind="path", field="save", forms=("BOLLARD_CONTAINER_SAVE", "PYXIS_CONTAINER_SAVE"),
        slurm="container-save", pyxis=True, alike=False,
        help="write the container to a squashfs or .sif file when the last task on a node has ended",
    ),
    Row(
        "unshare", argument="NS[,NS]", kind="unshare", field="unshare",
        forms=("BOLLARD_CONTAINER_UNSHARE", "PYXIS_CONTAINER_UNSHARE"), slurm="container-unshare", joined=",",
        fixed=True, pyxis=True, alone=True, help="private namespaces for the container: net, ipc, uts",
    ),
    Row(
        "net", kind="namespace", field="unshare", forms=("BOLLARD_NET",), fixed=True,
        alone=True, help="a private network namespace, with no network in it",
    ),
    Row(
        "network", argument="none", kind="network", field="unshare", forms=("BOLLARD_NETWORK",), fixed=True,
        alone=True, help="which network --net has",
    ),
    Row(
        "ipc", kind="namespace", field="unshare", forms=("BOLLARD_IPC",), fixed=True, alone=True,
        help="a private IPC namespace",
    ),
    Row(
        "uts", kind="namespace", field="unshare", forms=("BOLLARD_UTS",), fixed=True, alone=True,
        help="a private UTS namespace",
    ),
    Row(
        "hostname", argument="NAME", kind="hostname", field="hostname", forms=("BOLLARD_HOSTNAME",), fixed=True,
        alone=True, help="the host's name in the container; with a private UTS namespace",
    ),
    Row(
        "pid", kind="namespace", field="unshare", forms=("BOLLARD_PID",), fixed=True,
        alone=True, help="a private process namespace",
    ),
    Row(
        "nv", kind="gpu", field="gpus", forms=("BOLLARD_NV",), fixed=True,
        help="show the host's NVIDIA driver: its libraries and programs; without it the site decides",
    ),
    Row("rocm", kind="gpu", field="gpus", forms=("BOLLARD_ROCM",), fixed=True, help="the same of AMD's"),
    Row(
        "device", argument="VENDOR/CLASS=NAME[,NAME]", kind="devices", field="devices", forms=("BOLLARD_DEVICE",),
        slurm="container-device", joined=",", fixed=True,
        help="devices by their CDI names, with what their makers' files on the node say: nvidia.com/gpu=0",
    ),
    Row(
        "cdi-dirs", argument="DIR[,DIR]", kind="paths", field="cdi_dirs", forms=("BOLLARD_CDI_DIRS",), joined=",",
        fixed=True, help="where these files are, instead of /etc/cdi and /var/run/cdi",
    ),
    Row(
        "shm-size", argument="SIZE", kind="size", field="shm_size", forms=("BOLLARD_CONTAINER_SHM_SIZE",),
        slurm="container-shm-size", fixed=True, alone=True,
        help="a private /dev/shm in memory that holds so much: 64m, 2g",
    ),
    Row(
        "mpi", argument="image|host|auto", kind="mpi", field="mpi", forms=("BOLLARD_CONTAINER_MPI",),
        slurm="container-mpi", fixed=True,
        help="whose MPI library programs load: the image's, the node's, or the node's where it suits the image",
    ),
    Row("no-umask", field="no_umask", forms=("BOLLARD_NO_UMASK",), help="start with umask 0022 instead of yours"),
    Row(
        "no-eval", field="no_eval", forms=("BOLLARD_NO_EVAL",),
        help="take the values of --env and its variables as they are",
    ),
    Row(
        "dns", argument="IP[,IP]", kind="servers", field="dns", forms=("BOLLARD_DNS",), joined=",", fixed=True,
        help="name servers in /etc/resolv.conf",
    ),
    Row(
        "no-slurm", field="no_slurm", forms=("BOLLARD_NO_SLURM",),
        help="leave srun, sbatch, ... and mpirun to the image",
    ),
    Row("no-mpirun", field="no_mpirun", forms=("BOLLARD_NO_MPIRUN",), help="leave mpirun and mpiexec to the image"),
    Row(
        "opts", argument="OPTIONS", kind="", forms=("BOLLARD_CONTAINER_OPTS",), slurm="container-opts", joined=" ",
        help="any options of `bollard exec`, as one word: --container-opts='--contain --env A=b'",
    ),
    Row(
        "verbose", field="verbose", forms=("BOLLARD_VERBOSE", "BOLLARD_LOG"), slurm="container-verbose", alike=False,
        help="tell what is done for the container, and how long each step takes",
    ),
)  # fmt: skip
# fmt: on

# Apptainer's options that are accepted and have no effect: name -> the word for its value, "" for a switch.
WITHOUT_EFFECT = dict.fromkeys(
    ("userns", "unsquash", "underlay", "no-init", "no-privs", "sharens", "ignore-fakeroot-command", "ignore-subuid",
     "ignore-userns", "no-oci"),
    "",
)  # fmt: skip

# Apptainer's switches that are the opposite of a row in the table.
OPPOSITES = {"no-nv": "nv", "no-rocm": "rocm", "no-pid": "pid"}

_LIMITS = "limits of a job are Slurm's: ask for them with srun --mem, --cpus-per-task and the like"
_RIGHTS = "a container has the rights of its user, and no others"

# Apptainer's options that are refused: name -> (the word for its value, the reason).
REFUSED = {
    "oci": ("", "OCI bundles are Slurm's and runc's; a container of bollard is the same for each kind of image"),
    "add-caps": ("CAPS", _RIGHTS),
    "drop-caps": ("CAPS", _RIGHTS),
    "keep-privs": ("", _RIGHTS),
    "allow-setuid": ("", _RIGHTS),
    "security": ("WHAT", "labels and filters of the kernel's security modules are root's to set"),
    "nvccli": ("", "nvidia-container-cli needs root; --nv binds what the host has"),
    "network-args": ("ARGS", "networks other than none need root"),
    "netns-path": ("PATH", "joining another network namespace needs root"),
    "fusemount": ("SPEC", "mount it on the host, and bind it"),
    "dmtcp-launch": ("NAME", "checkpoints are not made"),
    "dmtcp-restart": ("NAME", "checkpoints are not made"),
    "oom-kill-disable": ("", _LIMITS),
    "runscript-timeout": ("TIME", "a limit on time is Slurm's: srun --time, or timeout(1) in the container"),
    **dict.fromkeys(("apply-cgroups",), ("FILE", _LIMITS)),
    **dict.fromkeys(
        ("blkio-weight", "blkio-weight-device", "cpu-shares", "cpus", "cpuset-cpus", "cpuset-mems", "memory",
         "memory-reservation", "memory-swap", "pids-limit"),
        ("LIMIT", _LIMITS),
    ),
}  # fmt: skip

ROWS = {row.name: row for row in TABLE}
# Options whose values add up when they are given more than once. For all others the last value counts.
JOINED = frozenset(row.name for row in TABLE if row.joined is not None)

PREFIXES = ("BOLLARD_", "APPTAINER_", "SINGULARITY_")
_OWN_ALONE = "BOLLARD_CONTAINER_"


def setting(environ: Mapping[str, str], *names: str) -> str:
    """Return the first variable that is set: BOLLARD_NAME, else APPTAINER_NAME, else SINGULARITY_NAME; "" for none."""
    forms = [prefix + name for prefix in PREFIXES for name in names]
    return next((environ[form] for form in forms if environ.get(form)), "")


def variables(row: Row) -> list[str]:
    """Return every environment form of `row`, the one that wins first. "!" before a name means the opposite."""
    forms = [name for name in row.forms if name.startswith(PREFIXES[0]) and not name.startswith(_OWN_ALONE)]
    found = [prefix + name[len(PREFIXES[0]) :] for prefix in PREFIXES for name in forms]
    return found + [name for name in row.forms if name not in forms]


def all_variables() -> frozenset[str]:
    """Return the names of all environment forms."""
    return frozenset(form.lstrip("!") for row in TABLE for form in variables(row))
