# SPDX-License-Identifier: BSD-3-Clause
"""Read an archive that is plain or packed by gzip, zstd, xz or bzip2. Nothing of it is stored on the disk.

gzip       zlib in a thread, which works ahead while the reader writes files
the others the program of that name, between two pipes
"""

from __future__ import annotations

import contextlib
import hashlib
import queue
import shutil
import subprocess
import tarfile
import threading
import zlib
from collections.abc import Iterator
from typing import IO

from bollard.runtime.errors import BollardError

# What a damaged archive raises in these programs and in tarfile.
DAMAGED = (tarfile.TarError, EOFError, zlib.error, UnicodeError, OverflowError, ValueError, RecursionError)
_BLOCK = 1 << 20  # bytes; also the most that a block of an archive that grows without end becomes
_AHEAD = 4  # blocks
_PACKED = 1 << 18  # bytes of packed data that are read at once
_AFTER_MAX = 1 << 20  # bytes after the end of an archive
_POLL = 0.05  # seconds
_PROGRAMS = ((b"\x28\xb5\x2f\xfd", "zstd"), (b"\xfd7zXZ", "xz"), (b"BZh", "bzip2"))


class Hashed:
    """A file that is hashed while it is read."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.hash = hashlib.sha256()
        self.held = b""

    def peek(self, size: int) -> bytes:
        """Return the first bytes, which `read` returns again."""
        self.held = self.read(size)
        return self.held

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, and add them to the hash."""
        if self.held:
            data, self.held = self.held, b""
            return data
        data = self.file.read(size)
        self.hash.update(data)
        return data


class Stream:
    """What tarfile reads an archive from: a read is short only at the end, and a seek goes forward alone."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self.blocks = blocks
        self.block = b""
        self.at = 0  # in the block
        self.before = 0  # bytes of the blocks before

    def read(self, size: int) -> bytes:
        """Return the next `size` bytes, fewer at the end."""
        data = self._part(size)
        if len(data) == size:
            return data
        parts, left = [data], size - len(data)
        while left and self._next():
            parts.append(self._part(left))
            left -= len(parts[-1])
        return b"".join(parts)

    def part(self, size: int) -> bytes:
        """Return at most `size` bytes, of one block; b"" at the end."""
        return self._part(size) if self.at < len(self.block) or self._next() else b""

    def _part(self, size: int) -> bytes:
        data = self.block[self.at : self.at + size]
        self.at += len(data)
        return data

    def _next(self) -> bool:
        self.before += len(self.block)
        self.block, self.at = next(self.blocks, b""), 0
        return bool(self.block)

    def tell(self) -> int:
        """Return how many bytes have been read."""
        return self.before + self.at

    def seek(self, offset: int) -> int:
        """Skip the bytes before `offset`; return the position, which is before `offset` at the end."""
        left = offset - self.tell()
        if left < 0:
            raise ValueError("its members are not in order")
        while left and (data := self.part(left)):
            left -= len(data)
        return self.tell()


@contextlib.contextmanager
def opened(file: Hashed, what: str) -> Iterator[Stream]:
    """Yield the plain content of an archive.

    file: the archive, at its beginning.
    what: its name for messages.

    Raises:
        BollardError: a program that unpacks it is missing, or fails.
    """
    first = file.peek(8)
    if first.startswith(b"\x1f\x8b"):
        with _ahead(_gunzipped(file)) as blocks:
            yield Stream(blocks)
        return
    program = next((name for magic, name in _PROGRAMS if first.startswith(magic)), None)
    if not program:
        yield Stream(iter(lambda: file.read(_BLOCK), b""))
        return
    if not shutil.which(program):
        raise BollardError(f"{what}: is packed by {program}", f"install the program {program}")
    with _streamed(file, program, what) as plain:
        yield Stream(iter(lambda: plain.read(_BLOCK), b""))


def _gunzipped(file: Hashed) -> Iterator[bytes]:
    """Yield the content of all members of a gzip file, in blocks of at most _BLOCK bytes.

    Raises:
        EOFError, zlib.error: it is cut, or damaged.
    """
    data = file.read(_PACKED)
    while data:
        member = zlib.decompressobj(wbits=31)  # with gzip's header and its checksum
        while not member.eof:
            data = data or file.read(_PACKED)
            plain = member.decompress(data, _BLOCK)
            if not data and not plain:
                raise EOFError("Compressed file ended before the end-of-stream marker was reached")
            data = member.unconsumed_tail
            if plain:
                yield plain
        data = member.unused_data.lstrip(b"\0")  # a member can be padded
        while not data and (data := file.read(_PACKED)):
            data = data.lstrip(b"\0")


@contextlib.contextmanager
def _ahead(blocks: Iterator[bytes]) -> Iterator[Iterator[bytes]]:
    """Yield the same blocks, which a thread makes ahead of their use. Its error is raised where the block is due."""
    made: queue.Queue[bytes | BaseException] = queue.Queue(_AHEAD)
    over = threading.Event()

    def make() -> None:
        try:
            for block in blocks:
                made.put(block)
                if over.is_set():
                    return
            made.put(b"")
        except BaseException as error:  # noqa: BLE001 - the reader raises it
            made.put(error)

    def take() -> Iterator[bytes]:
        while block := made.get():
            if isinstance(block, BaseException):
                raise block
            yield block

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    try:
        yield take()
    finally:
        over.set()
        while thread.is_alive():  # it may wait for a place in the queue
            with contextlib.suppress(queue.Empty):
                made.get(timeout=_POLL)


@contextlib.contextmanager
def _streamed(file: Hashed, program: str, what: str) -> Iterator[IO[bytes]]:
    """Yield a stream of the file's content, decompressed by `program`."""
    process = subprocess.Popen(
        [program, "-dc"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdin is not None and process.stdout is not None
    failures: list[BaseException] = []
    feeder = threading.Thread(target=_feed, args=(file, process.stdin, failures), daemon=True)
    feeder.start()
    ended = False
    try:
        yield process.stdout
        # After the archive tar writes zeros up to a full record. More than _AFTER_MAX is not read.
        ended = len(process.stdout.read(_AFTER_MAX)) < _AFTER_MAX
    except DAMAGED:
        ended = process.stdout.read(1) == b""  # the stream is short because the program has failed
        raise
    finally:
        process.stdout.close()  # ends a program that still has more to write
        feeder.join()
        status = process.wait()
        if failures:
            raise failures[0]
        if ended and status:
            raise BollardError(f"{what}: damaged: {program} cannot unpack it", "fetch it again")


def _feed(file: Hashed, pipe: IO[bytes], failures: list[BaseException]) -> None:
    """Write the whole file into the pipe, or until the reader closes it."""
    try:
        with contextlib.suppress(BrokenPipeError), pipe:
            while data := file.read(1 << 20):
                pipe.write(data)
    except BaseException as error:  # noqa: BLE001 - the reader raises it
        failures.append(error)
