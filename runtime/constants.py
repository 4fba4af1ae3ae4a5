# SPDX-License-Identifier: BSD-3-Clause
"""The constants that C and Python share. `spank_plugin/build.py` writes each name below as a #define of C.

One byte becomes a character, longer bytes and text become strings, numbers stay numbers. docs/internals.md, "Wire",
says who sends what. This module imports nothing, so that a build script can run it.
"""

# The first byte that a peer sends to the keeper (LIFELINE, QUESTION, TASK). DONE: from a launcher whose program has
# ended. OK, ERROR, SCRIPT: the first byte of the keeper's answer. SCRIPT asks the launcher to run a script in the
# container first and to send its output.
WIRE_LIFELINE, WIRE_QUESTION, WIRE_TASK = b"L", b"Q", b"T"
WIRE_DONE = b"D"
# To root: the container is made anew, and this connection is for its keeper.
WIRE_ANEW = b"A"
WIRE_OK, WIRE_ERROR, WIRE_SCRIPT = b"+", b"-", b"S"

# From the keeper to slurmstepds, on their lifelines, if it could tell no task: the file server has ended; the job's
# memory limit has ended it.
WIRE_SERVER_ENDED, WIRE_MEMORY_LIMIT = b"F", b"M"

# A frame is its size as u32 in host byte order, then that many bytes. FRAME_MAX is in bytes.
WIRE_FRAME_MAX = 16 << 20

# Environment variables from the shim to the launcher; the launcher or the keeper removes them. ENV_OWN: their prefix.
ENV_OWN = "SLURM_BOLLARD_"
ENV_SPEC = "SLURM_BOLLARD_SPEC"
ENV_ENTRY = "SLURM_BOLLARD_ENTRY"
ENV_ARGV0 = "SLURM_BOLLARD_ARGV0"
ENV_VERBOSE = "SLURM_BOLLARD_VERBOSE"
# Set by a client that has warned that the step's ranks will not find each other: the launcher does not warn again.
ENV_TOLD = "SLURM_BOLLARD_TOLD"
# The action of one task, for APPTAINER_COMMAND. A task that joins an instance has one. A task whose program on srun's
# command line is the image itself has ACTION_RUN (image_program.c). The keeper removes the variable.
ENV_COMMAND = "SLURM_BOLLARD_COMMAND"
ACTION_RUN = "run"
# Descriptor of /dev/fuse, from the keeper to the launcher that acts as `fusermount` of a FUSE server (libfuse 2).
ENV_FUSE_FD = "BOLLARD_FUSE_FD"

# In bytes: the longest environment entry that Linux accepts (MAX_ARG_STRLEN, execve(2)).
SPEC_MAX = 128 * 1024

# The header of a spec, in this order: HEADER_VERSION, then each key with its value. `spank_plugin/header.c` reads it as
# root on the node. `spec_text.py` explains the keys.
HEADER_VERSION = "bollard1"
HEADER_ROOT = "root="
HEADER_IMAGE = "image="
HEADER_MULTI_PROG = "multi-prog="
HEADER_VERBOSE = "verbose="
HEADER_NAME = "name="
HEADER_MODE = "mode="
HEADER_CWD = "cwd="
# The header's last word; the options follow it.
HEADER_END = ":"

# The modes of a container's name, in the order of header.c; the longest name, in bytes; its characters besides letters
# and digits.
MODE_AUTO, MODE_CREATE, MODE_EXEC, MODE_NO_EXEC = "auto", "create", "exec", "no_exec"
NAME_MAX_BYTES = 128
NAME_MARKS = "_.-+@"
# Longest working directory in the header, in bytes: a path of PATH_MAX bytes, each quoted as %XX.
CWD_MAX = 3 * 4096 + 16
# Most digits of the time at which the client began, in ns since 1970.
VERBOSE_MAX = 19

# Separates two values of one option in a spec.
VALUE_MARK = b"&"

# The words that mean "no" for a switch, in lower case, each between spaces. An empty value means "no" too.
NO_WORDS = " 0 n no false off info warning error "

# Exit status of every failure of bollard, as in Apptainer.
EXIT_BOLLARD = 255

# PATH in a container if nothing else sets it, as in Apptainer.
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# The launcher's mode in the keeper's answer. It waits for its program: "wait" for a process namespace, which only child
# processes enter; "save" to save the container. With an empty mode it executes the program.
LAUNCHER_WAIT, LAUNCHER_SAVE = "wait", "save"

# For the image's environment scripts in the image's shell. PRINTER_FD: descriptor of the launcher, which prints the
# environment with PRINTER_OPTION. QUIET_FD: descriptor of the file for hidden output. SCRIPT_OUTPUT_MAX: bytes of the
# printed environment. SCRIPT_MS: how long the shell may run; SCRIPT_WAIT_MS: how long the keeper waits for it, in ms.
PRINTER_FD = 9
PRINTER_OPTION = "--print-environment"
QUIET_FD = 8
SCRIPT_OUTPUT_MAX = 4 << 20
SCRIPT_MS = 60_000
SCRIPT_WAIT_MS = 65_000

# How long the launcher waits for the keeper until it prints a line, and until it gives up, in ms. The second is longer
# than the keeper waits for a file server.
ENTRY_TOLD_MS = 60_000
ENTRY_MS = 900_000

# A descriptor of "/" that the plugin opens in the slurmstepd of a batch script: see guard_script() in client.c.
GATE_FD = 943
GATE = "/proc/self/fd/943"

# The directory of the records; it belongs to root.
RECORDS = "/var/log/bollard"
# A word that root adds to the plugin's arguments for the keeper: the descriptor number of the record follows it.
RECORD_FD_WORD = "record-fd="
# Another such word: the descriptor number of the connection to the witness follows it (spank_plugin/witness.c).
WITNESS_FD_WORD = "witness-fd="

# The directory of the jobs on this node; it belongs to root. JOB_FOLDERS/JOB/HASH is the socket of a keeper.
JOB_FOLDERS = "/run/bollard-jobs"

# Step numbers: SLURM_EXTERN_CONT and SLURM_BATCH_SCRIPT in slurm.h.
EXTERN_STEP = 0xFFFFFFFC
BATCH_STEP = 0xFFFFFFFB

# Prefix of the lines of site.conf that limit where images may be (site_config.py).
SITE_LIMITS_IMAGES = "images-"
# The line of site.conf by which a site leaves an image that is srun's program to the kernel.
SITE_NO_IMAGE_PROGRAMS = "image-programs=0"
# The line of site.conf by which the client chooses --mpi where the user said nothing.
SITE_CHOOSES_MPI = "mpi=auto"
# The first line of the verdict on an image's MPI (preflight/verdict.py).
PREFLIGHT_HEAD = "bollard-preflight 2"
# Directories in which the launcher looks for MPICH's library, besides those of LD_LIBRARY_PATH (ranks.c).
USUAL_LIBRARIES = (
    "/usr/lib/x86_64-linux-gnu:/usr/lib/aarch64-linux-gnu:/usr/local/lib:/usr/lib64:/usr/lib:"
    "/lib/x86_64-linux-gnu:/lib/aarch64-linux-gnu:/lib64:/lib"
)
# The line of a verdict that says that MPICH's libraries are all there.
PREFLIGHT_USUAL = "usual pmi2"
# The line of site.conf that begins a policy of images, and the one that is there if a rule asks for owners.
SITE_TRUST = "trust="
SITE_TRUST_OWNERS = "trust-owners=1"
