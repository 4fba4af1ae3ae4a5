# SPDX-License-Identifier: BSD-3-Clause
"""A message names the cause: the full place and its size, the limit by its letter, the file server and who mends it."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import instances
import pytest
import sif_files

from bollard.runtime import causes
from bollard.runtime.causes import one_line
from bollard.runtime.errors import BollardError
from bollard.runtime.fetch import cache
from bollard.runtime.image import image, sif
from bollard.spank_plugin import build

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="mounts a small filesystem")
REPAIR = "the site's administrator should run `bollard site check`"


def failure(number, path=None):
    return OSError(number, os.strerror(number), path)


@pytest.fixture
def scratch():
    """A directory that every user can reach."""
    folder = Path(tempfile.mkdtemp(prefix="bollard-test-causes-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def small(scratch):
    """A filesystem of 1 MB."""
    folder = scratch / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=1777", "none", folder], check=True)
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EMFILE, "raise it with `ulimit -n`"),
        (errno.ENFILE, "sysctl fs.file-max"),
        (errno.ENOMEM, "there is not enough memory; ask the job for more with --mem"),
        (errno.EAGAIN, "raise it with `ulimit -u`"),
        (errno.EFBIG, "its filesystem takes no file this large; name another place"),
        (errno.EROFS, "is read-only; name another place"),
        (errno.EDQUOT, "your disk quota on /"),
        (errno.ESTALE, "(stale file handle); try again"),
        (errno.EIO, "(input/output error); tell the administrator of that filesystem"),
        (errno.ETXTBSY, "a program runs from this file; wait"),
        (errno.ELOOP, "its symbolic links form a loop"),
        (errno.ENAMETOOLONG, "the name is too long: 255 bytes"),
        (errno.EPERM, "Operation not permitted; ask"),
    ],
)
def test_each_error_has_its_cure(number, words):
    assert words in str(causes.of(failure(number), "img.sif: cannot be read", "/", "ask"))


@pytest.mark.parametrize(("number", "reason"), [(errno.ENOSPC, "the limit of their"), (errno.EPERM, "Operation")])
def test_a_machine_without_user_namespaces(number, reason):
    found = causes.no_namespaces(failure(number), "this machine does not let users make namespaces")
    assert f"namespaces: {reason}" in str(found) and "user.max_user_namespaces" in found.hint
    assert "No space" not in str(found)


def test_no_path_of_this_process_is_shown():
    assert one_line(failure(errno.EMFILE, "/proc/self/fd/28")).startswith("bollard cannot go on: the limit of open")


@needs_root
def test_a_full_place_has_its_name_its_size_and_its_variable(small):
    error = failure(errno.ENOSPC)
    assert str(causes.of(error, "x.sif", str(small / "not/there"))) == (
        f"x.sif: no space left on {small}, which has 1.0 MB; free some, or name another place"
    )
    causes.movable(str(small), "BOLLARD_TMPDIR")
    assert causes.of(error, "x.sif", str(small / "x")).hint == "set BOLLARD_TMPDIR to a directory with more space"


@needs_root
def test_a_full_cache(small):
    with pytest.raises(BollardError) as caught, cache.opened({"BOLLARD_CACHEDIR": str(small)}) as store:
        cache.keep_blob(store, bytes(2 << 20))
    assert str(caught.value) == (
        f"cache {small}/bollard: cannot be written: no space left on {small}, which has 1.0 MB; "
        "set BOLLARD_CACHEDIR to a directory with more space"
    )


@pytest.mark.parametrize(
    ("status", "said", "words"),
    [
        (1, "Write failed because No space left on device\nFATAL ERROR: aborting", "x: no space left on"),
        (-25, "", "x: its filesystem takes no file this large"),
        (-9, "", "x: mksquashfs was ended by signal 9 (SIGKILL); was there too little memory?"),
        (1, "a\nFATAL ERROR: what now\n", "x: mksquashfs: FATAL ERROR: what now; hint"),
        (3, "", "x: mksquashfs: exit status 3; hint"),
    ],
)
def test_why_a_program_failed(status, said, words):
    assert words in str(causes.of_program("mksquashfs", status, said, "x", "/", "hint"))


@pytest.fixture(scope="module")
def packed():
    """The installation with a file server, and its image as squashfs."""
    with instances.installed() as place:
        build.copy_server(place)
        names = [place / "image", place / "demo.sqfs"]
        command = ["mksquashfs", *names, "-quiet", "-noappend", "-all-root", "-no-progress"]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        yield place


class Machine:
    """What a user sees where the node differs: each word of `before` runs as root in a mount namespace of its own."""

    def __init__(self, place, scratch):
        self.place, self.scratch, self.user = place, scratch, instances.User(place)
        self.image = str(place / "demo.sqfs")
        os.mknod(scratch / "fuse", 0o020666, os.makedev(10, 229))
        (scratch / "fuse").chmod(0o666)

    def refused(self, before, *words, env=None, limits=()):
        script = f'mount --bind {self.scratch}/fuse /dev/fuse && {before or ":"} && exec "$@"'

        command = self.user.command(*words)
        at = command.index(sys.executable)
        if limits:  # for the user's process alone
            inner = "; ".join(f"resource.setrlimit({which}, ({most}, {most}))" for which, most in limits)
            command[at + 2] = f"import resource; {inner}; {command[at + 2]}"
        done = subprocess.run(
            ["unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh", *command],
            cwd=self.place / "home", env={**self.user.env, **(env or {})}, text=True, stdin=subprocess.DEVNULL,
            capture_output=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 255, done
        assert "damaged" not in done.stderr and "/proc/self" not in done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
        return done.stderr

    def server(self, text, mode=0o755):
        """The words of the mount that puts a program with this text in the file server's place."""
        (self.scratch / "server").write_bytes(text)
        (self.scratch / "server").chmod(mode)
        found = [path for path in self.place.glob("squashfuse*") if path.stat().st_size]
        return " && ".join(f"mount --bind {self.scratch}/server {path}" for path in found)


