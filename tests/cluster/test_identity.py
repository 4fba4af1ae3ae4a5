# SPDX-License-Identifier: BSD-3-Clause
"""A task in a container has the same user and the same rights as outside, and never more."""

from __future__ import annotations

import pytest
from cluster import SERVERS, Cluster, Images, Work, good, until


@pytest.mark.parametrize("user", ["alice", "bob"])
def test_id(cluster: Cluster, images: Images, user: str) -> None:
    inside = good(cluster.srun(f"--container={images.small}", "id", user=user))
    assert inside == good(cluster.srun("id", user=user)) == good(cluster.exec("id", user=user))


def test_names_are_known(cluster: Cluster, images: Images) -> None:
    script = "whoami; getent passwd alice; getent group chem; echo ~"
    assert good(cluster.srun(f"--container={images.small}", "bash", "-c", script)) == good(cluster.exec(script))


def test_files_belong_to_the_user(cluster: Cluster, images: Images, work: Work) -> None:
    script = "touch pwd ~/test-home && stat -c '%u %g %a %n' pwd ~/test-home; rm ~/test-home"
    done = cluster.srun(f"--container={images.small}", "bash", "-c", script, cwd=work.path)
    assert good(done) == "1000 1000 644 pwd\n1000 1000 644 /home/alice/test-home\n"
    info = (work.here / "pwd").stat()
    assert (info.st_uid, info.st_gid) == (1000, 1000)


@pytest.mark.parametrize("mask", ["0022", "0077", "0027"])
def test_umask(cluster: Cluster, images: Images, work: Work, mask: str) -> None:
    script = (
        f"umask {mask}; srun -Q --container={images.small} sh -c 'umask; touch file; mkdir dir'; stat -c %a file dir"
    )
    modes = f"{0o666 & ~int(mask, 8):o}\n{0o777 & ~int(mask, 8):o}\n"
    assert good(cluster.exec(script, cwd=work.path)) == f"{mask}\n{modes}"


def test_supplementary_groups_open_what_they_open_outside(cluster: Cluster, images: Images, work: Work) -> None:
    for name, owner in (("chem", "root:chem"), ("proj", "root:proj"), ("bob", "root:bob")):
        work.write(name, "text\n", 0o640)
        good(cluster.exec(["chown", owner, f"{work.path}/{name}"], user="root"))
    script = "cat chem proj; cat bob; touch new; chgrp chem new && stat -c %g new"
    inside = cluster.srun(f"--container={images.small}", "sh", "-c", script, cwd=work.path)
    assert inside.out == "text\ntext\n2001\n", inside
    assert "bob: Permission denied" in inside.err


def test_no_rights_beyond_the_users(cluster: Cluster, images: Images) -> None:
    script = "cat /proc/self/status; mount -t tmpfs tmpfs /mnt; kill -0 1; echo x > /etc/hosts"
    done = cluster.srun(f"--container={images.small}", "bash", "-c", script)
    fields = dict(line.split(":\t", 1) for line in done.out.splitlines() if ":\t" in line)
    assert fields["Uid"].split() == ["1000"] * 4 and fields["Gid"].split() == ["1000"] * 4
    for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(fields[name], 16) == 0, name
    for complaint in ("must be superuser to use mount", "Operation not permitted", "/etc/hosts: Read-only file system"):
        assert complaint in done.err, done


def test_setuid_programs_have_no_effect(cluster: Cluster, images: Images, work: Work) -> None:
    """Neither those of the image, which any user can make, nor those of the host that are visible in the container."""
    good(cluster.exec(f"cp /usr/bin/id {work.path}/id; chmod 4755 {work.path}/id", user="root"))
    script = f"{work.path}/id -u; (echo; echo) | su -c id; grep NoNewPrivs /proc/self/status"
    assert good(cluster.exec(f"{work.path}/id -u")) == "0\n", "the test is in vain"
    done = cluster.srun(f"--container={images.mpi}", "bash", "-c", script)
    assert done.out == "1000\nNoNewPrivs:\t1\n", done


@pytest.mark.parametrize("user", ["alice", "bob"])
def test_the_keeper_is_the_user(cluster: Cluster, images: Images, user: str) -> None:
    uid = {"alice": "1000", "bob": "1001"}[user]
    with cluster.start(["srun", "-Q", "-w", "n1", f"--container={images.small}", "tail", "-f", "/dev/null"], user=user):
        until(lambda: cluster.named("n1", "tail"), "the task")
        found = cluster.named("n1", "bollard-keeper", "bollard-reaper", *SERVERS)
        assert len(found) == 3, found
        for process in found:
            assert process.status("Uid").split() == [uid] * 4, process
            assert process.status("Gid").split() == [uid] * 4, process
            assert process.status("NoNewPrivs") == "1", process
            assert process.status("Groups").split() == {"alice": ["1000", "2001", "2002"], "bob": ["1001"]}[user]


@pytest.mark.parametrize("option", [[], ["--container-remap-root"]], ids=["user", "root"])
def test_the_file_server_has_no_capabilities(cluster: Cluster, images: Images, option: list[str]) -> None:
    """The server reads images that any user wrote. It has no capabilities, also when the container has a root."""
    words = ["srun", "-Q", "-w", "n1", f"--container={images.small}", *option, "tail", "-f", "/dev/null"]
    with cluster.start(words):
        until(lambda: cluster.named("n1", "tail"), "the task")
        (server,) = cluster.named("n1", *SERVERS)
        assert int(server.status("CapPrm"), 16) == int(server.status("CapEff"), 16) == 0
