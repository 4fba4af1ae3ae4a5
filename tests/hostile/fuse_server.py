# SPDX-License-Identifier: BSD-3-Clause
"""A FUSE filesystem of an ordinary user's: serves a file under any path, and unmounts itself before it answers a read.

    python3 fuse_server.py MOUNTPOINT FILE PATH

It prints "serving" when it is mounted, and ends when the filesystem is gone. fusermount mounts and unmounts it.
"""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import sys
import threading

# Numbers of requests, and the sizes of the structures, in <linux/fuse.h>.
LOOKUP, FORGET, GETATTR, OPEN, READ, INIT, OPENDIR, INTERRUPT, BATCH_FORGET = 1, 2, 3, 14, 15, 26, 27, 36, 42
HEADER = 40
ENOENT, ENOSYS = 2, 38
VALID = 60  # seconds for which the kernel may keep a name and its attributes
FUSERMOUNT = shutil.which("fusermount3") or "fusermount"


def mounted(place: str) -> int:
    """Mount; return the descriptor of /dev/fuse that fusermount sends."""
    ours, theirs = socket.socketpair()
    subprocess.run(
        [FUSERMOUNT, "-o", "fsname=own,default_permissions", "--", place],
        env={**os.environ, "_FUSE_COMMFD": str(theirs.fileno())},
        pass_fds=[theirs.fileno()],
        check=True,
    )
    _, attached, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(4))
    return int.from_bytes(attached[0][2][:4], sys.byteorder)


class Server:
    """Node 1 is the root; each word of the path has the next number, the file the last."""

    def __init__(self, place: str, file: str, path: str) -> None:
        self.place = place
        self.names = path.strip("/").split("/")
        with open(file, "rb") as opened:
            self.data = opened.read()
        self.fd = mounted(place)

    def answer(self, request: int, body: bytes = b"", error: int = 0) -> None:
        os.write(self.fd, struct.pack("=IiQ", 16 + len(body), -error, request) + body)

    def attributes(self, node: int) -> bytes:
        is_file = node > len(self.names)
        size = len(self.data) if is_file else 0
        kind = 0o100644 if is_file else 0o40755
        return struct.pack("=6Q10I", node, size, size // 512 + 1, 1, 1, 1, 0, 0, 0, kind, 1, 0, 0, 0, 4096, 0)

    def read(self, request: int, offset: int, size: int) -> None:
        subprocess.run([FUSERMOUNT, "-u", "-z", self.place], stderr=subprocess.DEVNULL, check=False)
        self.answer(request, self.data[offset : offset + size])

    def serve(self) -> None:
        while True:
            message = os.read(self.fd, 1 << 20)
            _, code, request, node = struct.unpack_from("=IIQQ", message)
            body = message[HEADER:]
            if code == INIT:
                self.answer(request, struct.pack("=4I2H2I2HI7I", 7, 31, 0, 0, 0, 0, 4096, 1, 0, 0, *([0] * 8)))
            elif code == LOOKUP and node <= len(self.names) and body.rstrip(b"\0").decode() == self.names[node - 1]:
                entry = struct.pack("=4Q2I", node + 1, 0, VALID, VALID, 0, 0)
                self.answer(request, entry + self.attributes(node + 1))
            elif code == LOOKUP:
                self.answer(request, error=ENOENT)
            elif code == GETATTR:
                self.answer(request, struct.pack("=QII", VALID, 0, 0) + self.attributes(node))
            elif code in (OPEN, OPENDIR):
                self.answer(request, bytes(16))
            elif code == READ:  # in a thread: fusermount may look at the filesystem
                threading.Thread(target=self.read, args=(request, *struct.unpack_from("=QI", body, 8))).start()
            elif code not in (FORGET, BATCH_FORGET, INTERRUPT):
                self.answer(request, error=ENOSYS)


if __name__ == "__main__":
    server = Server(*sys.argv[1:4])
    print("serving", flush=True)
    try:
        server.serve()
    except OSError:
        pass  # unmounted, and nobody has a file open
