# SPDX-License-Identifier: BSD-3-Clause
"""The command `bollard` on this machine, run as a user without privileges, whoever runs the tests."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

USER = 54321  # a number that no one has, where root runs the tests
_PROGRAM = "import sys; from bollard.runtime.cli.main import main; sys.exit(main())"
_PIP_KEYS = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "default-timeout")
# apt's settings that a machine with a mirror or an odd clock needs.
_APT_KEYS = ("Acquire::Check-Valid-Until", "Acquire::Check-Date", "Acquire::http::Proxy", "Acquire::https::Proxy")


class Builder(NamedTuple):
    """`work` is the current directory of the builds, `temporary` where they may leave nothing."""

    work: Path
    temporary: Path
    binds: tuple[str, ...]
    prefix: tuple[str, ...] = ()  # what starts the build, as root

    def start(self, *words: object, stdin: str | None = None, **env: str) -> subprocess.Popen[str]:
        return self.start_program([sys.executable, "-c", _PROGRAM, *map(str, words)], stdin, **env)

    def start_program(self, argv: list[str], stdin: str | None = None, **env: str) -> subprocess.Popen[str]:
        """Start any program with the user, place and environment of a build."""
        if os.geteuid() == 0:
            argv = [shutil.which("setpriv") or "setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", *argv]
        argv = [*self.prefix, *argv]
        environment = {
            "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "HOME": str(self.work),
            "BOLLARD_TMPDIR": str(self.temporary),
            "PYTHONPATH": str(self.work.parent / "lib"),
            "SECRET_OF_THE_HOST": "1",
            **env,
        }
        return subprocess.Popen(
            argv,
            cwd=self.work,
            env=environment,
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )

    def run(self, *words: object, **env: str) -> tuple[int, str, str]:
        """Exit status, stdout and stderr of `bollard WORDS`."""
        process = self.start(*words, **env)
        out, err = process.communicate(timeout=900)
        return process.returncode, out, err

    def build(self, *words: object, **env: str) -> str:
        """Build with this machine's settings; what was printed. A failure of the build is one of the test."""
        status, out, err = self.run("build", *self.options(), *words, **env)
        assert status == 0, f"bollard build {words}: {status}\n{out[-3000:]}\n{err[-3000:]}"
        return out + err

    def options(self) -> list[str]:
        """--bind of this machine's settings."""
        return [word for bind in self.binds for word in ("--bind", bind)]

    def refused(self, *words: object, **env: str) -> str:
        """The last line on stderr of a build that fails; it leaves nothing."""
        status, _, err = self.run("build", *words, **env)
        assert status == 255, err
        assert self.leftovers() == []
        return err.splitlines()[-1]

    def leftovers(self) -> list[str]:
        places = (self.temporary, self.work)
        return [str(path) for place in places for path in place.iterdir() if path.name.startswith(".bollard-")]


def write_command(builder: Builder, path: Path) -> None:
    """Write the command `bollard` for a shell; its builds use this machine's settings."""
    binds = shlex.join(builder.options())
    start = shlex.join([sys.executable, "-c", _PROGRAM])
    path.write_text(f'#!/bin/sh\n[ "$1" = build ] && shift && set -- build {binds} "$@"\nexec {start} "$@"\n')
    path.chmod(0o755)


def machine_binds(top: Path) -> tuple[str, ...]:
    """--bind arguments with which a build uses this machine's apt and pip settings. Writes files to `top`."""
    return (*_apt_settings(top), *_pip_settings(top))


def _apt_settings(top: Path) -> list[str]:
    dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=False).stdout
    path = top / "apt.conf"
    path.write_text("".join(f"{line}\n" for line in dump.splitlines() if line.startswith(_APT_KEYS)))
    return [f"{path}:/etc/apt/apt.conf.d/90machine:ro"]


def _pip_settings(top: Path) -> list[str]:
    """pip's configuration of this machine, as far as it is not about directories of this machine."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    )
    settings, binds = {}, []
    for line in listed.stdout.splitlines():
        name, _, value = line.partition("=")
        key, value = name.rpartition(".")[2], value.strip("'\"")
        if key in _PIP_KEYS and not value.startswith("file:"):
            settings[key] = value
        elif key == "cert" and os.path.isfile(value):
            settings[key] = "/opt/machine-certificates.pem"
            binds = [f"{value}:{settings[key]}:ro"]
    path = top / "pip.conf"
    path.write_text("[global]\n" + "".join(f"{key} = {value}\n" for key, value in settings.items()))
    return [f"{path}:/etc/pip.conf:ro", *binds]
