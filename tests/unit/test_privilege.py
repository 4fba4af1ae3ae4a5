# SPDX-License-Identifier: BSD-3-Clause
"""What root does for a container (privilege.c), as far as it can be asked without Slurm."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import socket
import tempfile
from contextlib import contextmanager
from pathlib import Path

import compiled
import pytest

DECLARATIONS = """
struct job_cgroups { int count; char job[16][512], v1[512], v2[512]; };
struct identity {
    unsigned uid, gid; const unsigned *groups; int ngroups, place, as_root; const struct job_cgroups *cgroups;
    int (*first)(int fd); int first_fd;
};
int start_of(const struct identity *id);
int maps_of(int pid, const struct identity *id);
void text_of(char *text, size_t room, int as_root, unsigned first, const unsigned *more, int count);
int owned_by_root(const char *path);
int take_senders(int fd, int *handles, int most, int *lost);
int count_alive(const int *handles, int count);
int open_record(const char *folder, uint32_t job, unsigned uid, unsigned gid);
void drop_empty_record(const char *folder, uint32_t job, unsigned uid);
"""
MORE = """
static int be_nothing(void *arg) { (void) arg; return 0; }
int start_of(const struct identity *id)
{
	int keep = 3, status, answer;
	pid_t helper;

	if (become_and_run(id, &keep, 0, -1, be_nothing, NULL, &helper, &answer) < 0)
		return -1;
	close(answer);
	if (waitpid(helper, &status, 0) != helper)
		return -1;
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}
int maps_of(int pid, const struct identity *id) { return write_maps(pid, id); }
void text_of(char *text, size_t room, int as_root, gid_t first, const gid_t *more, int count)
{
	map_text(text, room, as_root, first, more, count);
}
"""
MANY = list(range(2_000_000_000, 2_000_000_400))


@pytest.fixture(scope="module")
def privilege(tmp_path_factory):
    return compiled.load(
        "privilege", tmp_path_factory.mktemp("privilege"), DECLARATIONS, MORE, ("job_cgroup", "root_owned")
    )


@pytest.mark.parametrize(
    ("as_root", "first", "more", "lines"),
    [
        (0, 1000, [], ["1000 1000 1"]),
        (0, 1000, [1000, 27, 27, 5], ["1000 1000 1", "27 27 1", "5 5 1"]),
        (1, 1000, [0, 27], ["0 1000 1", "27 27 1"]),
        (0, 4294967294, [], ["4294967294 4294967294 1"]),
    ],
)
def test_a_map_of_ids(privilege, as_root, first, more, lines):
    ffi, library = privilege
    text = ffi.new("char[4096]")
    library.text_of(text, 4096, as_root, first, more, len(more))

    assert ffi.string(text).decode().splitlines() == lines


@pytest.mark.parametrize(("room", "count"), [(4096, 170), (8161, 340), (25, 1)])
def test_a_map_has_whole_lines_and_no_more_than_find_room(privilege, room, count):
    ffi, library = privilege
    text = ffi.new("char[]", b"#" * (room + 8))
    library.text_of(text, room, 0, MANY[0], MANY, len(MANY))

    found = ffi.string(text).decode()
    assert len(found) < room and ffi.buffer(text)[room : room + 8] == b"#" * 8
    assert found.splitlines() == [f"{gid} {gid} 1" for gid in MANY[:count]]


@pytest.mark.skipif(os.getuid() != 0, reason="root writes these maps")
def test_the_kernel_takes_the_map_of_a_user_with_many_groups(privilege):
    ffi, library = privilege
    groups = ffi.new("unsigned[]", MANY)
    ready, go = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.close(go[1])
        new_user_namespace = 0x10000000
        os.write(ready[1], b"+" if ctypes.CDLL(None).unshare(new_user_namespace) == 0 else b"-")
        os.read(go[0], 1)
        os._exit(0)
    try:
        assert os.read(ready[0], 1) == b"+"
        who = ffi.new(
            "struct identity *", {"uid": 1234, "gid": 1234, "groups": groups, "ngroups": len(MANY), "place": -1}
        )
        assert library.maps_of(child, who) == 0
        with open(f"/proc/{child}/gid_map") as file:
            lines = file.read().splitlines()
        assert lines[0].split() == ["1234", "1234", "1"] and len(lines) > 100
    finally:
        for fd in (*ready, *go):
            os.close(fd)
        os.waitpid(child, 0)


@pytest.mark.skipif(os.getuid() != 0, reason="root gives itself up")
@pytest.mark.parametrize(("cgroup", "place", "reason"), [("", "", 0), ("/nowhere/job_7", "", 2), ("", "/", 3)])
def test_why_there_is_no_keeper(privilege, cgroup, place, reason):
    ffi, library = privilege
    groups = ffi.new("struct job_cgroups *", {"count": int(bool(cgroup)), "job": [cgroup.encode()]})
    fd = os.open(place, os.O_RDONLY) if place else -1
    nobody = 65534
    who = {"uid": nobody, "gid": nobody, "groups": ffi.NULL, "place": fd, "cgroups": groups}
    try:
        assert library.start_of(ffi.new("struct identity *", who)) == reason
    finally:
        if fd >= 0:
            os.close(fd)


@contextmanager
def no_descriptors():
    """No descriptor can be opened, and poll(2) fails."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@contextmanager
def connection():
    """Two ends; the first tells who has sent what."""
    ends = socket.socketpair()
    ends[0].setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    try:
        yield ends
    finally:
        for end in ends:
            end.close()


@pytest.fixture
def named():
    """This process has a name of bollard's."""
    before = Path("/proc/self/comm").read_text().strip().encode()
    ctypes.CDLL(None).prctl(15, b"bollard-test")  # PR_SET_NAME
    yield
    ctypes.CDLL(None).prctl(15, before)


