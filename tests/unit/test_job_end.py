# SPDX-License-Identifier: BSD-3-Clause
"""The end of a job on a node (job_end.c, job_folder.c), as far as it can be asked without Slurm."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import signal
import socket

import compiled
import pytest

DECLARATIONS = """
int job_folder_is_last(int folder);
int last_of(int folder);
void end_at(int job_socket);
const char *logged(void);
"""
MORE = """
#include <stdarg.h>
#include <stdio.h>

struct step step = { .job_socket = -1, .folder = -1, .lifeline = -1 };
static char text[4096];

void slurm_error(const char *format, ...)
{
	va_list list;

	va_start(list, format);
	vsnprintf(text, sizeof(text), format, list);
	va_end(list);
}

const char *logged(void) { return text; }

static const struct job_cgroups none;

int last_of(int folder)
{
	step.folder = folder;
	return is_last(&none, 7);
}

void end_at(int job_socket)
{
	text[0] = 0;
	step.job_socket = job_socket;
	end_all(&none);
}
"""
SPANK = "typedef struct spank_handle *spank_t;\nvoid slurm_error(const char *format, ...);\n"


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    folder = tmp_path_factory.mktemp("job_end")
    (folder / "slurm").mkdir()
    (folder / "slurm/spank.h").write_text(SPANK)
    others = ("job_cgroup", "job_folder", "privilege", "root_owned", "wire")
    return compiled.load("job_end", folder, DECLARATIONS, MORE, others)


def test_whether_another_holds_the_folder(library, tmp_path):
    ffi, lib = library
    mine, other = (os.open(tmp_path, os.O_RDONLY) for _ in range(2))
    try:
        fcntl.flock(other, fcntl.LOCK_SH)
        assert lib.job_folder_is_last(mine) == 0 and lib.last_of(mine) == 0 and ffi.string(lib.logged()) == b""
        fcntl.flock(other, fcntl.LOCK_UN)
        assert lib.job_folder_is_last(mine) == 1
    finally:
        os.close(mine)
        os.close(other)


def test_a_lock_that_fails_is_logged(library):
    ffi, lib = library
    gone = os.open("/", os.O_RDONLY)
    os.close(gone)
    assert lib.job_folder_is_last(gone) == -1 and ffi.errno == errno.EBADF
    assert lib.last_of(gone) == 0
    assert b"does not tell whether other steps of the job run" in ffi.string(lib.logged())


def test_more_processes_than_fit_in_one_round(library, tmp_path, monkeypatch):
    """70 processes that do not end by themselves: all are killed."""
    ffi, lib = library
    monkeypatch.chdir(tmp_path)  # the address is short then
    listener = socket.socket(socket.AF_UNIX)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    listener.bind("job")
    listener.listen()
    listener.setblocking(False)
    peer = socket.socket(socket.AF_UNIX)
    peer.connect("job")
    children, ready, waiting = [], os.pipe(), 70
    for _ in range(waiting):
        child = os.fork()
        if child == 0:
            ctypes.CDLL(None).prctl(15, b"bollard-test")
            peer.send(b"+")
            os.write(ready[1], b"+")
            signal.pause()
            os._exit(0)
        children.append(child)
    try:
        while len(os.read(ready[0], 1)) and (waiting := waiting - 1):
            pass
        lib.end_at(listener.detach())
        ended = [os.waitpid(child, os.WNOHANG) for child in children]
        assert all(os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL for _, status in ended), ended
        assert ffi.string(lib.logged()) == b""
    finally:
        peer.close()
        os.close(ready[0])
        os.close(ready[1])
        for child in children:
            try:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
            except (ProcessLookupError, ChildProcessError):
                pass
