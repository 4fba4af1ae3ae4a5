# SPDX-License-Identifier: BSD-3-Clause
"""`bollard instance`, and `bollard exec instance://NAME`: options, tables, JSON.

runtime/local/instance.py does the work; runtime/local/instance_init.py starts an instance.
Columns, keys and lines on stderr are Apptainer's, because scripts read them.
"""

from __future__ import annotations

import json
import os
import pwd
import signal
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

from bollard.runtime import causes
from bollard.runtime.cli import encryption_key, terminal
from bollard.runtime.errors import BollardError
from bollard.runtime.image import image
from bollard.runtime.local import instance, instance_init
from bollard.runtime.request import spec
from bollard.runtime.request.options import setting
from bollard.runtime.system import identity

if TYPE_CHECKING:
    from types import ModuleType

    from bollard.runtime.local.instance import Record

    Given = list[tuple[str, str]]

_STOP_SECONDS = "10"
# Options of the command, not of the container.
_NOT_OPTIONS = ("help", "shell", "pid-file")


def _info(text: str) -> None:
    print(f"INFO:    {text}", file=sys.stderr)


def config_directory() -> str:
    """Return the user's directory for logs of instances: BOLLARD_CONFIGDIR, else ~/.bollard."""
    chosen = os.environ.get("BOLLARD_CONFIGDIR", "")
    if chosen:
        return os.path.abspath(chosen)
    try:
        return pwd.getpwuid(os.getuid()).pw_dir.rstrip("/") + "/.bollard"
    except KeyError:
        return os.environ.get("HOME", "/").rstrip("/") + "/.bollard"


def check(action: str, words: list[str]) -> None:
    """Refuse arguments that cannot be an image and a name, before an image is fetched.

    Raises:
        BollardError: the image is an instance, or the name is missing.
    """
    if words and words[0].startswith(instance.URI):
        raise BollardError(f"{words[0]}: is an instance, not an image", "name the image to start another one")
    if len(words) == 1:
        raise BollardError("no name for the instance", f"write `bollard instance {action} IMAGE NAME`")


def start(action: str, given: Given, words: list[str], values: Given, path: str) -> int:
    """Run `bollard instance start` or `run`; return the exit status.

    action: "start" or "run".
    given: the parsed options, name and value.
    words: the arguments: image, name, arguments for the script.
    values: the spec of the container.
    path: the path of the image.

    Raises:
        BollardError: the spec is not valid, the image cannot be used, or the instance cannot be made.
    """
    asked = spec.make(values)
    looked = image.open_image(path if "~" not in path else asked.image, os.uname().machine, encrypted=True)
    keys = encryption_key.of_image(looked, asked, given)
    pid = instance_init.start(asked, words[1], action, words[2:], config_directory(), keys)
    files = [value for name, value in given if name == "pid-file"]
    pid_file = files[-1] if files else setting(os.environ, "PID_FILE")
    if files or pid_file:
        try:
            with open(os.open(pid_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644), "w") as file:
                file.write(f"{pid}\n")
        except OSError as error:
            doing = f"--pid-file {pid_file}: cannot be written, and the instance {words[1]} runs"
            where = pid_file if os.path.exists(pid_file) else os.path.dirname(os.path.abspath(pid_file))
            raise causes.of(error, doing, where, f"end it with `bollard instance stop {words[1]}`") from None
    _info("instance started successfully")
    return 0


def join(action: str, given: Given, words: list[str], values: Given, shell: str) -> int:
    """Run `bollard exec`, `run`, `shell` or `test` with instance://NAME.

    The program replaces this process. Returns 0 only if there is nothing to start.

    action: the name of the command.
    given: the parsed options, name and value.
    words: the arguments; the first is instance://NAME.
    values: the spec of a container with these options.
    shell: the shell that the user asked for, "" for none.

    Raises:
        BollardError: no such instance runs, or no program is given.
    """
    record = instance.get(words[0][len(instance.URI) :])
    if action == "exec" and len(words) < 2:
        raise BollardError("no command given", "name a program of the image, or use `bollard shell`")
    late = sorted({name for name, _ in given if name not in (*instance.OF_TASKS, *_NOT_OPTIONS)})
    if late:
        options = ", ".join(f"--{name}" for name in late)
        print(
            f"bollard: {options}: without effect, for the instance {record.name} runs already; "
            "give options of the container to `bollard instance start`",
            file=sys.stderr,
        )
    instance.join(record, action, words[1:], shell, instance.task_values(record.image, values))
    return 0