def test_a_process_that_cannot_be_asked_counts_as_alive(privilege):
    ffi, library = privilege
    child = os.fork()
    if child == 0:
        os._exit(0)
    handle = os.pidfd_open(child)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    handles = ffi.new("int[]", [handle])
    with no_descriptors():
        assert library.count_alive(handles, 1) == 1
    assert library.count_alive(handles, 1) == 0
    os.close(handle)
    os.waitpid(child, 0)


def test_who_has_sent_a_byte(privilege, named):
    ffi, library = privilege
    handles, lost = ffi.new("int[4]"), ffi.new("int *")
    with connection() as (ours, theirs):
        theirs.send(b"++")
        assert library.take_senders(ours.fileno(), handles, 4, lost) == 2 and lost[0] == 0
        assert library.count_alive(handles, 2) == 2
        for handle in handles[0:2]:
            os.close(handle)


def test_a_sender_of_whom_there_is_no_handle_is_told(privilege, named):
    ffi, library = privilege
    handles, lost = ffi.new("int[4]"), ffi.new("int *")
    with connection() as (ours, theirs):
        theirs.send(b"+")
        with no_descriptors():
            assert library.take_senders(ours.fileno(), handles, 4, lost) == 0
        assert lost[0] == 1


def test_messages_of_others_are_read_within_a_bound(privilege):
    ffi, library = privilege
    handles, lost = ffi.new("int[4]"), ffi.new("int *")
    with connection() as (ours, theirs):
        theirs.send(b"+" * 1100)
        assert library.take_senders(ours.fileno(), handles, 4, lost) == 0
        assert lost[0] == 1 and len(ours.recv(2000)) == 1100 - 1024


@pytest.fixture
def tree():
    """A directory of root's, in one where only root can write: prefix -> one/to -> ../two/release/file."""
    if os.getuid() != 0:
        pytest.skip("only root makes such a directory")
    with tempfile.TemporaryDirectory(dir="/run") as name:
        top = Path(name)
        top.chmod(0o755)
        for folder in ("one", "two", "two/release"):
            (top / folder).mkdir(mode=0o755)
        (top / "two/release/file").touch(0o644)
        (top / "one/to").symlink_to("../two/./release")
        (top / "prefix").symlink_to(f"{top}/one/to")
        yield top


def owned(privilege, path):
    """0, or the reason why `path` is not root's alone."""
    ffi, library = privilege
    return 0 if library.owned_by_root(str(path).encode()) == 0 else ffi.errno


def test_a_way_through_links_that_is_roots(privilege, tree):
    for path in ("prefix/file", "one/to/file", "two//release/../release/file", "prefix", "prefix/"):
        assert owned(privilege, f"{tree}/{path}") == 0
    assert owned(privilege, "/") == 0 and owned(privilege, "/..//usr/bin") == 0


@pytest.mark.parametrize("spoilt", ["", "one", "two", "two/release", "two/release/file"])
@pytest.mark.parametrize("bits", [0o020, 0o002, 0o1002])
def test_what_others_can_write_on_the_way_of_a_link(privilege, tree, spoilt, bits):
    (tree / spoilt).chmod(0o755 | bits)
    assert owned(privilege, tree / "prefix/file") == errno.EPERM


@pytest.mark.parametrize("spoilt", ["one", "two", "two/release", "two/release/file"])
def test_what_is_not_roots_on_the_way_of_a_link(privilege, tree, spoilt):
    os.chown(tree / spoilt, 1234, -1)
    assert owned(privilege, tree / "prefix/file") == errno.EPERM


def test_ways_that_end_nowhere(privilege, tree):
    (tree / "round").symlink_to("round")
    (tree / "gone").symlink_to("nowhere")
    (tree / "long").symlink_to("x" * 4000)
    assert owned(privilege, tree / "round/file") == errno.ELOOP
    assert owned(privilege, tree / "gone") == errno.ENOENT
    assert owned(privilege, tree / "long" / ("y" * 200)) == errno.ENAMETOOLONG
    assert owned(privilege, "usr/bin") == errno.EINVAL and owned(privilege, "/" + "x" * 4096) == errno.EINVAL


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's directories hold records")
@pytest.mark.parametrize(
    ("spoil", "opens"),
    [
        ("true", True),
        ("chgrp 4 {above}; chmod 775 {above}", True),  # /var/log of Ubuntu
        ("mkdir {folder}", True),
        ("mkdir {above}/real; ln -s real {folder}", True),
        ("chmod 775 {above}; mkdir {above}/real; ln -s real {folder}", False),
        ("mkdir {folder}; chown 1000 {folder}", False),
        ("mkdir {folder}; chmod 775 {folder}", False),
        ("touch {folder}", False),
        ("mkdir {folder}; ln -s ../other {folder}/7.1000", False),
    ],
)
def test_where_records_are(privilege, spoil, opens):
    """Root writes to its own directory alone, also where a daemon's group can write to the parent."""
    _, library = privilege
    with tempfile.TemporaryDirectory(dir="/var/lib") as above:
        folder = f"{above}/bollard"
        os.chmod(above, 0o755)
        assert os.system(spoil.format(above=above, folder=folder)) == 0
        fd = library.open_record(folder.encode(), 7, 1000, 1000)
        assert (fd >= 0) == opens
        if opens:
            info = os.fstat(fd)
            assert (info.st_uid, info.st_gid, info.st_mode & 0o7777) == (0, 1000, 0o640)
            os.close(fd)
            library.drop_empty_record(folder.encode(), 7, 1000)
            assert os.listdir(folder) == []
        assert not os.path.exists(f"{above}/other")
