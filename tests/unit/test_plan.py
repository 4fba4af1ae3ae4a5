# SPDX-License-Identifier: BSD-3-Clause
"""The plan: what is mounted where, in which order, for what was asked."""

from __future__ import annotations

import pytest

from bollard.runtime.request import plan
from bollard.runtime.request.site import Site
from bollard.runtime.request.spec import Spec


def targets(spool="", prefix="", **wishes) -> list[str]:
    return [target for _, target, _ in plan.make(Spec("/i.sif", **wishes), spool, prefix)]


def test_the_standard_plan():
    made = plan.make(
        Spec("/i.sif", cwd="/scratch/job", home="/home/u", home_source="/home/u"),
        "/var/spool/slurmd",
        "/usr/lib/bollard",
    )

    assert [(source, target) for source, target, _ in made] == [
        ("/proc", "/proc"),
        ("/sys", "/sys"),
        ("/dev", "/dev"),
        ("/etc/localtime", "/etc/localtime"),
        ("/etc/hosts", "/etc/hosts"),
        ("/home/u", "/home/u"),
        ("/tmp", "/tmp"),
        ("/var/tmp", "/var/tmp"),
        ("/var/spool/slurmd", "/var/spool/slurmd"),
        ("/scratch/job", "/scratch/job"),
        ("passwd", "/etc/passwd"),
        ("group", "/etc/group"),
        ("/etc/resolv.conf", "/etc/resolv.conf"),
        ("/etc/slurm", "/etc/slurm"),
        ("/run/munge", "/run/munge"),
        ("/usr/lib/bollard", "/usr/lib/bollard"),
    ]


def test_what_must_be_there_and_what_may_be_written():
    flags = {target: flags for _, target, flags in plan.make(Spec("/i.sif", home="/home/u"))}

    assert not flags["/proc"] & plan.OPTIONAL
    assert flags["/dev"] & plan.DEVICES
    for target in ("/etc/localtime", "/etc/hosts", "/etc/passwd", "/etc/group", "/etc/resolv.conf"):
        assert flags[target] & plan.READ_ONLY and flags[target] & plan.OPTIONAL
    assert flags["/etc/localtime"] & plan.IF_IN_IMAGE
    assert not flags["/etc/hosts"] & plan.IF_IN_IMAGE, "an image without one could not find Slurm's controller"
    for target in ("/home/u", "/tmp"):
        assert not flags[target] & plan.READ_ONLY
    assert flags["/etc/slurm"] & plan.IF_SLURM


def test_binds_come_after_what_they_may_cover():
    made = plan.make(Spec("/i.sif", home="/home/u", binds=(("/a", "/tmp/a", False), ("/b", "/b", True))))
    order = [target for _, target, _ in made]

    assert made[order.index("/tmp/a")] == ("/a", "/tmp/a", plan.ASKED)
    assert made[order.index("/b")] == ("/b", "/b", plan.READ_ONLY | plan.ASKED)
    assert order.index("/tmp") < order.index("/tmp/a") < order.index("/etc/passwd")


@pytest.mark.parametrize(
    ("asked", "order"),
    [
        (["/c/dir", "/c"], ["/c", "/c/dir"]),
        (["/a/b/c/", "/a/b", "/x", "/a"], ["/x", "/a", "/a/b", "/a/b/c/"]),
        (["/b", "/a"], ["/b", "/a"]),
        (["/a/b", "umount:/a", "/a"], ["/a"]),
        (["/a", "umount:/a/b", "/a/b"], ["/a", "/a/b"]),
    ],
)
def test_an_outer_bind_comes_before_an_inner_one(asked, order):
    binds = tuple(("", word[7:], plan.UMOUNT) if word.startswith("umount:") else ("/s", word, 0) for word in asked)
    made = plan.make(Spec("/i.sif", binds=binds))

    assert [target for _, target, flags in made if flags & plan.ASKED] == order


def test_an_outer_mount_of_the_site_comes_before_an_inner_one():
    made = plan.make(Spec("/i.sif"), here=Site(mounts=(("/s/x", "/s/x", 0), ("/s", "/s", 0))))
    order = [target for _, target, _ in made]

    assert order.index("/s") < order.index("/s/x")


def test_no_home_and_a_home_elsewhere():
    assert "/home/u" not in targets()
    assert ("/scratch/u", "/home/u") in [
        op[:2] for op in plan.make(Spec("/i.sif", home="/home/u", home_source="/scratch/u"))
    ]


@pytest.mark.parametrize(
    ("cwd", "bound"),
    [
        ("/scratch/x", True),
        ("/data", True),
        ("/optional", True),
        ("/usr/local/src", True),
        ("/", False),
        ("/usr", False),
        ("/opt", False),
        ("/lib64", False),
        ("/proc/1", False),
        ("/sys/fs", False),
        ("/dev/shm/x", False),
        ("/home/u", False),
        ("/home/u/deep/er", False),
        ("/home/user2", True),
        ("/tmp/x", False),
        ("/var/tmp", False),
        ("/bound/x", False),
    ],
)
def test_the_working_directory_is_bound_where_nothing_shows_it_yet(cwd, bound):
    made = targets(cwd=cwd, home="/home/u", binds=(("/elsewhere", "/bound", False),))

    assert (cwd in made[made.index("/var/tmp") + 1 :]) is bound


