# SPDX-License-Identifier: BSD-3-Clause
"""Compares `bollard plan` with /proc/self/mountinfo and /proc/self/ns in the containers of srun and `bollard exec`.

Every planned mount is there with its flags, or is reported as left out. There is no other mount.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import drivers
import pytest
from cluster import Cluster, Images, Result, Work, good

# What a step has besides: plugstack.conf names SlurmdSpoolDir to the plugin alone.
SPOOL = {
    "kind": "bind", "source": "/var/spool/slurmd", "target": "/var/spool/slurmd", "read_only": False, "noexec": False,
    "devices": False, "if_missing": "omit", "only": "", "if_free": False,
    "copied": False,
}  # fmt: skip
SPOOL_TEXT = "/var/spool/slurmd  from  /var/spool/slurmd  (if there)"
NODE = "n1"

# Name: options; {W} is a directory of the user's, with directories a, a/in, b, layer, read and files f, layer.img.
SETS = {
    "nothing": "",
    "bind": "--bind {W}/a:/srv/a",
    "bind read-only": "--bind {W}/a:/srv/a:ro",
    "bind a file": "--bind {W}/f:/srv/f",
    "bind at the top": "--bind {W}/a:/data",
    "bind deep": "--bind {W}/a:/new/place/for/it",
    "bind over the image": "--bind {W}/a:/usr/share",
    "bind through a link": "--bind {W}/a:/var/run/a",
    "bind /usr": "--bind /usr:/srv/usr:ro",
    "nested": "--bind {W}/a:/srv/a,{W}/b:/srv/a/in",
    "nested, inner first": "--bind {W}/b:/srv/a/in,{W}/a:/srv/a",
    "twice at one place": "--bind {W}/a:/srv/a,{W}/b:/srv/a",
    "mount": "--mount type=bind,src={W}/a,dst=/srv/a,ro",
    "noexec": "--mounts {W}/a:/srv/a:ro+noexec",
    "bind alone": "--mounts /sys:/srv/sys:bind",
    "nofail": "--mounts {W}/nope:/srv/a:nofail,{W}/a:/srv/b",
    "tmpfs": "--mounts tmpfs:/srv/t:size=2m",
    "tmpfs noexec": "--mounts tmpfs:/srv/t:noexec+mode=0700",
    "bind in tmpfs": "--mounts tmpfs:/srv/t,{W}/f:/srv/t/deep/f,{W}/a:/srv/t/a",
    "umount": "--mounts umount:/tmp,umount:/var/tmp",
    "umount of files": "--mounts umount:/etc,{W}/f:/etc/hosts",
    "umount of all of /run": "--mounts umount:/run",
    "user files": "--bind {W}/f:/etc/passwd,{W}/f:/etc/resolv.conf",
    "contain": "--contain",
    "contain, workdir": "--contain --workdir {W}/b",
    "contain, bind /dev/shm": "--contain --bind /dev/shm",
    "containall": "--containall",
    "compat": "--compat",
    "pid": "--pid",
    "no proc": "--no-mount proc --bind /proc:/srv/proc",
    "no sys": "--no-mount sys",
    "no dev": "--no-mount dev",
    "no tmp, home, cwd": "--no-mount tmp,home,cwd",
    "no /tmp": "--no-mount /tmp",
    "no hosts": "--no-mount hosts,localtime,resolv.conf",
    "no bind-paths": "--no-mount bind-paths",
    "contain, no devpts": "--contain --no-mount devpts",
    "no home": "--no-home",
    "another home": "--home {W}/a",
    "another home elsewhere": "--home {W}/a:/home/other",
    "a home in memory": "--contain --home {W}/a:/srv/home",
    "scratch": "--scratch /srv/one,/two",
    "scratch, workdir": "--scratch /srv/one --workdir {W}/b",
    "pwd": "--pwd /usr",
    "writable-tmpfs": "--writable-tmpfs",
    "writable-tmpfs, bind": "--writable-tmpfs --bind {W}/a:/new/a,{W}/f:/new/f",
    "overlay directory": "--overlay {W}/layer",
    "overlay read-only": "--overlay {W}/read:ro",
    "overlay ext3": "--overlay {W}/layer.img --bind {W}/a:/new/a",
    "overlay ext3 by hand": "--overlay {W}/other.img --bind {W}/a:/new/a",
    "overlays": "--overlay {W}/read:ro --writable-tmpfs",
    "fakeroot": "--fakeroot",
    "fakeroot that writes": "--fakeroot --writable-tmpfs",
    "net": "--net",
    "ipc": "--ipc",
    "uts": "--uts",
    "hostname": "--hostname there",
    "all namespaces": "--unshare net,ipc,uts --pid --hostname there",
    "dns": "--dns 127.0.0.1,::1",
    "nv": "--nv",
    "nv, contain": "--nv --contain",
    "rocm": "--rocm",
    "no slurm": "--no-slurm",
    "many": "--contain --net --hostname there --dns 127.0.0.1 --writable-tmpfs --scratch /s --bind {W}/a:/a:ro",
}

# Only one container at a time can write to an ext3 file, and a step's container can stay until the end of its job.
FRONTS = {"overlay ext3": ["srun"], "overlay ext3 by hand": ["exec"]}


class Entry(NamedTuple):
    """A line of /proc/PID/mountinfo (proc(5))."""

    device: str
    root: str
    point: str
    flags: frozenset[str]
    filesystem: str
    options: str


def entries(text: str) -> list[Entry]:
    found = []
    for line in text.splitlines():
        mount, _, filesystem = line.partition(" - ")
        words, kind = mount.split(" "), filesystem.split(" ")
        root, point = (word.replace("\\040", " ") for word in words[3:5])
        found.append(Entry(words[2], root, point, frozenset(words[5].split(",")), kind[0], kind[-1]))
    return found


def below(path: str, parent: str) -> bool:
    return path == parent or path.startswith(parent.rstrip("/") + "/")


class Look(NamedTuple):
    """The state of a container, read inside, and bollard's verbose output about it."""

    mounts: list[Entry]
    uid_map: str
    namespaces: dict[str, str]
    links: dict[str, str]
    name: str
    writable: bool
    told: list[str]

    def about(self, word: str) -> list[str]:
        """The lines of bollard's output that begin with `word`, without it."""
        return [line[len(word) + 2 :] for line in self.told if line.startswith(f"{word}: ")]


