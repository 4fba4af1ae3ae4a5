# SPDX-License-Identifier: BSD-3-Clause
"""Builds as a user without privileges, whoever runs the tests: the command, the settings of this machine, a place."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import dev_tree
import pytest
import servers
from fetcher import Fetcher

USER = 54321  # a number that no one has, where root runs the tests
TOP = Path(__file__).resolve().parents[2]
DEFINITIONS = Path(__file__).resolve().parent.parent / "definitions"
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
        argv = [sys.executable, "-c", _PROGRAM, *map(str, words)]
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


@pytest.fixture(scope="session")
def builder() -> Iterator[Builder]:
    # Not pytest's directory: each session of root's closes that to everybody else.
    top = Path(tempfile.mkdtemp(prefix="bollard-test-build-"))
    top.chmod(0o755)
    # Copies: the checkout may lie where the user cannot read.
    shutil.copytree(dev_tree.make(), top / "lib", symlinks=False)
    shutil.copytree(DEFINITIONS, top / "work", symlinks=True)
    (top / "temporary").mkdir()
    binds = [*_apt_settings(top), *_pip_settings(top)]
    if os.geteuid() == 0:
        subprocess.run(["chown", "-R", f"{USER}:{USER}", str(top / "work"), str(top / "temporary")], check=True)
    yield Builder(top / "work", top / "temporary", tuple(binds))
    subprocess.run(["rm", "-rf", str(top)], check=True)


@pytest.fixture
def fetcher(builder: Builder) -> Fetcher:
    path = builder.work / f"case-{time.monotonic_ns()}"
    path.mkdir()
    if os.geteuid() == 0:
        os.chown(path, USER, USER)
    return Fetcher(path, builder)


@pytest.fixture(scope="session")
def program(builder: Builder) -> str:
    """Debian's docker-registry."""
    return servers.program(builder.work.parent)


@pytest.fixture(scope="session")
def layouts(builder: Builder) -> dict[str, Path]:
    base = servers.programs()
    return {words: servers.layout(builder.work.parent / f"layout-{words}", words, base) for words in ("one", "two")}


@pytest.fixture(scope="session")
def installed(builder: Builder) -> str:
    """PYTHONPATH of an installation that can start containers."""
    prefix = builder.work.parent / "installed"
    code = "import sys; from pathlib import Path; sys.path.insert(0, 'spank_plugin'); import build\n"
    code += "out = Path(sys.argv[1]); (out / 'session').mkdir(parents=True); (out / 'session/README').touch()\n"
    code += "build.copy_python(out); build.build_launcher(out); build.copy_server(out)\n"
    code += "build.build_syscalls(out / 'python/bollard/runtime/system', out)"
    subprocess.run([sys.executable, "-c", code, str(prefix)], cwd=TOP, check=True)
    subprocess.run(["chmod", "-R", "a+rX", str(prefix)], check=True)
    return f"{prefix}/python"


@pytest.fixture(scope="session")
def sif_file(builder: Builder, layouts: dict[str, Path]) -> bytes:
    path = builder.work / "of-layout.sif"
    builder.build(path, f"oci:{layouts['one']}:latest")
    return path.read_bytes()


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