@pytest.fixture
def machine(packed, scratch):
    return Machine(packed, scratch)


@needs_root
@pytest.mark.parametrize(
    ("text", "mode", "words"),
    [
        (b"garbage", 0o755, f"does not start: Exec format error; {REPAIR}"),
        (b"#!/bin/sh\n", 0o600, f"does not start: Permission denied; {REPAIR}"),
        (b"#!/bin/sh\nexit 0\n", 0o755, f"it ended with exit status 0; {REPAIR}"),
        (b"#!/bin/sh\nexit 3\n", 0o755, f"it ended with exit status 3; {REPAIR}"),
        (b"#!/bin/sh\nkill -SEGV $$\n", 0o755, "it was ended by signal 11 (SIGSEGV); try again"),
        (b"#!/bin/sh\nkill -KILL $$\n", 0o755, "it was ended by signal 9 (SIGKILL); try again"),
        (b"#!/bin/sh\necho libfuse3.so.3: missing >&2; exit 127\n", 0o755, f"127: libfuse3.so.3: missing; {REPAIR}"),
    ],
)
def test_a_file_server_that_does_not_start(machine, text, mode, words):
    said = machine.refused(machine.server(text, mode), "exec", machine.image, "true")
    assert said.startswith(f"bollard: {machine.image}: the file server {machine.place}/squashfuse") and words in said


@needs_root
@pytest.mark.parametrize(
    ("before", "words"),
    [
        ("chmod 600 {}/fuse", "/dev/fuse: Permission denied; the site's administrator should give it the mode 0666"),
        ("mount --bind /dev/null /dev/fuse", "/dev/fuse is not the FUSE device, 10:229; the site's administrator"),
        (
            "umount /dev/fuse && mount -t tmpfs none /dev && mkdir /dev/fuse && mknod -m 666 /dev/null c 1 3",
            "/dev/fuse is not the FUSE device, 10:229; the site's administrator",
        ),
    ],
)
def test_a_fuse_device_that_cannot_be_used(machine, before, words):
    assert words in machine.refused(before.format(machine.scratch), "exec", machine.image, "sh")