def look(done: Result) -> Look:
    mounts, uid_map, namespaces, links, name, *written = (part.strip() for part in done.out.split("==\n"))
    told = [line.split(": ", 2)[2] for line in done.err.splitlines() if line.startswith(f"bollard: {NODE}: ")]
    return Look(
        entries(mounts),
        uid_map,
        {line.split(":")[0]: line for line in namespaces.split()},
        {line.split(" ")[0]: line.partition(" ")[2] for line in links.splitlines()},
        name,
        "writable" in "".join(written),
        told,
    )


class Host:
    """The mounts of the node."""

    def __init__(self, text: str) -> None:
        self.mounts = entries(text)

    def place(self, path: str) -> tuple[str, str, frozenset[str]]:
        """(device, path in the filesystem, flags of the mount) of a path without links."""
        of = [mount for mount in self.mounts if below(path, mount.point)]
        last = max(enumerate(of), key=lambda pair: (len(pair[1].point), pair[0]))[1]
        rest = path[len(last.point.rstrip("/")) :]
        return last.device, (last.root.rstrip("/") + rest) or "/", last.flags

    def inside(self, path: str) -> list[str]:
        """The mount points below a directory, relative to it."""
        return [mount.point[len(path.rstrip("/")) :] for mount in self.mounts if below(mount.point, path)]


FILESYSTEMS = {"tmpfs": "tmpfs", "file": "tmpfs", "proc": "proc", "devpts": "devpts", "mqueue": "mqueue"}
LINKS = {"/var/run": "/run"}  # of the image


