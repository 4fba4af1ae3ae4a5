# SPDX-License-Identifier: BSD-3-Clause
"""Which of sbatch's options a flow file may give below `slurm:`."""

from __future__ import annotations

# Options that a flow sets itself: the graph, the files and the names would not hold with others. `quiet` hides why
# sbatch refuses a job; the jobs of `clusters` are in another queue, with other numbers.
OWN = (
    "array", "dependency", "hold", "parsable", "output", "error", "wrap", "wait", "test-only", "kill-on-invalid-dep",
    "job-name", "comment", "input", "export", "chdir", "open-mode", "container", "container-image", "time", "help",
    "usage", "version", "clusters", "quiet",
)  # fmt: skip
LETTERS = {
    "a": "array", "d": "dependency", "H": "hold", "o": "output", "e": "error", "J": "job-name", "D": "chdir",
    "i": "input", "t": "time", "W": "wait", "M": "clusters", "Q": "quiet", "h": "help", "u": "usage", "V": "version",
}  # fmt: skip
# Options of sbatch (20.11 to 26.05) that need a value. Without one, sbatch takes the next option for it.
_VALUED = (
    "account", "acctg-freq", "batch", "bb", "bbf", "begin", "cluster-constraint", "constraint", "core-spec",
    "cores-per-socket", "cpu-freq", "cpus-per-gpu", "cpus-per-task", "deadline", "delay-boot", "distribution",
    "exclude", "export-file", "extra", "extra-node-info", "gid", "gpu-bind", "gpu-freq", "gpus", "gpus-per-node",
    "gpus-per-socket", "gpus-per-task", "gres", "gres-flags", "hint", "licenses", "mail-type", "mail-user",
    "mcs-label", "mem", "mem-bind", "mem-per-cpu", "mem-per-gpu", "mincpus", "network", "nodefile", "nodelist",
    "nodes", "ntasks", "ntasks-per-core", "ntasks-per-gpu", "ntasks-per-node", "ntasks-per-socket", "partition",
    "power", "prefer", "priority", "profile", "qos", "reservation", "segment", "signal", "sockets-per-node",
    "switches", "thread-spec", "threads-per-core", "time-min", "tmp", "tres-bind", "tres-per-task", "uid",
    "wait-all-nodes", "wckey", "A", "B", "C", "F", "G", "L", "N", "S", "b", "c", "m", "n", "p", "q", "w", "x",
)  # fmt: skip
_SWITCHES = ("true", "false")


def is_known(name: str) -> bool:
    """Return whether sbatch has a long option of this name that needs a value."""
    return len(name) > 1 and name in _VALUED


def mistake(name: str, value: str | None) -> tuple[str, str]:
    """Return what is wrong with an option and what to do; two empty texts if nothing is.

    name: the name without dashes.
    value: its value; None for an option without one.
    """
    own = own_name(name)
    if own:
        short = f"sbatch reads it as {own}, an option of the flow's own"
        what = "the flow sets this option itself" if name in (own, *LETTERS) else short
        return what, "give policy.timeout.execute" if own == "time" else "leave it out"
    if is_known(name.replace("_", "-")) and "_" in name:
        return "is not an option", f"write {name.replace('_', '-')}"
    if not name.isascii() or not name.replace("-", "").isalnum() or name.startswith("-"):
        return "is not an option", "write sbatch's name without the dashes before it"
    if (value or "").lower() in _SWITCHES:
        return f"{value}: sbatch's options have no such value", f"write {name}: with nothing behind it, or leave it out"
    valued = name in _VALUED or (len(name) > 1 and any(word.startswith(name) for word in _VALUED))
    if value == "" or (value is None and valued):
        return "needs a value", f"write {name}: VALUE, or leave it out"
    return "", ""


def own_name(name: str) -> str:
    """Return the option of the flow's own that sbatch takes the name for; "" for none.

    sbatch reads options by getopt_long(3), which takes the beginning of a name for the whole.
    """
    if len(name) == 1:
        return LETTERS.get(name, "")
    return next((own for own in OWN if name and own.startswith(name)), "")


def is_no_requeue(name: str) -> bool:
    """Return whether sbatch takes the name for --no-requeue, whole or abbreviated."""
    return len(name) > len("no-") and "no-requeue".startswith(name)


def argument(name: str, value: str | None) -> str:
    """Return an option and its value as one word of a command line."""
    if len(name) == 1:
        return f"-{name}{value or ''}"
    return f"--{name}" if value is None else f"--{name}={value}"
