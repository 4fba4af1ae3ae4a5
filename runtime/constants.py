# SPDX-License-Identifier: BSD-3-Clause
"""What C and Python must agree on, stated once. `spank_plugin/build.py` renders each name below as a #define of C.

One byte becomes a character, longer bytes and text become strings, numbers stay numbers. Who sends what is in
docs/internals.md, "Wire". It imports nothing, so that a build script can run it.
"""

# First byte that a peer sends to the keeper; from a launcher whose program has ended; first byte that the keeper
# answers. WIRE_SCRIPT: run this script in the container first and send what it prints.
WIRE_LIFELINE, WIRE_QUESTION, WIRE_TASK = b"L", b"Q", b"T"
WIRE_DONE = b"D"
WIRE_OK, WIRE_ERROR, WIRE_SCRIPT = b"+", b"-", b"S"

# A frame is its size as u32 in host order, then that many bytes.
WIRE_FRAME_MAX = 16 << 20

# Environment variables between shim and launcher, which the launcher or the keeper removes; how all of them begin.
ENV_OWN = "SLURM_BOLLARD_"
ENV_SPEC = "SLURM_BOLLARD_SPEC"
ENV_ENTRY = "SLURM_BOLLARD_ENTRY"
ENV_ARGV0 = "SLURM_BOLLARD_ARGV0"
ENV_VERBOSE = "SLURM_BOLLARD_VERBOSE"
# The device of a FUSE server, from the keeper to the launcher as the server's `fusermount` (libfuse 2).
ENV_FUSE_FD = "BOLLARD_FUSE_FD"

# Linux passes no longer environment entry on: MAX_ARG_STRLEN, execve(2).
SPEC_MAX = 128 * 1024

# The header of a spec, in this order: HEADER_VERSION, then each key with its value. `spank_plugin/header.c` reads it
# on the node as root; `spec_text.py` says what the keys mean.
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

# The modes of a container's name, in this order in C (header.c), and the longest name.
MODE_AUTO, MODE_CREATE, MODE_EXEC, MODE_NO_EXEC = "auto", "create", "exec", "no_exec"
NAME_MAX_BYTES = 64
NAME_MARKS = "_.-"
# The header's working directory: a path of PATH_MAX bytes, each of them quoted.
CWD_MAX = 3 * 4096 + 16
# Digits of the time at which the client began, ns since 1970.
VERBOSE_MAX = 19

# A spec's text: what stands between two values of one option.
VALUE_MARK = b"&"

# The words that mean no for a switch, in lower case, with a space before and behind each. An empty value means no too.
NO_WORDS = " 0 n no false off info warning error "

# Exit status of every failure of ours; Apptainer's own.
EXIT_BOLLARD = 255

# The PATH of a program in a container where nothing else sets one: Apptainer's.
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# How the launcher waits for its program (its mode in the keeper's answer): in a process namespace, which only children
# enter; or to save the container. Empty: it becomes the program.
LAUNCHER_WAIT, LAUNCHER_SAVE = "wait", "save"

# The image's environment scripts in its own shell: the descriptor of the launcher that prints the environment, the
# option by which it does, how much it may print, and how long the shell may take. The keeper waits longer.
PRINTER_FD = 9
PRINTER_OPTION = "--print-environment"
QUIET_FD = 8
SCRIPT_OUTPUT_MAX = 4 << 20
SCRIPT_MS = 60_000
SCRIPT_WAIT_MS = 65_000

# A descriptor of "/" that the plugin opens in the slurmstepd of a batch script: client.c, guard_script().
GATE_FD = 943
GATE = "/proc/self/fd/943"

# The directory of the records, which is root's.
RECORDS = "/var/log/bollard"
# The words that root adds to those of plugstack.conf for the keeper.
RECORD_FD_WORD = "record-fd="

# The folders of jobs on this node, which are root's: JOB_FOLDERS/JOB/HASH is the socket of a keeper.
JOB_FOLDERS = "/run/bollard-jobs"

# Numbers of steps: SLURM_EXTERN_CONT and SLURM_BATCH_SCRIPT in slurm.h.
EXTERN_STEP = 0xFFFFFFFC
BATCH_STEP = 0xFFFFFFFB

# How the lines of site.conf begin that limit where images lie (site_config.py).
SITE_LIMITS_IMAGES = "images-"
