# SPDX-License-Identifier: BSD-3-Clause
"""Who owns a file, told by another process: spank_plugin/witness.c and the witness of `bollard exec`."""

from __future__ import annotations

import os
import signal
import socket
import stat

import compiled
import pytest

from bollard.runtime.errors import BollardError
from bollard.runtime.trust import witness


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return compiled.load("witness", tmp_path_factory.mktemp("witness"), "int serve_witness(int fd);")[1]


@pytest.fixture
def connection(request, library):
    """A connection to a witness; yields it with the process id of the one in C."""
    if getattr(request, "param", "C") == "Python":
        fd, pid = witness.start(), 0
    else:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            ours.close()
            os._exit(library.serve_witness(theirs.fileno()))
        theirs.close()
        fd = ours.detach()
    yield fd, pid
    try:
        witness.end(fd)
    except OSError:
        pass  # the test has closed it


@pytest.mark.parametrize("connection", ["C", "Python"], indirect=True)
def test_owner_and_mode(connection, tmp_path):
    for mode in (0o600, 0o4755):
        path = tmp_path / f"{mode}"
        path.touch()
        path.chmod(mode)
        fd = os.open(path, os.O_PATH)
        assert witness.owner(connection[0], fd) == (os.getuid(), stat.S_IFREG | mode)
        os.close(fd)
    assert witness.owner(-1, 0)[0] == os.fstat(0).st_uid, "a process that needs no witness"


def test_a_witness_that_has_ended_refuses(connection):
    fd, pid = connection
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    with pytest.raises(BollardError, match="does not answer"):
        witness.owner(fd, 0)


def test_it_ends_with_the_connection(connection):
    fd, pid = connection
    os.close(fd)
    assert os.waitpid(pid, 0)[1] == 0