def run(verb: str, given: Given, words: list[str]) -> int:
    """Run `bollard instance list`, `stop` or `stats`; return the exit status.

    verb: "list", "stop" or "stats".
    given: the parsed options, name and value.
    words: the arguments; at most one, a name or a pattern.

    Raises:
        BollardError: the arguments are invalid, or no such instance runs.
    """
    if len(words) > 1:
        raise BollardError(f"{words[1]}: one word too many", f"`bollard instance {verb}` takes one name or pattern")
    on = {name for name, _ in given}
    values = dict(given)
    uid = _become(values.get("user", ""), verb)
    pattern = words[0] if words else ""
    if verb == "list":
        return _list(instance.running(uid, pattern or "*"), "json" in on, "logs" in on)
    if verb == "stop":
        if not pattern and "all" not in on:
            raise BollardError("stop which instance?", "name it, or write --all", 1)
        number = _signal("KILL" if "force" in on else values.get("signal", "INT"))
        return _stop(_found(uid, pattern or "*"), number, _seconds(values.get("timeout", _STOP_SECONDS)))
    if not pattern:
        raise BollardError("stats of which instance?", "name it", 1)
    found = _found(uid, pattern)
    if len(found) > 1:
        raise BollardError(f"{pattern} is {len(found)} instances", "name one", 1)
    return _stats(found[0], "json" in on, "no-stream" in on)


def _become(user: str, verb: str) -> int:
    """Become the user that --user names, if one is named; return the uid.

    The answer of an init is its user's: it could name any process to kill. So root asks and acts with the rights of
    that user.

    Raises:
        BollardError: --user was given by another user than root, or there is no such user.
    """
    if not user:
        return os.getuid()
    if os.getuid() != 0:
        raise BollardError(f"--user is for root; you can {verb} your own instances", "leave it out")
    try:
        found = pwd.getpwnam(user)
    except KeyError:
        raise BollardError(f"{user}: no such user", "check the name") from None
    identity.become(found)
    return found.pw_uid


def _found(uid: int, pattern: str) -> list[Record]:
    found = instance.running(uid, pattern)
    if not found:
        what = "no instance" if pattern == "*" else f"no instance {pattern}"
        raise BollardError(f"{what} runs on {os.uname().nodename}", "see `bollard instance list`", 1)
    return found


def _signal(text: str) -> int:
    """Return the number of a signal. `text` is its name, with or without SIG, or its number."""
    name = text.upper()
    if name.isdigit() and 0 < int(name) < signal.NSIG:
        return int(name)
    known = signal.Signals.__members__
    for word in (name, "SIG" + name):
        if word in known:
            return int(known[word])
    raise BollardError(f"{text}: no such signal", "write it like SIGTERM, TERM or 15")


def _seconds(text: str) -> float:
    if not text.isdigit() or len(text) > 9:
        raise BollardError(f"timeout {text!r} is not a number of seconds", "write --timeout=10")
    return float(text)


def table(rows: list[tuple[str, ...]]) -> str:
    """Return rows as a table: each column is as wide as its widest cell and four spaces; the last is not padded."""
    widths = [max((len(row[n]) for row in rows if n < len(row) - 1), default=0) + 4 for n in range(len(rows[0]))]
    lines = ["".join(f"{cell:<{widths[n]}}" for n, cell in enumerate(row[:-1])) + row[-1] for row in rows]
    return "".join(line + "\n" for line in lines)


def _list(found: list[Record], as_json: bool, logs: bool) -> int:
    if as_json and logs:
        raise BollardError("--json and --logs do not go together", "the JSON names the logs too")
    if as_json:
        print(json.dumps({"instances": [record.shown() for record in found]}, indent="\t"))
        return 0
    last = ("LOGS",) if logs else ("IP", "IMAGE")
    rows: list[tuple[str, ...]] = [("INSTANCE NAME", "PID", *last)]
    for record in found:
        if logs:
            rows += [(record.name, str(record.pid), record.err), ("", "", record.out)]
        else:
            rows.append((record.name, str(record.pid), "", record.image))
    sys.stdout.write(table(rows))
    return 0