@pytest.mark.parametrize(
    ("cwd", "home", "bind", "bound"),
    [
        ("/home", "/home/u", "/elsewhere", True),  # the home's parent
        ("/data", "/home/u", "/data/set", True),  # a bind's parent
        ("/data/set", "/home/u", "/data/set", False),  # a bind's target
        ("/data/set", "/home/u", "/data/set/", True),  # the same; the bind comes later and so wins
        ("/data/set/x", "/home/u", "/data/set/", False),
        ("/data/set2", "/home/u", "/data/set", True),
        ("/home/u", "", "/data", True),  # --no-home
        ("/home/u/", "/home/u", "/data", False),
        ("/tmp/", "", "/data", False),
        ("/proc/", "", "/data", False),
        ("/usr/", "/home/u", "/data", False),
        ("//usr", "/home/u", "/data", False),
        ("/usr/.", "/home/u", "/data", False),
        ("/var/../usr", "/home/u", "/data", False),
        ("//", "/home/u", "/data", False),
    ],
)
def test_the_working_directory_beside_home_and_binds(cwd, home, bind, bound):
    made = targets(cwd=cwd, home=home, binds=(("/elsewhere", bind, False),))
    own = made[made.index("/var/tmp") + 1 : made.index(bind, made.index("/var/tmp"))]

    assert own == ([cwd] if bound else [])


@pytest.mark.parametrize(
    ("cwd", "real", "bound"),
    [
        ("/scratch/a", "/net/scratch/a", ["/net/scratch/a", "/scratch/a"]),
        ("/scratch/a", "/scratch/a", ["/scratch/a"]),
        ("/home/u/x", "/gpfs/u/x", ["/gpfs/u/x"]),  # the home is shown under its own name alone
        ("/scratch/a", "/home/u/x", ["/scratch/a"]),
        ("/scratch/a", "/usr", ["/scratch/a"]),
    ],
)
def test_the_working_directory_by_its_real_name_and_the_one_that_was_given(cwd, real, bound):
    made = [op[1] for op in plan.make(Spec("/i.sif", cwd=cwd, home="/home/u", home_source="/home/u"), real_cwd=real)]

    assert made[made.index("/var/tmp") + 1 : made.index("/etc/passwd")] == bound


def test_the_hosts_slurm_is_all_in_one_directory():
    host = {"tools": "/usr/lib/bollard/inside/bin", "places": ("/usr", "/etc", "/run/munge")}
    made = plan.make(Spec("/i.sif"), **host)

    assert [op[:2] for op in made[-4:]] == [
        ("/usr", "/run/bollard/usr"),
        ("/etc", "/run/bollard/etc"),
        ("/run/munge", "/run/bollard/run/munge"),
        ("/usr/lib/bollard/inside/bin", "/run/bollard/bin"),
    ]
    assert all(op[2] == plan.READ_ONLY | plan.OPTIONAL | plan.SHALLOW for op in made[-4:])
    assert plan.make(Spec("/i.sif", no_slurm=True), **host) == plan.make(Spec("/i.sif"))


@pytest.mark.parametrize(
    ("path", "parent", "result"),
    [("/a/b", "/a", True), ("/a", "/a", True), ("/ab", "/a", False), ("/a", "/", True), ("/a", "/a/b", False)],
)
def test_below(path, parent, result):
    assert plan.below(path, parent) is result


@pytest.mark.parametrize(
    ("site", "spool"),
    [
        ("spool=/var/spool/slurmd", "/var/spool/slurmd"),
        ("other=1 spool=/var/spool/%n/%h", "/var/spool/n1/n1"),
        ("spool=", ""),
        ("", ""),
    ],
)
def test_the_spool_directory(site, spool):
    assert plan.spool_directory(site, "n1") == spool


def test_the_description_has_a_line_for_each():
    made = plan.make(Spec("/i.sif", home="/home/u"))
    lines = plan.describe(made)

    assert len(lines) == len(made)
    assert "/dev  from  /dev  (devices)" in lines
    assert "/etc/passwd  from  passwd entry of the user  (read-only, if there)" in lines


@pytest.mark.parametrize("path", ["/etc/passwd", "/etc/group", "/etc/resolv.conf", "/etc/hostname"])
def test_what_the_user_binds_over_a_file_of_the_keeper_stays(path):
    made = plan.make(Spec("/i.sif", binds=(("/mine", path, 0),), hostname="other"))

    assert [source for source, target, _ in made if target == path] == ["/mine"]


def test_a_host_name_has_its_file():
    assert "/etc/hostname" in targets(hostname="other")
    assert "/etc/hostname" not in targets()


def test_links_of_an_own_dev_are_apptainers():
    made = {target: source for source, target, flags in plan.make(Spec("/i.sif", contain=True)) if flags & plan.LINK}
    assert made["/dev/ptmx"] == "/dev/pts/ptmx"
    assert made["/dev/stdin"] == "fd/0"
