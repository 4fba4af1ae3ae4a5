# SPDX-License-Identifier: BSD-3-Clause
"""The command as a user who fetches images, with a cache of his own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bollard.runtime.image import image

if TYPE_CHECKING:
    from building import Builder

# Root's machine may keep /dev/fuse to itself; a user's would not.
_FUSE = """mount -t tmpfs none /mnt && mknod -m 666 /mnt/fuse c 10 229 && mount --bind /mnt/fuse /dev/fuse
umount -l /mnt
exec "$@"
"""


class Fetcher(NamedTuple):
    """A directory for one test, a cache of its own, and the command there."""

    path: Path
    builder: Builder

    @property
    def cache(self) -> Path:
        return self.path / "cache/bollard"

    def run(self, *words: object, **env: str) -> tuple[int, str, str]:
        prefix = self.builder.prefix
        if "PYTHONPATH" in env and os.geteuid() == 0:
            prefix = ("unshare", "--mount", "sh", "-c", _FUSE, "sh")
        return self.builder._replace(work=self.path, prefix=prefix).run(*words, **self._env(env))

    def start(self, *words: object, **env: str) -> subprocess.Popen[str]:
        return self.builder._replace(work=self.path).start(*words, **self._env(env))

    def _env(self, env: dict[str, str]) -> dict[str, str]:
        own = {"BOLLARD_CACHEDIR": str(self.path / "cache"), "PYTHONPATH": str(self.builder.work.parent / "lib")}
        return {**own, **env}

    def done(self, *words: object, **env: str) -> str:
        """What a command that succeeds writes to stdout; nothing is left half done."""
        status, out, err = self.run(*words, **env)
        assert status == 0, err
        self.check()
        return out

    def refused(self, *words: object, **env: str) -> str:
        """The one line of a command that fails."""
        status, out, err = self.run(*words, **env)
        assert (status, out, err.count("\n")) == (255, "", 1), err
        self.check()
        return err[len("bollard: ") : -1]

    def check(self) -> None:
        assert not list(self.cache.glob("tmp/fetch-*"))
        assert not list(self.path.glob(".bollard-*"))
        assert self.builder.leftovers() == []

    def kept(self, kind: str) -> list[Path]:
        return sorted(path for path in (self.cache / kind).rglob("*") if path.is_file())


def words_of(path: Path) -> str:
    opened = image.open_image(str(path))
    opened.close()
    argv = ["unsquashfs", "-o", str(opened.offset), "-cat", str(path), "opt/words"]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout
