# SPDX-License-Identifier: BSD-3-Clause
"""The table of options: everything a user can ask of a container, declared once.

Rendered from it: the options of srun, sbatch and salloc (`spank_plugin/build.py` writes them as C),
those of `bollard exec|run|shell|plan`, the environment forms, and the reference in docs/options.md.
It imports nothing, so that a build script can run it.

A row is (name, argument, variables, slurm, help):
  name       its key in the spec and, on the command line, `--name`
  argument   the word that stands for its value, or "" for a switch
  variables  environment forms; the first set wins. BOLLARD_X stands for APPTAINER_X and SINGULARITY_X too, but
             BOLLARD_CONTAINER_X for itself alone; one after a "!" means the opposite of the switch
  slurm      its name for srun, sbatch and salloc, or "" where they do not offer it; a switch may have a second
             one, after a "|", that means its opposite
  help       one line
"""

Row = tuple[str, str, tuple[str, ...], str, str]

TABLE: tuple[Row, ...] = (
    (
        "image",
        "IMAGE",
        ("BOLLARD_CONTAINER_IMAGE", "PYXIS_CONTAINER_IMAGE"),
        "container-image",
        "the image; the same as --container",
    ),
    (
        "bind",
        "SRC[:DST[:FLAGS]]",
        ("BOLLARD_BIND", "BOLLARD_BINDPATH"),
        "",
        "show a file or directory of the host in the container; commas between several, FLAGS: ro, rw",
    ),
    (
        "mounts",
        "SRC:DST[:FLAGS]",
        ("BOLLARD_CONTAINER_MOUNTS", "PYXIS_CONTAINER_MOUNTS"),
        "container-mounts",
        "the same; SRC may be tmpfs or umount, FLAGS have + between them: ro+noexec",
    ),
    (
        "mount",
        "type=bind,src=SRC,dst=DST[,ro]",
        ("BOLLARD_MOUNT",),
        "",
        "the same, in docker's words; in the variable one a line",
    ),
    ("env", "NAME=VALUE", (), "", "set a variable in the container, over the image's own value"),
    (
        "env-file",
        "FILE",
        ("BOLLARD_ENV_FILE",),
        "",
        "set the variables that FILE assigns as a shell script would; --env wins over it",
    ),
    (
        "app",
        "NAME",
        ("BOLLARD_APP", "BOLLARD_APPNAME"),
        "",
        "start this app of the image, or a program in its environment",
    ),
    (
        "keep-env",
        "NAME[,NAME]",
        ("BOLLARD_CONTAINER_ENV", "PYXIS_CONTAINER_ENV"),
        "container-env",
        "let these variables of yours win over the image's own values",
    ),
    ("cleanenv", "", ("BOLLARD_CLEANENV",), "", "start from an empty environment"),
    ("no-env", "NAME[,NAME]", ("BOLLARD_NO_ENV", "BOLLARD_NOENV"), "", "do not pass these variables of yours"),
    ("home", "SRC[:DST]", ("BOLLARD_HOME",), "", "another directory as the home"),
    (
        "no-home",
        "",
        ("BOLLARD_NO_HOME", "!BOLLARD_CONTAINER_MOUNT_HOME", "!PYXIS_CONTAINER_MOUNT_HOME"),
        "no-container-mount-home|container-mount-home",
        "do not show the home directory",
    ),
    ("no-mount", "WHAT[,WHAT]", ("BOLLARD_NO_MOUNT",), "", "leave out: proc, sys, dev, tmp, home, cwd, hosts, a path"),
    ("contain", "", ("BOLLARD_CONTAIN",), "", "a private /dev, /tmp and home instead of the host's"),
    ("containall", "", ("BOLLARD_CONTAINALL",), "", "the same, with private process and IPC namespaces and --cleanenv"),
    ("compat", "", ("BOLLARD_COMPAT",), "", "as docker would: --containall --no-init --no-umask --writable-tmpfs"),
    ("workdir", "DIR", ("BOLLARD_WORKDIR",), "", "where /tmp, /var/tmp and scratch directories lie with --contain"),
    (
        "scratch",
        "DIR",
        ("BOLLARD_SCRATCH", "BOLLARD_SCRATCHDIR"),
        "",
        "an empty directory in the container that ends with it",
    ),
    (
        "pwd",
        "DIR",
        ("BOLLARD_PWD", "BOLLARD_CWD", "BOLLARD_TARGET_PWD", "BOLLARD_CONTAINER_WORKDIR", "PYXIS_CONTAINER_WORKDIR"),
        "container-workdir",
        "the working directory in the container",
    ),
    (
        "writable-tmpfs",
        "",
        (
            "BOLLARD_WRITABLE_TMPFS",
            "BOLLARD_CONTAINER_WRITABLE",
            "PYXIS_CONTAINER_WRITABLE",
            "!BOLLARD_CONTAINER_READONLY",
            "!PYXIS_CONTAINER_READONLY",
        ),
        "container-writable|container-readonly",
        "let the container be written to; what is written is kept in memory and ends with it",
    ),
    ("writable", "", ("BOLLARD_WRITABLE",), "", "write into the image itself, which must be a directory"),
    (
        "overlay",
        "PATH[:ro]",
        ("BOLLARD_OVERLAY", "BOLLARD_OVERLAYIMAGE"),
        "",
        "a directory or ext3 image that keeps what is written; a squashfs image is only read",
    ),
    (
        "fakeroot",
        "",
        ("BOLLARD_FAKEROOT", "BOLLARD_CONTAINER_REMAP_ROOT", "PYXIS_CONTAINER_REMAP_ROOT"),
        "container-remap-root|no-container-remap-root",
        "be root in the container; you get no rights that you do not have",
    ),
    (
        "entrypoint",
        "",
        ("BOLLARD_CONTAINER_ENTRYPOINT", "PYXIS_CONTAINER_ENTRYPOINT"),
        "container-entrypoint|no-container-entrypoint",
        "run the image's entrypoint once, before the first task",
    ),
    (
        "entrypoint-log",
        "",
        ("BOLLARD_CONTAINER_ENTRYPOINT_LOG", "PYXIS_CONTAINER_ENTRYPOINT_LOG"),
        "container-entrypoint-log",
        "show what the entrypoint prints",
    ),
    (
        "name",
        "NAME[:auto|create|exec|no_exec]",
        ("BOLLARD_CONTAINER_NAME", "PYXIS_CONTAINER_NAME"),
        "container-name",
        "a container that later steps of the job can name, without its image",
    ),
    (
        "save",
        "PATH",
        ("BOLLARD_CONTAINER_SAVE", "PYXIS_CONTAINER_SAVE"),
        "container-save",
        "write the container to a squashfs or .sif file when the last task on a node has ended",
    ),
    (
        "unshare",
        "NS[,NS]",
        ("BOLLARD_CONTAINER_UNSHARE", "PYXIS_CONTAINER_UNSHARE"),
        "container-unshare",
        "private namespaces for the container: net, ipc, uts",
    ),
    ("net", "", ("BOLLARD_NET",), "", "a private network namespace, with no network in it"),
    ("network", "none", ("BOLLARD_NETWORK",), "", "which network --net has"),
    ("ipc", "", ("BOLLARD_IPC",), "", "a private IPC namespace"),
    ("uts", "", ("BOLLARD_UTS",), "", "a private UTS namespace"),
    ("hostname", "NAME", ("BOLLARD_HOSTNAME",), "", "the host's name in the container; with a private UTS namespace"),
    ("pid", "", ("BOLLARD_PID",), "", "a private process namespace"),
    ("nv", "", ("BOLLARD_NV",), "", "show the host's NVIDIA driver: its libraries and programs"),
    ("rocm", "", ("BOLLARD_ROCM",), "", "the same of AMD's"),
    ("no-umask", "", ("BOLLARD_NO_UMASK",), "", "start with umask 0022 instead of yours"),
    ("no-eval", "", ("BOLLARD_NO_EVAL",), "", "take the values of --env and its variables as they are"),
    ("dns", "IP[,IP]", ("BOLLARD_DNS",), "", "name servers in /etc/resolv.conf"),
    ("no-slurm", "", ("BOLLARD_NO_SLURM",), "", "leave srun, sbatch, ... and mpirun to the image"),
    ("no-mpirun", "", ("BOLLARD_NO_MPIRUN",), "", "leave mpirun and mpiexec to the image"),
    (
        "opts",
        "OPTIONS",
        ("BOLLARD_CONTAINER_OPTS",),
        "container-opts",
        "any options of `bollard exec`, as one word: --container-opts='--contain --env A=b'",
    ),
    (
        "verbose",
        "",
        ("BOLLARD_VERBOSE", "BOLLARD_LOG"),
        "container-verbose",
        "tell what is done for the container, and how long each step takes",
    ),
)