def resolved(target: str) -> str:
    for link, place in LINKS.items():
        if below(target, link):
            return place + target[len(link) :]
    return target


def flags_of(mount: dict[str, Any], host_flags: frozenset[str]) -> tuple[set[str], set[str]]:
    """(flags that the mount must have, flags that it may have); flags of the host's mount are locked."""
    must = {"nosuid"}
    must |= set() if mount.get("devices") or mount["kind"] == "devpts" else {"nodev"}
    must |= {"ro"} if mount["read_only"] else set()
    must |= {"noexec"} if mount["noexec"] else set()
    return must, must | (host_flags & {"ro", "noexec", "nodev"})


def differences(plan: dict[str, Any], seen: Look, host: Host, real: dict[str, str], base: dict[str, Any]) -> list[str]:
    """One line for each difference between the container and its plan."""
    wrong = []
    left_out = Counter(line.split(": ")[0] for line in seen.about("left out"))
    remaining = list(seen.mounts)
    trees: list[tuple[str, str]] = []  # (target, source) of binds, for the mounts below them
    for mount in plan["mounts"]:
        target = mount["target"]
        if mount["kind"] == "link":
            if seen.links.get(target) != mount["source"]:
                wrong.append(f"link {target}: {seen.links.get(target)}")
            continue
        if mount["copied"]:
            continue  # a copy needs no mount, and a mount there is not planned
        may_go = mount["if_missing"] != "refuse" or mount["only"] or mount["if_free"]
        if left_out[target] and may_go:
            left_out[target] -= 1
            continue
        source = real.get(mount["source"], mount["source"])
        here = [entry for entry in remaining if entry.point == resolved(target)]
        host_flags: frozenset[str] = frozenset()
        if mount["kind"] == "bind":
            device, root, host_flags = host.place(source)
            here = [entry for entry in here if (entry.device, entry.root) == (device, root)]
            trees.append((resolved(target), source))
        else:
            here = [entry for entry in here if entry.filesystem == FILESYSTEMS[mount["kind"]]]
        must, may = flags_of(mount, host_flags)
        fits = [entry for entry in here if must <= entry.flags and entry.flags & {"ro", "noexec", "nodev"} <= may]
        if fits:
            remaining.remove(fits[0])
        else:
            wrong.append(f"planned, and not there: {mount} (at its place: {here})")
    wrong += [f"told as left out, and not planned: {target}" for target in left_out.elements()]
    wrong += unplanned(plan, remaining, seen.about("covered"), host, trees)
    return wrong + about_namespaces(plan, seen, base)


def unplanned(
    plan: dict[str, Any], remaining: list[Entry], covered: list[str], host: Host, trees: list[tuple[str, str]]
) -> list[str]:
    """One line for each mount that is neither planned nor reported."""
    wrong = []
    covers = [resolved(line.split("  ")[0]) for line in covered]
    image = {"fuse.squashfuse", "fuse.squashfuse_ll", "fuse"}
    above = {"overlay", "fuse.fuse-overlayfs"} if plan["layers"] else set()
    root = [entry for entry in remaining if entry.point == "/"]
    kinds = {"tmpfs"} if "/" in covers else above or image
    if len(root) != 1 or root[0].filesystem not in kinds or not {"nosuid", "nodev"} <= root[0].flags:
        wrong.append(f"root: {root}, not of {kinds}")
    elif ("ro" in root[0].flags or "ro" in root[0].options.split(",")) == plan["writable"]:
        wrong.append(f"root: {root}, writable: {plan['writable']}")
    for entry in remaining:
        if entry.point == "/":
            continue
        if any(
            entry.point[len(target) :] in host.inside(source) for target, source in trees if below(entry.point, target)
        ):
            continue  # a mount of the host below a bind
        if entry.point in covers and entry.filesystem in ("overlay", "tmpfs") and "ro" in entry.flags:
            covers.remove(entry.point)
            continue
        if "/" in covers and entry.filesystem in image and entry.root == entry.point and entry.point.count("/") == 1:
            continue  # an entry of the image's root below the cover of "/"
        wrong.append(f"not planned: {entry}")
    return wrong + [f"told as covered, and is not: {parent}" for parent in covers if parent != "/"]