@needs_root
@pytest.mark.parametrize("most", [10, 12, 14, 16])
def test_the_limit_of_open_files(machine, most):
    said = machine.refused("", "exec", machine.image, "sh", limits=[(resource.RLIMIT_NOFILE, most)])
    assert "open files" in said and "raise it with `ulimit -n`" in said


@needs_root
def test_the_limit_of_processes(machine):
    said = machine.refused("", "exec", machine.image, "sh", limits=[(resource.RLIMIT_NPROC, 1)])
    assert "the limit of yours is 1" in said and "`ulimit -u`" in said


@needs_root
def test_the_limit_of_a_file_s_size(machine):
    said = machine.refused("", "exec", machine.image, "sh", limits=[(resource.RLIMIT_FSIZE, 0)])
    assert "the limit of a file's size, 0 bytes, is reached; raise it with `ulimit -f`" in said


@needs_root
def test_a_build_without_room(machine, small):
    before = f"mount -t tmpfs -o size=1m,mode=1777 none {small}"
    full = f"no space left on {small}, which has 1.0 MB; "
    env = {"BOLLARD_TMPDIR": str(small)}
    said = machine.refused(before, "build", "x.sif", machine.image, env=env)
    assert said == (
        f"bollard: {machine.image}: cannot be unpacked: {full}set BOLLARD_TMPDIR to a directory with more space\n"
    )
    said = machine.refused(before, "build", f"{small}/x.sif", machine.user.image)
    assert said == f"bollard: {small}/x.sif: cannot be written: {full}free some, or name another place\n"


@needs_root
def test_a_place_that_is_read_only(machine, small):
    said = machine.refused(f"mount -o remount,ro {small}", "build", f"{small}/x.sif", machine.user.image)
    assert said == f"bollard: {small}/x.sif: cannot be written: {small} is read-only; name another place\n"


@needs_root
def test_a_file_of_another_user_in_a_sticky_directory(machine):
    """Told before the work, whose last step would be refused with EPERM."""
    folder = machine.scratch / "shared"
    folder.mkdir()
    folder.chmod(0o1777)
    (folder / "x.sif").write_bytes(b"root's")
    said = machine.refused("", "build", "--force", f"{folder}/x.sif", machine.user.image)
    assert said == (
        f"bollard: {folder}/x.sif: cannot be written: the file that is there belongs to another user, and in {folder} "
        "only its owner can replace it; choose another name\n"
    )


@needs_root
def test_an_overlay_whose_top_belongs_to_another(machine):
    (machine.scratch / "layer").mkdir()
    said = machine.refused("", "exec", "--overlay", f"{machine.scratch}/layer", machine.user.image, "sh")
    assert said == (
        f"bollard: overlay {machine.scratch}/layer: its top directory belongs to another user, as mkfs.ext3 gives it "
        "to root; `bollard overlay create FILE` makes one that belongs to you\n"
    )


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENAMETOOLONG, "the name is too long"), (errno.EMFILE, "`ulimit -n`"), (errno.ESTALE, "stale file handle")],
)
def test_an_image_that_cannot_be_opened(number, words):
    assert words in str(image._open_error("/img.sif", "img.sif", failure(number)))


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ESTALE, "on /"), (errno.EIO, "input/output error"), (errno.ENFILE, "sysctl fs.file-max"),
        (errno.EINVAL, "Invalid argument; check the filesystem it is on"),
    ],
)  # fmt: skip
def test_an_image_that_cannot_be_read(monkeypatch, number, words):
    def fails(*_):
        raise failure(number)

    with open(__file__) as file:
        monkeypatch.setattr(os, "pread", fails)
        with pytest.raises(BollardError) as caught:
            sif.pread(file.fileno(), 10, 64, "img.sif")
    assert str(caught.value).startswith("img.sif: cannot be read at byte 64: ") and words in str(caught.value)


