# SPDX-License-Identifier: BSD-3-Clause
"""The source release, installed by pip by a user without privileges: it builds without git and without Slurm."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from building import USER
from conftest import TOP

PROBE = "/bin/probe"
# The machine may keep /dev/fuse from users; $0 is the home directory.
OPEN_FUSE = """
test -e "$0.fuse" || mknod -m 666 "$0.fuse" c 10 229
mount --bind "$0.fuse" /dev/fuse
exec "$@"
"""


def run(home: Path, *words: object, path: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command as a user without privileges, with this machine's settings of pip."""
    argv = list(map(str, words))
    if os.geteuid() == 0:
        argv = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", *argv]
        argv = ["unshare", "--mount", "sh", "-euc", OPEN_FUSE, str(home), *argv]
    environment = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_"))}
    environment.update(PATH="/usr/bin:/bin:/usr/sbin", HOME=str(home), LANG="C.UTF-8")
    if path:
        argv = [*argv[: argv.index(str(words[0]))], "env", f"PATH={path}", *map(str, words)]
    return subprocess.run(argv, cwd=home, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that every user can read: pytest makes its own root's alone, again and again."""
    with tempfile.TemporaryDirectory(prefix="bollard-pip-") as made:
        os.chmod(made, 0o755)
        yield Path(made)


@pytest.fixture
def home(place: Path) -> Path:
    made = place / "home"
    made.mkdir()
    if os.geteuid() == 0:
        os.chown(made, USER, USER)
    return made


@pytest.fixture
def release(place: Path) -> Path:
    folder = place / "release"
    subprocess.run([sys.executable, TOP / "packaging/source_release.py", folder], check=True, stdout=subprocess.DEVNULL)
    (found,) = folder.iterdir()
    return found


def test_the_release_is_whole(release: Path) -> None:
    """It has every file of the checkout, and states its version without git."""
    with tarfile.open(release) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
        root = archive.extractfile(f"{release.name[:-7]}/runtime/_root/__init__.py")
        assert root and f'__version__ = "{release.name[8:-7]}"' in root.read().decode()
    wanted = subprocess.run(["git", "-c", "safe.directory=*", "ls-files"], cwd=TOP, capture_output=True, text=True)
    missing = {name for name in wanted.stdout.splitlines() if os.path.lexists(TOP / name)} - names
    assert {name.partition("/")[0] for name in missing} <= {".ci"} and "debian/rules" in names, missing


def test_pip_install(release: Path, home: Path) -> None:
    assert run(home, "/usr/bin/python3", "-m", "venv", "venv").returncode == 0
    done = run(home, "venv/bin/pip", "install", "--quiet", release)
    assert done.returncode == 0, done.stderr
    bollard = home / "venv/bin/bollard"
    assert run(home, bollard, "--version").stdout == f"bollard {release.name[8:-7]}\n"
    (package,) = home.glob("venv/lib/python3*/site-packages/bollard")
    assert (package / "py.typed").exists()
    # An image whose only program is the launcher.
    for name in ("bin", "dev", "etc", "proc", "sys", "tmp"):
        (home / "image" / name).mkdir(parents=True)
    shutil.copy(package / "programs/bollard-enter", home / f"image{PROBE}")
    done = run(home, bollard, "exec", "image", PROBE, "--print-environment")
    assert done.returncode == 0 and "BOLLARD_CONTAINER=" in done.stdout, done
    subprocess.run(
        ["mksquashfs", home / "image", home / "image.sqfs", "-all-root", "-quiet", "-no-progress"],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    done = run(home, bollard, "exec", "image.sqfs", PROBE, "--print-environment")
    assert done.returncode == 0 and "BOLLARD_CONTAINER=" in done.stdout, done
    # The doctor runs a program in an image too.
    done = run(home, bollard, "doctor")
    assert done.returncode == 0 and ": ok: container: a program runs in an image\n" in done.stdout, done
    done = run(home, bollard, "doctor", path=str(home / "venv/bin"))
    assert done.returncode == 1 and "squashfuse: it is missing: images cannot be mounted; `" in done.stdout, done
    # Without a file server the error names what root must install.
    done = run(home, bollard, "exec", "image.sqfs", PROBE, path=str(home / "venv/bin"))
    assert done.returncode == 255 and done.stderr.count("\n") == 1, done
    assert "squashfuse is missing on this machine; root installs it: `apt-get install squashfuse`" in done.stderr
