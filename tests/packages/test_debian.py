# SPDX-License-Identifier: BSD-3-Clause
"""The Debian packages on a cluster: installed, upgraded while steps run, and purged without a trace."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

import pytest
from cluster import WHERE, Cluster, Images, Result, Running, Work, good, until
from conftest import Packages

WORKERS = 4
LINE = "/etc/slurm/plugstack.conf.d/bollard.conf"
# What Slurm, munge and dpkg write in any case.
OTHERS = ("/var/lib/dpkg", "/var/log", "/var/lib/munge", "/var/lib/slurm", "/var/spool/slurmd", "/var/cache", "/run")


def everywhere(cluster: Cluster, command: str) -> list[Result]:
    """Run a command as root on all nodes at once."""
    with contextlib.ExitStack() as stack:
        running: list[Running] = [
            stack.enter_context(cluster.start(command, node=node, user="root")) for node in cluster.nodes()
        ]
        return [one.result(180) for one in running]


def files(cluster: Cluster) -> dict[str, set[str]]:
    """Path, mode, size and time of every file, and path and mode of every directory, of each node."""
    left = " ".join(f"-path {path} -prune -o" for path in OTHERS)
    command = f"find / /tmp -xdev {left} -type d -printf '%p %m\\n' -o -printf '%p %m %s %t\\n'; ls -d /run/bollard*"
    done = everywhere(cluster, command)
    return {node: set(result.out.splitlines()) for node, result in zip(cluster.nodes(), done)}


def install(cluster: Cluster, packages: Packages, names: str = "*") -> None:
    for done in everywhere(cluster, f"dpkg -i {packages.path}/{names}.deb"):
        assert done.rc == 0, done


PURGE = "dpkg --purge $(dpkg-query -W -f '${Package}\\n' 'bollard*')"


def begun(work: Work) -> int:
    """How many steps have begun."""
    return len(list(work.here.glob("out.*")))


def wait_for_more(work: Work) -> None:
    now = begun(work)
    until(lambda: begun(work) > now + WORKERS, "more steps")


@pytest.fixture
def before(cluster: Cluster) -> Iterator[dict[str, set[str]]]:
    """The files of each node before the test. After it the packages are purged, and these files must be there again."""
    found = files(cluster)
    yield found
    for done in everywhere(cluster, PURGE):
        assert done.rc == 0, done
    now = files(cluster)
    # Slurm's package would make the directory of its own include line; the test's nodes have it already.
    assert {node: sorted(now[node] ^ found[node]) for node in now} == {node: [] for node in now}
    assert cluster.exec("sinfo -hR").out == ""
    assert good(cluster.srun("-N2", "true")) == ""


def states(cluster: Cluster, node: str) -> dict[str, str]:
    done = cluster.exec(["bollard", "site", "check", "--json"], node=node)
    return {f"{row['check']}: {row['text']}": row["state"] for row in json.loads(done.out)["checks"]}


def test_install_upgrade_purge(
    cluster: Cluster, images: Images, work: Work, versions: list[Packages], before: dict[str, set[str]]
) -> None:
    """Steps start all the time while the packages are upgraded twice: each one runs, in the container."""
    image = images.small
    install(cluster, versions[0])
    for node in cluster.nodes():
        assert [text for text, state in states(cluster, node).items() if state == "failure"] == [], node
    assert good(cluster.srun("-N2", f"--container={image}", "sh", "-c", WHERE)) == "inside\ninside\n"
    # An administrator's word in the plugin's line stays there.
    everywhere(cluster, f"sed -i 's/$/ record=no/' {LINE}")

    worker = (
        "i=0; while ! test -e stop; do i=$((i + 1)); "
        'if test $((i % 2)) = 0; then name=--container-name=w$worker-$i; else name=; fi; '
        f"srun -Q -N1 -n1 --overlap $name --container={image} sh -c '{WHERE}' > out.$worker.$i 2>&1 "
        "|| echo failed >> out.$worker.$i; done"
    )
    pause = work.pause("long")
    job = (
        f"srun -Q -N1 -w n1 -n1 --overlap --container-name=long --container-writable --container={image} "
        f"sh -c 'echo text > /kept; {pause}; cat /kept' > long.out 2>&1 & "
        f"pids=; for worker in $(seq {WORKERS}); do ({worker}) & pids=\"$pids $!\"; done; wait $pids; "
        f"srun -Q -N1 -w n1 -n1 --overlap --container-name=long cat /kept > late.out 2>&1; touch long.go; wait"
    )
    with cluster.start(["salloc", "-Q", "-N2", "bash", "-c", job], cwd=work.path) as steps:
        work.wait_for("long")
        wait_for_more(work)
        for packages in versions[1:]:
            started = begun(work)
            install(cluster, packages)
            assert begun(work) > started + WORKERS, "no step started during the upgrade"
            wait_for_more(work)
        work.write("stop", "")
        done = steps.result(120)
    assert done.rc == 0, done
    said = {path.name: path.read_text() for path in work.here.glob("out.*")}
    assert set(said.values()) == {"inside\n"}, {name: text for name, text in said.items() if text != "inside\n"}
    print(f"{len(said)} steps")
    assert (work.read("long.out"), work.read("late.out")) == ("text\n", "text\n")
    for node in cluster.nodes():
        assert good(cluster.exec("bollard --version", node=node)).split()[1].endswith("+later2")
        assert "record=no" in good(cluster.exec(["cat", LINE], node=node))
        assert [text for text, state in states(cluster, node).items() if state == "failure"] == [], node
        trees = good(cluster.exec("ls -d /usr/lib/bollard-????????; ls -l /usr/lib/bollard", node=node)).splitlines()
        assert len(trees) == 3, trees


def test_the_command_without_slurm(
    cluster: Cluster, images: Images, versions: list[Packages], before: dict[str, set[str]]
) -> None:
    """`bollard` alone leaves Slurm alone. `bollard-slurm` comes and goes, and its line in plugstack.conf.d with it."""
    install(cluster, versions[0], "bollard_*")
    inside = ["bollard", "exec", images.small, "sh", "-c", WHERE]
    for verb in ("install", "uninstall", "rollback"):
        done = cluster.exec(["bollard", "site", verb], node="n1", user="root")
        assert done.rc == 255 and "/usr/lib/bollard belongs to the package bollard; " in done.err, done
    assert good(cluster.exec(inside, node="n1")) == "inside\n"
    assert cluster.exec(["test", "-e", LINE], node="n1").rc == 1
    assert "--container-verbose" not in cluster.srun("--help").out
    install(cluster, versions[0], "bollard-slurm_*")
    # A user can run the servers' copies and read none of them: the kernel lets nobody trace such a process.
    # The server of libfuse 2 is squashfuse2.
    modes = "cd /usr/lib/bollard; server=$(ls -d squashfuse squashfuse2 2> /dev/null); "
    modes += "stat -c %a bollard-keeper bollard-cat $server mksquashfs | sort -u; cat $server"
    done = cluster.exec(modes, node="n1")
    assert done.out == "711\n" and "Permission denied" in done.err, done
    assert good(cluster.srun("-w", "n1", f"--container={images.small}", "sh", "-c", WHERE)) == "inside\n"
    for done in everywhere(cluster, "dpkg --remove bollard-slurm"):
        assert done.rc == 0, done
    assert cluster.exec(["test", "-e", LINE], node="n1").rc == 1
    assert good(cluster.srun("-w", "n1", "true")) == ""
    assert good(cluster.exec(inside, node="n1")) == "inside\n"


def test_installed_again_a_package_mends_the_tree(
    cluster: Cluster, versions: list[Packages], before: dict[str, set[str]]
) -> None:
    """A file that is gone, one that was changed, and one that is closed: `site check` names this cure."""
    install(cluster, versions[0])
    spoil = (
        "cd /usr/lib/bollard && rm python/bollard/runtime/errors.*; echo >> python/bollard/mpi/errors.py; "
        "chmod 600 spank_bollard.so; chown alice bollard-enter"
    )
    good(cluster.exec(spoil, node="n1", user="root"))
    done = cluster.exec("bollard --version", node="n1")
    assert done.rc == 255 and "install" in done.err and len(done.complaints()) == 1, done
    install(cluster, versions[0])
    assert [text for text, state in states(cluster, "n1").items() if state == "failure"] == []


def test_a_new_squashfuse_is_copied(
    cluster: Cluster, images: Images, versions: list[Packages], before: dict[str, set[str]]
) -> None:
    """dpkg triggers the exchange when a package replaces a program of which the tree has a copy."""
    install(cluster, versions[0], "bollard_*")
    tree = good(cluster.exec("readlink /usr/lib/bollard", node="n1"))
    # The same program with one byte more, as of an update; dpkg-trigger is what unpacking that path calls.
    program = good(cluster.exec("command -v squashfuse_ll || command -v squashfuse", node="n1")).strip()
    good(cluster.exec(f"cp -p {program} /root/kept; echo >> {program}", node="n1", user="root"))
    try:
        done = cluster.exec(f"dpkg-trigger --by-package=squashfuse {program}; dpkg --configure --pending", "n1", "root")
        assert done.rc == 0 and "exchanged /usr/lib/bollard" in done.out, done
        assert good(cluster.exec("readlink /usr/lib/bollard", node="n1")) != tree
        assert "ok" in {state for text, state in states(cluster, "n1").items() if text.startswith("squashfuse: ")}
    finally:
        good(cluster.exec(f"mv /root/kept {program}", node="n1", user="root"))


def test_a_mistake_in_the_settings(
    cluster: Cluster, versions: list[Packages], before: dict[str, set[str]]
) -> None:
    """An upgrade with a bollard.yaml that has a mistake keeps the settings before, and says so."""
    install(cluster, versions[0], "bollard_*")
    yaml = "/etc/bollard/bollard.yaml"
    good(cluster.exec(f"echo 'images-allowed: [/images]' >> {yaml}; bollard site configure > /dev/null", "n1", "root"))
    good(cluster.exec(f"echo 'image: x' >> {yaml}", "n1", "root"))
    done = cluster.exec(f"dpkg --force-confold -i {versions[1].path}/bollard_*.deb", "n1", "root")
    assert done.rc == 0 and "settings before stay in force" in done.out and 'no key is called "image"' in done.out, done
    refused = cluster.exec("bollard exec /usr/lib/bollard/check.sqfs /bin/probe", "n1")
    assert refused.rc == 255 and "this site" in refused.err, refused
