# SPDX-License-Identifier: BSD-3-Clause
"""What root does for a container (privilege.c), as far as it can be asked without Slurm."""

from __future__ import annotations

import ctypes
import os

import compiled
import pytest

DECLARATIONS = """
struct job_cgroups { int count; char job[16][512]; };
struct identity {
    unsigned uid, gid; const unsigned *groups; int ngroups, place, as_root; const struct job_cgroups *cgroups;
};
int start_of(const struct identity *id);
int maps_of(int pid, const struct identity *id);
void text_of(char *text, size_t room, int as_root, unsigned first, const unsigned *more, int count);
void path_of(char *text);
"""
MORE = """
static int be_nothing(void *arg) { (void) arg; return 0; }
int start_of(const struct identity *id)
{
	int keep = 3, status;
	pid_t helper;

	if (become_and_run(id, &keep, 0, -1, be_nothing, NULL, &helper) < 0 || waitpid(helper, &status, 0) != helper)
		return -1;
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}
void path_of(char *text) { unescape(text); }
int maps_of(int pid, const struct identity *id) { return write_maps(pid, id); }
void text_of(char *text, size_t room, int as_root, gid_t first, const gid_t *more, int count)
{
	map_text(text, room, as_root, first, more, count);
}
"""
MANY = list(range(2_000_000_000, 2_000_000_400))


@pytest.fixture(scope="module")
def privilege(tmp_path_factory):
    return compiled.load("privilege", tmp_path_factory.mktemp("privilege"), DECLARATIONS, MORE, ("job_cgroup",))


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


@pytest.mark.parametrize(
    ("text", "path"),
    [("/run/a\\040b", "/run/a b"), ("\\134", "\\"), ("/a\\", "/a\\"), ("/a\\7", "/a\\7"), ("\\08x", "\\08x"), ("", "")],
)
def test_a_path_of_mountinfo(privilege, text, path):
    ffi, library = privilege
    at = ffi.new("char[]", text.encode() + b"\0#####")
    library.path_of(at)

    assert ffi.string(at).decode() == path
