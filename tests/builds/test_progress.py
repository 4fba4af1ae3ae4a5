# SPDX-License-Identifier: BSD-3-Clause
"""What pulls and builds show: a live line on a terminal, short lines in a log, nothing in a pipe."""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest
import servers
from building import _PROGRAM, USER
from fetcher import Fetcher
from servers import Library

NAME = "lab/tools/one"
# %test takes long enough for a line in a log.
DEFINITION = "Bootstrap: docker-archive\nFrom: base.tar\n%test\nsleep 2.5\n"


@pytest.fixture
def library(sif_file: bytes) -> Iterator[Library]:
    with servers.library() as found:
        found.images[f"{NAME}:v1"] = sif_file
        found.goes_on = True
        yield found


@pytest.fixture(params=["rich", "plain"])
def without_rich(request: pytest.FixtureRequest, fetcher: Fetcher) -> str:
    """A directory for PYTHONPATH, perhaps one in which rich cannot be imported."""
    (fetcher.path / "path").mkdir()
    if request.param == "plain":
        (fetcher.path / "path/rich.py").write_text("raise ImportError('not installed')\n")
    else:
        pytest.importorskip("rich", reason="rich is among the Makefile's TOOLS")
    return str(fetcher.path / "path")


def terminal(fetcher: Fetcher, *words: object, path: str = "", **env: str) -> pexpect.spawn[str]:
    """The command on a terminal of 100 columns, as the user of the fetcher."""
    argv = [sys.executable, "-c", _PROGRAM, *map(str, words)]
    if os.geteuid() == 0:
        argv = [shutil.which("setpriv") or "setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", *argv]
    own = fetcher._env(env)
    own["PYTHONPATH"] = f"{path}:{own['PYTHONPATH']}" if path else own["PYTHONPATH"]
    environment = {
        "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": str(fetcher.path), "TERM": "xterm",
        "BOLLARD_TMPDIR": str(fetcher.builder.temporary), **own,
    }  # fmt: skip
    return pexpect.spawn(
        argv[0], argv[1:], env=environment, cwd=str(fetcher.path), dimensions=(24, 100), encoding="utf-8", timeout=30
    )


def seen(text: str) -> str:
    """Terminal output without colours, with each redrawn line on a line of its own."""
    return re.sub(r"\x1b\[[0-9;]*[mK]", "", text).replace("\r\n", "\n").replace("\r", "\n")


def test_a_pull_shows_bytes_speed_and_time_left(
    fetcher: Fetcher, library: Library, sif_file: bytes, without_rich: str
) -> None:
    library.stalled.set()
    words = ("pull", "--allow-unsigned", "--library", library.url, "one.sif", f"library://{NAME}:v1")
    child = terminal(fetcher, *words, path=without_rich)
    whole = len(sif_file)
    child.expect(re.escape(f"/{whole / 1e6:.1f} MB"))  # a live line, while the server waits
    child.expect(r"\d+ s left")
    library.stalled.clear()
    child.expect(pexpect.EOF)
    child.close()
    last = seen(str(child.before)).strip().split("\n")[-1]
    assert child.exitstatus == 0, last
    assert re.fullmatch(rf"bollard: one\.sif: {whole / 1e6:.1f} MB, sha256:[0-9a-f]{{12}}, \d+ s", last), last


def test_a_build_shows_its_steps(fetcher: Fetcher, without_rich: str) -> None:
    base = servers.layout(fetcher.path / "base", "words")
    (fetcher.path / "img.def").write_text(f"Bootstrap: oci\nFrom: {base}:latest\n%post\necho from post\n")
    child = terminal(fetcher, "build", "img.sif", "img.def", path=without_rich)
    child.expect(pexpect.EOF)
    child.close()
    said = seen(str(child.before))
    assert child.exitstatus == 0, said
    lines = [line.strip() for line in said.split("\n") if line.strip()]
    assert [line for line in lines if line == "bollard: %post"] and "from post" in lines, said
    assert any(re.fullmatch(r"bollard: unpacking 2 layers, \d+ s", line) for line in lines), said
    assert any(re.fullmatch(r"bollard: packing, \d+ s", line) for line in lines), said
    assert re.fullmatch(r"bollard: img\.sif: \d+\.\d MB, sha256:[0-9a-f]{12}, \d+ s", lines[-1]), said
    assert "Filesystem" not in said and "inode" not in said.lower(), said  # nothing of mksquashfs


def test_an_error_has_a_line_of_its_own(fetcher: Fetcher, library: Library) -> None:
    child = terminal(fetcher, "pull", "--library", library.url, "x.sif", f"library://{NAME}:v2")
    child.expect(pexpect.EOF)
    child.close()
    lines = seen(str(child.before)).strip().split("\n")
    assert child.exitstatus == 255 and lines[-1].startswith(f"bollard: library://{NAME}:v2: no such image"), lines


def test_a_log_and_a_pipe(fetcher: Fetcher, library: Library) -> None:
    """A log has a line for what takes over two seconds; a pipe has none, unless it is a job's."""
    uri = f"library://{NAME}:v1"

    def stalled_pull(target: str, log: Path | None, **env: str) -> str:
        options = ("--allow-unsigned", "--disable-cache", "--library", library.url)
        words: tuple[object, ...] = ("pull", *options, target, uri)
        library.half_sent.clear()
        library.stalled.set()
        if log:
            command = f'exec "$0" "$@" 2> {log}'
            argv = ["sh", "-c", command, sys.executable, "-c", _PROGRAM, *map(str, words)]
            builder = fetcher.builder._replace(work=fetcher.path)
            process = builder.start_program(argv, **fetcher._env(env))
        else:
            process = fetcher.start(*words, **env)
        assert library.half_sent.wait(60)
        time.sleep(2.5)
        library.stalled.clear()
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out) == (0, ""), err
        return log.read_text() if log else err

    shape = rf"bollard: fetching {re.escape(uri)}\nbollard: \S+\.sif: .* MB, sha256:[0-9a-f]{{12}}, \d+ s\n"
    assert stalled_pull("a.sif", None) == ""
    assert re.fullmatch(shape, stalled_pull("b.sif", fetcher.path / "log"))
    assert re.fullmatch(shape, stalled_pull("c.sif", None, SLURM_JOB_ID="7"))
