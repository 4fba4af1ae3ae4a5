# SPDX-License-Identifier: BSD-3-Clause
"""The plan: what is mounted where, in which order, for what was asked."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bollard.runtime.errors import BollardError
from bollard.runtime.request import plan, plan_records, site
from bollard.runtime.request.binds import NOEXEC, READ_ONLY, SHALLOW, UMOUNT
from bollard.runtime.request.site import Site
from bollard.runtime.request.spec import Spec


def made(facts: plan.Facts | None = None, **wishes) -> tuple[plan_records.Mount, ...]:
    return plan.make(Spec("/i.sif", **wishes), facts).mounts


def targets(facts: plan.Facts | None = None, **wishes) -> list[str]:
    return [mount.target for mount in made(facts, **wishes)]


def test_files_that_packages_replace_are_copied():
    def copied(overlays=(), **wishes) -> set[str]:
        facts = plan.Facts(directory=True, overlays=tuple(plan_records.DIRECTORY for _ in overlays))
        made = plan.make(Spec("/i.sif", overlays=overlays, **wishes), facts)
        return {mount.target for mount in made.mounts if mount.copied}

    accounts, replaced = {"/etc/passwd", "/etc/group"}, {"/etc/localtime", "/etc/hosts", "/etc/resolv.conf"}
    assert copied(fakeroot=True) == copied(writable_tmpfs=True) == set()
    assert copied(fakeroot=True, writable_tmpfs=True) == accounts | replaced
    # These would stay in the user's own layer.
    assert copied(fakeroot=True, writable=True) == copied(fakeroot=True, overlays=(("/o", False),)) == accounts
    assert copied(fakeroot=True, overlays=(("/o", True),)) == set()
    assert copied(fakeroot=True, writable=True, binds=(("/mine", "/etc/passwd", 0),)) == {"/etc/group"}


def test_the_standard_plan():
    facts = plan.Facts(spool="/var/spool/slurmd", prefix="/usr/lib/bollard")
    found = plan.make(Spec("/i.sif", cwd="/scratch/job", home="/home/u", home_source="/home/u"), facts)

    assert [mount.target for mount in found.mounts] == [
        "/proc", "/sys", "/dev", "/etc/localtime", "/etc/hosts", "/home/u", "/tmp", "/var/tmp", "/var/spool/slurmd",
        "/scratch/job", "/etc/passwd", "/etc/group", "/etc/resolv.conf", "/etc/slurm", "/run/munge", "/usr/lib/bollard",
    ]  # fmt: skip
    assert all(mount.source == mount.target for mount in found.mounts if mount.kind == plan_records.BIND)
    assert found.namespaces == (plan_records.Namespace("user", "own ids"), plan_records.Namespace("mnt"))
    assert (found.layers, found.writable, found.owned, found.directories) == ((), False, False, ())


@pytest.mark.parametrize("wishes", [{}, {"contain": True}, {"no_mount": ("dev",)}], ids=str)
def test_a_private_shm(wishes):
    found = [mount for mount in made(shm_size="64m", **wishes) if mount.target == "/dev/shm"]
    assert [(mount.kind, mount.source) for mount in found] == [(plan_records.TMPFS, "mode=1777,size=64m")]
    assert targets(shm_size="64m").index("/dev") < targets(shm_size="64m").index("/dev/shm")
    assert "/dev/shm" not in targets() and "/dev/shm" not in targets(shm_size="1g", no_mount=("/dev/shm",))


@pytest.mark.parametrize("wishes", [{"writable_tmpfs": True}, {"overlays": (("/o", False),)}])
def test_no_mount_point_for_the_zone_is_left_in_a_root_that_is_written_to(wishes):
    (zone,) = [mount for mount in made(**wishes) if mount.target == "/etc/localtime"]
    assert zone.only == plan_records.HAS_TARGET


def test_what_must_be_there_and_what_may_be_written():
    found = {mount.target: mount for mount in made(home="/home/u", home_source="/home/u")}

    assert found["/proc"].if_missing == found["/dev"].if_missing == plan_records.REFUSE
    assert found["/dev"].devices
    for target in ("/etc/localtime", "/etc/hosts", "/etc/passwd", "/etc/group", "/etc/resolv.conf"):
        assert found[target].read_only and found[target].if_missing == plan_records.OMIT
    assert not found["/etc/localtime"].only, "local time is the host's in each image, as with Apptainer"
    assert found["/etc/localtime"].over_link
    assert not found["/etc/hosts"].only, "an image without one could not find Slurm's controller"
    for target in ("/home/u", "/tmp", "/sys"):
        assert not found[target].read_only and found[target].if_missing == plan_records.WARN
    assert found["/etc/slurm"].only == plan_records.HAS_SLURM


def test_binds_come_after_what_they_may_cover():
    found = made(home="/home/u", binds=(("/a", "/tmp/a", 0), ("/b", "/b/", READ_ONLY | NOEXEC | SHALLOW)))
    order = [mount.target for mount in found]

    assert found[order.index("/tmp/a")] == plan_records.Mount(plan_records.BIND, "/a", "/tmp/a", asked=True)
    assert found[order.index("/b")] == plan_records.Mount(
        plan_records.BIND, "/b", "/b", read_only=True, noexec=True, shallow=True, asked=True
    )
    assert order.index("/tmp") < order.index("/tmp/a") < order.index("/etc/passwd")


@pytest.mark.parametrize(
    ("asked", "order"),
    [
        (["/c/dir", "/c"], ["/c", "/c/dir"]),
        (["/a/b/c/", "/a/b", "/x", "/a"], ["/x", "/a", "/a/b", "/a/b/c"]),
        (["/b", "/a"], ["/b", "/a"]),
        (["/a/b", "umount:/a", "/a"], ["/a"]),
        (["/a", "umount:/a/b", "/a/b"], ["/a", "/a/b"]),
    ],
)
def test_an_outer_bind_comes_before_an_inner_one(asked, order):
    binds = tuple(("", word[7:], UMOUNT) if word.startswith("umount:") else ("/s", word, 0) for word in asked)

    assert [mount.target for mount in made(binds=binds) if mount.asked] == order


def test_an_outer_mount_of_the_site_comes_before_an_inner_one():
    order = targets(plan.Facts(Site(mounts=(("/s/x", "/s/x", 0), ("/s", "/s", 0)))))

    assert order.index("/s") < order.index("/s/x")


def test_no_home_and_a_home_elsewhere():
    assert "/home/u" not in targets()
    elsewhere = plan_records.Mount(plan_records.BIND, "/scratch/u", "/home/u", if_missing=plan_records.WARN)
    assert elsewhere in made(home="/home/u/", home_source="/scratch/u")
    assert plan_records.Mount(plan_records.TMPFS, "mode=0700", "/home/u") in made(home="/home/u")


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
    found = targets(cwd=cwd, home="/home/u", binds=(("/elsewhere", "/bound", 0),))

    assert (cwd in found[found.index("/var/tmp") + 1 :]) is bound


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
    found = targets(cwd=cwd, home=home, binds=(("/elsewhere", bind, 0),))
    own = found[found.index("/var/tmp") + 1 : found.index("/etc/passwd") - 1]

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
    found = targets(plan.Facts(real_cwd=real), cwd=cwd, home="/home/u", home_source="/home/u")

    assert found[found.index("/var/tmp") + 1 : found.index("/etc/passwd")] == bound


def test_the_hosts_slurm_is_all_in_one_directory():
    facts = plan.Facts(tools="/usr/lib/bollard/inside/bin", places=("/usr", "/etc", "/run/munge"))
    found = made(facts)

    assert [(mount.source, mount.target) for mount in found[-4:]] == [
        ("/usr", "/run/bollard/usr"),
        ("/etc", "/run/bollard/etc"),
        ("/run/munge", "/run/bollard/run/munge"),
        ("/usr/lib/bollard/inside/bin", "/run/bollard/bin"),
    ]
    assert all(mount.read_only and mount.shallow and mount.if_missing == plan_records.OMIT for mount in found[-4:])
    assert made(facts, no_slurm=True) == made()


@pytest.mark.parametrize(
    ("path", "parent", "result"),
    [("/a/b", "/a", True), ("/a", "/a", True), ("/ab", "/a", False), ("/a", "/", True), ("/a", "/a/b", False)],
)
def test_below(path, parent, result):
    assert plan_records.below(path, parent) is result


@pytest.mark.parametrize(
    ("words", "spool"),
    [
        ("spool=/var/spool/slurmd", "/var/spool/slurmd"),
        ("other=1 spool=/var/spool/%n/%h", "/var/spool/n1/n1"),
        ("spool=", ""),
        ("", ""),
    ],
)
def test_the_spool_directory(words, spool):
    assert site.spool_directory(words, "n1", Site()) == spool


def test_the_description_has_a_line_for_each():
    asked = Spec("/i.sif", home="/home/u", unshare=("uts",), hostname="there", writable_tmpfs=True, contain=True)
    found = plan.make(asked)
    lines = found.lines()

    assert len(lines) == len(found.namespaces) + len(found.layers) + len(found.mounts)
    for line in (
        "namespace  user  (own ids)",
        "namespace  uts  (there)",
        "/  layer  memory  (written to)",
        "/dev/null  from  /dev/null  (devices, if there)",
        "/dev/shm  from  an empty directory in memory",
        "/dev/pts  from  own terminals  (noexec)",
        "/dev/fd  from  a link to /proc/self/fd",
        "/etc/passwd  from  passwd entry of the user  (read-only, if there)",
        "/etc/hostname  from  hostname file  (read-only, if there)",
    ):
        assert line in lines


def test_data_for_scripts():
    made = plan.make(Spec("/i.sif", overlays=(("/o", True),)), plan.Facts(overlays=(plan_records.EXT3,)))
    found: dict[str, Any] = made.data()

    assert found["namespaces"][0] == {"kind": "namespace", "name": "user", "setting": "own ids"}
    assert found["layers"] == [
        {"kind": "overlay", "filesystem": "ext3", "offset": 0, "read_only": True, "source": "/o"}
    ]
    assert found["mounts"][0] == {
        "kind": "bind", "source": "/proc", "target": "/proc", "read_only": False, "noexec": False, "devices": False,
        "shallow": False, "if_missing": "refuse", "only": "", "over_link": False, "if_free": False, "asked": False,
        "copied": False,
    }  # fmt: skip
    assert json.loads(json.dumps(found)) == found


def test_a_plan_does_not_change():
    found = plan.make(Spec("/i.sif"))
    for record, name in ((found, "mounts"), (found.mounts[0], "target"), (found.namespaces[0], "name")):
        with pytest.raises(AttributeError, match="a plan does not change"):
            setattr(record, name, "other")
    assert len({*found.mounts, *plan.make(Spec("/i.sif")).mounts}) == len(found.mounts)


@pytest.mark.parametrize("path", ["/etc/passwd", "/etc/group", "/etc/resolv.conf", "/etc/hostname"])
def test_what_the_user_binds_over_a_file_of_the_keeper_stays(path):
    found = made(binds=(("/mine", path + "/", 0),), hostname="other")

    assert [mount for mount in found if mount.target == path] == [
        plan_records.Mount(plan_records.BIND, "/mine", path, asked=True)
    ]


def test_a_host_name_has_its_file():
    assert plan_records.Mount(
        plan_records.FILE, "hostname", "/etc/hostname", read_only=True, if_missing=plan_records.OMIT
    ) in made(hostname="other")
    assert "/etc/hostname" not in targets()


def test_links_of_an_own_dev_are_apptainers():
    links = {mount.target: mount.source for mount in made(contain=True) if mount.kind == plan_records.LINK}
    assert links["/dev/ptmx"] == "/dev/pts/ptmx"
    assert links["/dev/stdin"] == "fd/0"


@pytest.mark.parametrize("word", ["dev", "/dev", "/dev/"])
def test_no_dev_is_no_part_of_it(word):
    assert not [target for target in targets(contain=True, no_mount=(word,)) if target.startswith("/dev")]


def test_words_that_name_no_mount_are_told():
    asked = Spec(image="/i", no_mount=("proc", "hom", "/x", "hostfs", "temp"))
    assert plan.make(asked).warnings == (
        "--no-mount hom,temp: no such mount; known are proc, sys, dev, devpts, tmp, home, cwd, hosts, localtime, "
        "resolv.conf, bind-paths, hostfs, and paths",
    )
    assert plan.make(Spec(image="/i", no_mount=("cwd", "resolv.conf"))).warnings == ()


def test_no_mount_leaves_what_is_asked_for_by_name():
    """It takes away what comes by itself, also a site's mount, and no bind of the user's."""
    facts = plan.Facts(Site(mounts=(("/site", "/site", 0), ("/x", "/x", 0))))
    found = targets(facts, no_mount=("/site/", "/x"), binds=(("/mine", "/x", 0),))
    assert "/site" not in found and found.count("/x") == 1


def test_umount_takes_away_all_that_comes_by_itself():
    facts = plan.Facts(tools="/t", places=("/usr",))
    binds = (("", "/etc/", UMOUNT), ("/mine", "/etc/hosts", 0), ("", "/run", UMOUNT), ("", "/tmp", UMOUNT))
    found = made(facts, binds=binds)

    assert [mount for mount in found if mount.target.startswith("/etc")] == [
        plan_records.Mount(plan_records.BIND, "/mine", "/etc/hosts", asked=True)
    ]
    assert not [mount for mount in found if mount.target.startswith(("/run", "/tmp"))]
    assert "/var/tmp" in [mount.target for mount in found]


def test_directories_below_the_workdir():
    found = plan.make(Spec("/i.sif", workdir="/w", scratch=("/s",), contain=True, home="/home/u"))
    assert found.directories == ("/w/scratch/s", "/w/tmp", "/w/var_tmp", "/w/home")
    sources = [mount.source for mount in found.mounts if mount.kind == plan_records.BIND and mount.source[:3] == "/w/"]
    assert sorted(sources) == sorted(found.directories)


def test_layers_in_their_order():
    facts = plan.Facts(
        image_layers=((plan_records.EXT3, 4096), (plan_records.SQUASHFS, 8192)), overlays=(plan_records.SQUASHFS,)
    )
    found = plan.make(Spec("/i.sif", overlays=(("/o", False),), writable_tmpfs=True), facts)

    assert found.layers == (
        plan_records.Overlay("/i.sif", plan_records.EXT3, True, 4096),
        plan_records.Overlay("/i.sif", plan_records.SQUASHFS, True, 8192),
        plan_records.Overlay("/o", plan_records.SQUASHFS, True),
        plan_records.Overlay("", plan_records.MEMORY, False),
    )
    assert found.writable and found.owned
    assert plan.make(Spec("/i.sif", writable=True), facts).layers[0] == plan_records.Overlay(
        "/i.sif", plan_records.EXT3, False, 4096
    )


@pytest.mark.parametrize(
    ("wishes", "facts", "reason"),
    [
        ({"writable": True}, {}, "is a file; --writable needs a directory"),
        (
            {"overlays": (("/a", False), ("/b", False))},
            {"overlays": (plan_records.EXT3, plan_records.DIRECTORY)},
            "more than one",
        ),
        (
            {"overlays": (("/a", False),), "writable_tmpfs": True},
            {"overlays": (plan_records.EXT3,)},
            "more than one layer",
        ),
    ],
)
def test_layers_that_cannot_be(wishes, facts, reason):
    with pytest.raises(BollardError, match=reason):
        plan.make(Spec("/i.sif", **wishes), plan.Facts(**facts))


def test_a_directory_can_be_written_to():
    found = plan.make(Spec("/i", writable=True), plan.Facts(directory=True))
    assert found.writable and not found.layers


def test_namespaces_in_the_order_of_joining():
    found = plan.make(Spec("/i.sif", unshare=("net", "uts", "pid"), hostname="there", fakeroot=True)).namespaces
    assert [(namespace.name, namespace.setting) for namespace in found] == [
        ("user", "root"), ("mnt", ""), ("net", ""), ("uts", "there"), ("pid", ""),
    ]  # fmt: skip