# Apptainer's options for which there is nothing to do here: name -> the word that stands for its value.
WITHOUT_EFFECT = dict.fromkeys(
    ("userns", "unsquash", "underlay", "no-init", "no-privs", "sharens", "ignore-fakeroot-command", "ignore-subuid",
     "ignore-userns"),
    "",
)  # fmt: skip

# Apptainer's, each the opposite of one in the table.
OPPOSITES = {"no-nv": "nv", "no-rocm": "rocm", "no-pid": "pid"}

_LIMITS = "limits of a job are Slurm's: ask for them with srun --mem, --cpus-per-task and the like"
_RIGHTS = "a container has the rights of its user, and no others"

_ENCRYPTED = "encrypted images cannot be opened yet, and of any other image no key is asked"

# Those that are refused: name -> (the word that stands for its value, why not).
REFUSED = {
    "device": ("DEVICE", "devices by their CDI names are not known; --bind the files of /dev"),
    "add-caps": ("CAPS", _RIGHTS),
    "drop-caps": ("CAPS", _RIGHTS),
    "keep-privs": ("", _RIGHTS),
    "allow-setuid": ("", _RIGHTS),
    "security": ("WHAT", "labels and filters of the kernel's security modules are root's to set"),
    "nvccli": ("", "nvidia-container-cli needs root; --nv binds what the host has"),
    "network-args": ("ARGS", "networks other than none need root"),
    "netns-path": ("PATH", "joining another network namespace needs root"),
    "passphrase": ("", _ENCRYPTED),
    "pem-path": ("FILE", _ENCRYPTED),
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

# Given more than once, these add up, with this between; of any other the last one counts.
JOINED = {
    "bind": ",", "mounts": ",", "env": "", "env-file": ",", "mount": "", "keep-env": ",", "no-env": ",",
    "no-mount": ",", "scratch": ",", "overlay": "", "unshare": ",", "dns": ",", "opts": " ",
}  # fmt: skip

# Of these, what a variable names is had beside what options name, and before it: Apptainer's do.
ADDED = ("bind", "mount")

# The names for srun that pyxis does not have.
OURS_ALONE = ("container-opts", "container-verbose")

PREFIXES = ("BOLLARD_", "APPTAINER_", "SINGULARITY_")
_OWN_ALONE = "BOLLARD_CONTAINER_"


def variables(row: Row) -> list[str]:
    """Every environment name of `row`, in the order in which they win; a "!" before one that means the opposite."""
    forms = [name for name in row[2] if name.startswith(PREFIXES[0]) and not name.startswith(_OWN_ALONE)]
    found = [prefix + name[len(PREFIXES[0]) :] for prefix in PREFIXES for name in forms]
    return found + [name for name in row[2] if name not in forms]