def about_namespaces(plan: dict[str, Any], seen: Look, base: dict[str, Any]) -> list[str]:
    wrong = []
    planned = {namespace["name"]: namespace["setting"] for namespace in plan["namespaces"]}
    own = {name for name, here in seen.namespaces.items() if here != base["namespaces"][name]}
    if own != set(planned):
        wrong.append(f"namespaces {sorted(own)}, planned {sorted(planned)}")
    inside, outside, _ = seen.uid_map.split()
    if (inside, outside) != ("0" if planned["user"] == "root" else str(base["uid"]), str(base["uid"])):
        wrong.append(f"uid map {seen.uid_map}")
    if seen.name != (planned.get("uts") or NODE):
        wrong.append(f"host's name {seen.name}")
    if seen.writable != plan["writable"]:
        wrong.append(f"written to: {seen.writable}, planned: {plan['writable']}")
    return wrong


@pytest.fixture
def driver(cluster: Cluster) -> Iterator[None]:
    """Install a driver without a GPU (drivers.py)."""
    drivers.install(cluster, NODE)
    yield
    drivers.remove(cluster, NODE)


@pytest.fixture
def sets(cluster: Cluster, work: Work) -> dict[str, tuple[str, list[str]]]:
    """{name: (options, fronts)}: which of srun and exec use the options. Makes the files that the options name."""
    words = (
        "mkdir -p a/in b layer read/upper/opt root/upper root/work; echo x > f; "
        "for f in layer other; do /sbin/mkfs.ext3 -qd root $f.img 8m; done"
    )
    good(cluster.exec(words, cwd=work.path))
    return {name: (text.format(W=work.path), FRONTS.get(name, ["srun", "exec"])) for name, text in SETS.items()}


def test_what_is_planned_is_what_is_made(
    cluster: Cluster, images: Images, work: Work, sets: dict[str, tuple[str, list[str]]], driver: None
) -> None:
    probe = work.write("probe.py", (Path(__file__).parent / "plan_probe.py").read_text())
    work.write("sets", json.dumps(sets))
    command = f"python3 {probe} {images.small} {work.path}/sets {work.path}/found"
    job = cluster.ended(cluster.sbatch(f"#!/bin/sh\n{command}\n", work, "-w", NODE, f"--chdir={work.path}"), 400)
    assert job["JobState"] == "COMPLETED", work.read("job.out")
    base = json.loads(work.read("found"))
    host = Host(base["mounts"])
    wrong = {}
    for name, found in base["sets"].items():
        planned = Result(*found["plan"])
        assert (planned.rc, planned.err) == (0, ""), (name, planned)
        plan = json.loads(planned.out)
        for front, result in found["found"].items():
            done = Result(*result)
            if done.rc:
                wrong[f"{name}, {front}"] = [str(done)]
                continue
            seen = look(done)
            begin = next(number for number, line in enumerate(seen.told, 1) if line.startswith("image "))
            told = seen.told[begin : begin + len(plan["text"])]
            mounts = plan["mounts"]
            if front == "srun":
                mounts = [*mounts, SPOOL]
                told = [line for line in seen.told[begin : begin + len(plan["text"]) + 1] if line != SPOOL_TEXT]
            differs = differences({**plan, "mounts": mounts}, seen, host, found["sources"], base)
            if told != plan["text"]:
                differs.append(f"told: {told}, planned: {plan['text']}")
            if differs:
                wrong[f"{name}, {front}"] = differs
    assert len(base["sets"]) >= 40
    assert not wrong, json.dumps(wrong, indent=1)