def _stop(found: list[Record], number: int, seconds: float) -> int:
    for record in found:
        _info(f"Stopping {record.name} instance of {record.image} (PID={record.pid})")
    for record in instance.stop(found, number, seconds):
        _info(f"Killing {record.name} instance of {record.image} (PID={record.pid}) (Timeout)")
    return 0


class Usage(NamedTuple):
    """The resources that the processes of an instance have used."""

    cpu: float  # seconds
    memory: int  # resident, bytes
    read: int
    written: int
    processes: int


def usage(record: Record) -> Usage:
    """Return the resources that the processes of an instance have used until now.

    Raises:
        BollardError: psutil is not installed.
    """
    psutil = _psutil()
    total = Usage(0.0, 0, 0, 0, 0)
    for pid in instance.members(record):
        try:
            process = psutil.Process(pid)
            with process.oneshot():
                times, memory, disk = process.cpu_times(), process.memory_info().rss, process.io_counters()
        except psutil.Error:
            continue  # the process has ended
        cpu = times.user + times.system + times.children_user + times.children_system
        total = Usage(
            total.cpu + cpu,
            total.memory + memory,
            total.read + disk.read_bytes,
            total.written + disk.write_bytes,
            total.processes + 1,
        )
    return total


def _psutil() -> ModuleType:
    try:
        import psutil
    except ImportError:  # to start fast, the installed command runs without the system's packages
        import site

        site.main()
        try:
            import psutil
        except ImportError:
            raise BollardError("Python's psutil is missing", "install it (Debian, EPEL: python3-psutil)") from None
    return psutil


def _stats(record: Record, as_json: bool, once: bool) -> int:
    limit = _psutil().virtual_memory().total
    if as_json:
        print(json.dumps(as_cgroup(usage(record), limit), indent="\t"))
        return 0
    _info(f"Stats for {record.name} instance of {record.image} (PID={record.pid})")
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    before, begin = usage(record), time.monotonic()
    while True:
        time.sleep(1)
        after, end = usage(record), time.monotonic()
        if not after.processes and not instance.running(record.uid, record.name):
            return 0
        if not once and sys.stdout.isatty():
            terminal.own("\033[2J\033[H")
        percent = max(0.0, after.cpu - before.cpu) / (end - begin) * 100
        sys.stdout.write(stats_table(record.name, percent, after, limit))
        sys.stdout.flush()
        if once:
            return 0
        before, begin = after, end


def stats_table(name: str, percent: float, used: Usage, limit: int) -> str:
    """Return the table of `bollard instance stats`.

    name: the name of the instance.
    percent: the CPU usage, 100 for one full CPU.
    used: from `usage`.
    limit: the memory of this machine in bytes.
    """
    row = (
        name,
        f"{percent:.2f}%",
        f"{bytes_text(used.memory)} / {bytes_text(limit)}",
        f"{used.memory / limit * 100:.2f}%",
        f"{bytes_text(used.read)} / {bytes_text(used.written)}",
        str(used.processes),
    )
    return table([("INSTANCE NAME", "CPU USAGE", "MEM USAGE / LIMIT", "MEM %", "BLOCK I/O", "PIDS"), row])


def bytes_text(number: float) -> str:
    """Return a number of bytes as text: four significant digits and a unit, from B to PiB."""
    units = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
    at = 0
    while number >= 1024 and at < len(units) - 1:
        number /= 1024
        at += 1
    return f"{number:.4g}{units[at]}"


def as_cgroup(used: Usage, limit: int) -> dict[str, object]:
    """Return the usage with the keys of Apptainer's JSON, which are those of control groups."""
    disk = [{"op": "read", "value": used.read}, {"op": "write", "value": used.written}]
    return {
        "cpu_stats": {"cpu_usage": {"total_usage": int(used.cpu * 1e9)}},
        "memory_stats": {"usage": {"usage": used.memory, "limit": limit}},
        "pids_stats": {"current": used.processes},
        "blkio_stats": {"io_service_bytes_recursive": disk},
    }