def test_a_file_that_may_be_read_and_is_refused():
    """Its mode is not the cause then, but a security module or the server of its filesystem."""
    assert "mode" not in str(image._open_error(__file__, "img.sif", failure(errno.EPERM)))


@needs_root
@pytest.mark.parametrize("most", [5, 8, 10])
def test_a_push_at_the_limit_of_open_files(machine, scratch, most):
    """Its workspace is removed with the descriptors that are left, and does not hide the cause."""
    (scratch / "t").mkdir()
    (scratch / "t").chmod(0o1777)
    sif_files.write(machine.place / "pushed.sif", (), Path(machine.image).read_bytes(), os.uname().machine, force=True)
    words = ["push", str(machine.place / "pushed.sif"), "oras://127.0.0.1:1/x:y"]
    limits = [(resource.RLIMIT_NOFILE, most)]
    said = machine.refused("", *words, limits=limits, env={"BOLLARD_TMPDIR": str(scratch / "t")})
    assert "the limit of open files" in said
    assert list((scratch / "t").iterdir()) == []


@needs_root
def test_a_program_where_an_overlay_is_to_be_made(machine):
    shutil.copy("/bin/true", machine.place / "home/prog")
    said = machine.refused("", "overlay", "create", "prog")
    assert said == "bollard: prog: not a SIF image; name another file\n"


LONG = "x" * 300
LOOP = "its symbolic links form a loop; check where they point with `ls -l`"
TOO_LONG = "the name is too long: 255 bytes a part, 4095 in all; choose a shorter one"


@needs_root
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["exec", "loop", "true"], f"loop: {LOOP}"),
        (["exec", "--overlay", "loop", "IMAGE", "true"], f"overlay HOME/loop: {LOOP}"),
        (["exec", "--overlay", LONG, "IMAGE", "true"], f"overlay HOME/{LONG}: {TOO_LONG}"),
        (["exec", "--env-file", "loop", "IMAGE", "true"], f"loop: cannot be read: {LOOP}"),
        (["exec", "--bind", "loop:/mnt", "IMAGE", "true"], f"bind HOME/loop: {LOOP}"),
        (
            ["exec", "--bind", f"/srv:/mnt/{LONG}", "IMAGE", "true"],
            f"bind '/srv:/mnt/{LONG}': a name in its target is longer than 255 bytes; choose a shorter one",
        ),
        (["build", "loop/x.sif", "IMAGE"], f"loop/x.sif: cannot be written: {LOOP}"),
        (["build", f"{LONG}.sif", "IMAGE"], f"{LONG}.sif: cannot be written: {TOO_LONG}"),
        (["build", "x.sif", "loop"], f"loop: {LOOP}"),
        (["build", "x.sif", LONG], f"{LONG}: {TOO_LONG}"),
        (["inspect", "loop"], f"loop: {LOOP}"),
        (["overlay", "create", "loop"], f"loop: {LOOP}"),
        (["flow", "submit", "loop"], f"loop: {LOOP}"),
        (["flow", "submit", LONG], f"{LONG}: {TOO_LONG}"),
    ],
)
def test_names_that_cannot_be_looked_up(machine, words, said):
    home = machine.place / "home"
    (home / "loop").unlink(missing_ok=True)
    (home / "loop").symlink_to("loop")
    words = [machine.image if word == "IMAGE" else word for word in words]
    assert machine.refused("", *words) == f"bollard: {said.replace('HOME', str(home))}\n"


@needs_root
def test_the_limit_of_memory(machine):
    said = machine.refused("", "build", "x.sif", machine.image, limits=[(resource.RLIMIT_AS, 60 << 20)])
    assert "the limit of memory, 62.9 MB, is reached; raise it with `ulimit -v`" in said


def test_what_programs_say_of_memory():
    assert causes.told("FATAL ERROR: Out of memory (cache_get)") == errno.ENOMEM
    assert causes.told("fatal error: failed to reserve page summary memory\n\nruntime stack:\n") == errno.ENOMEM
    assert causes.told("runtime: may need to increase max user processes\nfatal error: newosproc\n") == errno.EAGAIN
