# SPDX-License-Identifier: BSD-3-Clause
"""A user of instances for tests: an installation and an image that he can reach, and his processes."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

from bollard.runtime.local import instance
from bollard.runtime.system import identity, linux
from bollard.spank_plugin import build

# Root's tests run as a user of their own, whose processes are all ours.
UID = os.getuid() or 1_000_000 + os.getpid()


PATIENCE = 60.0


PROGRAMS = ("sh", "sleep", "cat", "env", "touch", "setsid")


STARTSCRIPT = """#!/bin/sh
echo "started in $APPTAINER_INSTANCE by $APPTAINER_COMMAND with $*"
echo "to stderr" >&2
case "$1" in
    stay) exec sleep 1000 ;;
    deaf) trap '' INT TERM; while :; do sleep 0.1; done ;;
    gentle) trap 'echo "got TERM"; exit 0' TERM; while :; do sleep 0.1; done ;;
    daemon) setsid sleep 1000 & ;;
    many) sleep 1000 & sleep 1000 & sleep 1000 ;;
esac
"""


def until(found, what):
    end = time.monotonic() + PATIENCE
    while not (value := found()):
        assert time.monotonic() < end, f"not within {PATIENCE:.0f} s: {what}"
        time.sleep(0.02)
    return value


def make_image(root):
    """The host's shell and a few programs, with their libraries."""
    for name in ("bin", "dev", "etc", "proc", "tmp", "var/tmp", "sys", ".singularity.d"):
        (root / name).mkdir(parents=True)
    for program in PROGRAMS:
        path = os.path.realpath(shutil.which(program) or program)
        shutil.copy(path, root / "bin" / program)
        for library in re.findall(r"(/\S+) \(0x", subprocess.run(["ldd", path], capture_output=True, text=True).stdout):
            (root / library[1:]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, root / library[1:])
    for name, text in (("startscript", STARTSCRIPT), ("runscript", '#!/bin/sh\necho "run with $*"\nexec sleep 1000\n')):
        (root / ".singularity.d" / name).write_text(text)
        (root / ".singularity.d" / name).chmod(0o755)


class User:
    """Somebody who types `bollard ...`."""

    def __init__(self, place):
        self.place = place
        self.image = str(place / "image")
        self.env = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(place / "home"),
            "BOLLARD_CONFIGDIR": str(place / "home/.bollard"),
            "PYTHONPATH": f"{place}/python:{sysconfig.get_path('platlib')}",
        }

    def command(self, *words):
        drop = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups"] if os.getuid() == 0 else []
        main = "import sys; from bollard.runtime.cli.main import main; sys.exit(main(sys.argv[1:]))"
        return [*drop, sys.executable, "-c", main, *words]

    def bollard(self, *words, env=None):
        return subprocess.run(
            self.command(*words), cwd=self.place / "home", env={**self.env, **(env or {})}, text=True,
            stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE,
        )  # fmt: skip

    def good(self, *words):
        done = self.bollard(*words)
        assert done.returncode == 0, done
        return done

    def instance(self, *words):
        return self.good("instance", *words)

    def start(self, name, *words):
        assert self.instance("start", self.image, name, *words).stderr == "INFO:    instance started successfully\n"
        return self.record(name)

    def records(self):
        return {record.name: record for record in instance.running(UID)}

    def record(self, name):
        return self.records()[name]

    def log(self, name, end="out"):
        return (
            Path(instance.log_paths(name, self.env["BOLLARD_CONFIGDIR"])[0])
            .parents[1]
            .joinpath(identity.login(UID), f"{name}.{end}")
        )


def ours():
    """(pid, name) of the user's processes."""
    found = []
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if name.isdigit() and os.stat(f"/proc/{name}").st_uid == UID:
                stat = Path(f"/proc/{name}/stat").read_text()
                if stat.rpartition(")")[2].split()[0] != "Z":
                    found.append((int(name), Path(f"/proc/{name}/comm").read_text().strip()))
    return found


def sockets():
    return [word for word in Path("/proc/net/unix").read_text().split() if word.startswith(f"@bollard-instance/{UID}")]


def gone(*pids):
    return not {pid for pid, _ in ours()} & set(pids)


@contextlib.contextmanager
def installed():
    """A directory that the user can reach, with an installation and an image in it; removed at the end."""
    place = Path(tempfile.mkdtemp(prefix="bollard-test-instance-"))
    place.chmod(0o755)
    here = Path(linux.__file__).parent.parent.parent
    shutil.copytree(here, place / "python/bollard", ignore=shutil.ignore_patterns("__pycache__"))
    build.build_launcher(place)
    (place / "session").mkdir()
    make_image(place / "image")
    (place / "home").mkdir()
    if os.getuid() == 0:
        os.chown(place / "home", UID, UID)
    yield place
    shutil.rmtree(place)


@contextlib.contextmanager
def at_work(place):
    """A User; whatever a test does with him, nothing is left of it."""
    before = set(ours())
    user = User(place)
    yield user
    user.bollard("instance", "stop", "--all", "--force")
    until(lambda: not set(ours()) - before, f"the end of {set(ours()) - before}")
    assert sockets() == []
