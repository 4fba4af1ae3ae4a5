# SPDX-License-Identifier: BSD-3-Clause
"""Many pulls of one image at once: one download, one good entry in the cache, and nothing left over.

With Debian's docker-registry on the controller, behind a gate that stops a download half-way (registry_gate.py).
"""

from __future__ import annotations

import collections
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from cluster import CONTROLLER, Cluster, Result, Work, good, until

sys.path.append(str(Path(__file__).resolve().parents[1] / "builds"))
import servers

GATE = Path(__file__).with_name("registry_gate.py")
SHARED = "/home/bollard-test-pulls"
SIZE = 6 << 20  # bytes of random data in the image


class Gated(NamedTuple):
    """The registry's gate: its address, its folder, the directory with skopeo for the nodes."""

    host: str
    folder: Path

    @property
    def uri(self) -> str:
        return f"docker://{self.host}/tiny/one:v1"

    def downloads(self) -> set[int]:
        """How often each blob was asked for: {1} if each was fetched once."""
        lines = (self.folder / "log").read_text().splitlines()
        return set(collections.Counter(line.split()[1] for line in lines).values())

    def shut(self) -> None:
        for name in ("log", "half"):
            (self.folder / name).unlink(missing_ok=True)
        (self.folder / "shut").touch()

    def open(self) -> None:
        (self.folder / "shut").unlink(missing_ok=True)

    def wait_half(self) -> None:
        until((self.folder / "half").exists, "half of a blob")


@pytest.fixture(scope="module")
def gate(cluster: Cluster) -> Iterator[Gated]:
    address = re.search(r"inet (\S+)/", good(cluster.exec("ip -4 addr show eth0 || ip -4 addr", user="root")))
    assert address
    inside = ["nsenter", f"--net=/proc/{cluster.init(CONTROLLER)}/ns/net"]
    with tempfile.TemporaryDirectory(prefix="bollard-gate-") as made:
        top = Path(made)
        config = {
            "version": 0.1, "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": f"{top}/store"}}, "http": {"addr": "127.0.0.1:5000"},
        }  # fmt: skip
        (top / "config.yml").write_text(json.dumps(config))
        host = f"{address[1]}:5010"
        commands = [
            [servers.program(top), "serve", f"{top}/config.yml"],
            [sys.executable, str(GATE), host, "127.0.0.1:5000", made],
        ]
        with (top / "out").open("wb") as out:
            running = [subprocess.Popen([*inside, *words], stdout=out, stderr=out) for words in commands]
        try:
            layout = servers.layout(top / "layout", "one", more={"opt/random": os.urandom(SIZE)})
            argv = [*inside, "skopeo", "copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false"]
            argv += [f"oci:{layout}:latest", "docker://127.0.0.1:5000/tiny/one:v1"]
            until(lambda: subprocess.run(argv, capture_output=True).returncode == 0, (top / "out").read_text())
            yield Gated(host, top)
        finally:
            for process in running:
                process.kill()
                process.wait()


@pytest.fixture
def place(cluster: Cluster, work: Work) -> Work:
    """A directory with skopeo of this machine, which nodes of other releases run too, with its libraries."""
    found = shutil.which("skopeo")
    assert found
    said = subprocess.run(["ldd", found], capture_output=True, text=True, check=True).stdout
    folder, there = work.here / "programs", f"{work.path}/programs"
    folder.mkdir()
    for path in (found, *re.findall(r"(/\S+) \(0x", said)):
        shutil.copy(path, folder / ("skopeo.bin" if path == found else Path(path).name))
    loader = next(path.name for path in folder.iterdir() if path.name.startswith("ld-linux"))
    work.write(
        "programs/skopeo",
        f'#!/bin/sh\nd={there}\nexec $d/{loader} --library-path $d $d/skopeo.bin "$@"\n',
    )
    folder.chmod(0o755)
    return work


def environment(place: Work, cache: str = "") -> dict[str, str]:
    path = f"{place.path}/programs:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
    return {"PATH": path, "BOLLARD_CACHEDIR": cache or f"{place.path}/cache", "BOLLARD_NOHTTPS": "1"}


def litter(cache: Path) -> list[str]:
    return sorted(str(path) for path in (cache / "tmp").iterdir())


def pulls(gate: Gated, place: Work) -> list[str]:
    """The words of a step of sixteen tasks on four nodes that all pull the image; each has a file for its stderr."""
    name = f"{place.path}/$SLURM_PROCID"
    pull = f"bollard pull {name}.sif {gate.uri} 2> {name}.err"
    return ["-N4", "-n16", "--ntasks-per-node=4", "-O", "--wait=0", "--kill-on-bad-exit=0", "sh", "-c", pull]


def waiting(place: Work) -> int:
    """How many pulls have said that they wait for another."""
    text = "bollard: waiting for another process that fetches docker://"
    return sum(text in path.read_text() for path in place.here.glob("*.err"))


def fetching(cluster: Cluster) -> int:
    """The process that has started skopeo; 0 for none."""
    found = {
        int(Path(f"/proc/{process.pid}/stat").read_text().rpartition(") ")[2].split()[1])
        for node in cluster.nodes()[1:]
        for process in cluster.named(node, "ld-linux-x86-64")
    }
    assert len(found) < 2, found
    return found.pop() if found else 0


def same(place: Work, count: int) -> None:
    """All images that were written are the one in the cache, and nothing else was left."""
    cache = place.here / "cache/bollard"
    (kept,) = (cache / "oci-tmp").iterdir()
    wanted = hashlib.sha256(kept.read_bytes()).hexdigest()
    written = sorted(place.here.glob("*.sif"))
    assert len(written) == count, written
    assert {hashlib.sha256(path.read_bytes()).hexdigest() for path in written} == {wanted}
    assert litter(cache) == [] and not list(place.here.glob(".bollard-*"))


@pytest.mark.parametrize("policy", ["no policy", "a policy"])
def test_one_download_for_sixteen_pulls_on_four_nodes(
    cluster: Cluster, gate: Gated, place: Work, policy: str
) -> None:
    """One process fetches. The others wait, and say so in the job's stderr."""
    if policy == "a policy":
        (place.here / "home/.config/containers").mkdir(parents=True)
        text = '{"default": [{"type": "insecureAcceptAnything"}]}'
        (place.here / "home/.config/containers/policy.json").write_text(text)
    env = {**environment(place), "HOME": f"{place.path}/home"}
    gate.shut()
    try:
        with cluster.start(["srun", *pulls(gate, place)], cwd=place.path, env=env) as step:
            gate.wait_half()
            until(lambda: waiting(place) == 15, "those who wait")
            gate.open()
            assert good(step.result()) == ""
    finally:
        gate.open()
    assert gate.downloads() == {1}
    same(place, 16)


def test_the_one_that_fetches_is_killed(cluster: Cluster, gate: Gated, place: Work) -> None:
    """Another takes over, its skopeo has ended with it, and what it left is removed."""
    gate.shut()
    try:
        with cluster.start(["srun", *pulls(gate, place)], cwd=place.path, env=environment(place)) as step:
            gate.wait_half()
            until(lambda: waiting(place) == 15, "those who wait")
            killed = fetching(cluster)
            os.kill(killed, 9)
            until(lambda: fetching(cluster) not in (0, killed), "another that fetches")
            gate.open()
            step.result()
    finally:
        gate.open()
    assert max(gate.downloads()) == 2
    same(place, 15)


def test_a_full_disk(cluster: Cluster, gate: Gated, place: Work) -> None:
    """Each says which place is full; nothing is left there; with room it goes on."""
    small = "/mnt"
    good(cluster.exec(f"mount -t tmpfs -o size=4m,mode=1777 tmpfs {small}", node="n1", user="root"))
    try:
        pull = f"for i in 1 2 3; do bollard pull {place.path}/$i.sif {gate.uri} & done; wait"
        env = environment(place, f"{small}/cache")
        done: Result = cluster.exec(pull, node="n1", env=env)
        lines = done.complaints()
        assert len(lines) == 3 and all(f"no space left on {small}" in line for line in lines), done
        cache = cluster.path("n1", f"{small}/cache/bollard")
        assert litter(cache) == [] and not list((cache / "oci-tmp").iterdir()), litter(cache)
        assert not list(place.here.glob("*.sif")) and not list(place.here.glob(".bollard-*"))
        good(cluster.exec(f"mount -o remount,size=100m {small}", node="n1", user="root"))
        good(cluster.exec(pull, node="n1", env=env))
        assert len(list(place.here.glob("*.sif"))) == 3 and litter(cache) == []
    finally:
        good(cluster.exec(f"umount {small}", node="n1", user="root"))


def test_two_users_and_the_sites_cache(cluster: Cluster, gate: Gated, place: Work) -> None:
    """Root's fetch is killed half-way, and done again. Then pulls of two users on four nodes fetch nothing."""
    programs = f"{SHARED}.programs"  # bob cannot look into alice's home directory
    env = {**environment(place), "BOLLARD_CACHEDIR": "", "XDG_CACHE_HOME": "/tmp/pulls"}
    env["PATH"] = env["PATH"].replace(f"{place.path}/programs", programs)
    fill = ["bollard", "cache", "pull", "--shared", gate.uri]
    name = "/tmp/pulls/$SLURM_PROCID.sif"
    pull = f"mkdir -p -m 700 /tmp/pulls; bollard pull {name} {gate.uri} && sha256sum < {name}"
    words = ["srun", "-Q", "-N4", "-n8", "--ntasks-per-node=2", "-O", "sh", "-c", pull]
    try:
        good(cluster.exec(f"mkdir -m 755 {SHARED}; cp -r {place.path}/programs {programs}", user="root"))
        good(cluster.exec(f"sed -i s,{place.path}/programs,{programs}, {programs}/skopeo", user="root"))
        text = f"mkdir -p /etc/bollard; echo cache.shared: {SHARED} > /etc/bollard/bollard.yaml; bollard site configure"
        for node in cluster.nodes()[1:]:
            good(cluster.exec(text, node=node, user="root"))
        gate.shut()
        with cluster.start(fill, node="n1", user="root", env=env) as killed:
            gate.wait_half()
            os.kill(fetching(cluster), 9)
            assert killed.result().rc != 0
        gate.open()
        path = good(cluster.exec(fill, node="n1", user="root", env=env)).strip()
        cache = cluster.path("n1", SHARED)
        assert litter(cache) == [], "what the killed one had left is removed"
        (gate.folder / "log").unlink()
        for user in ("alice", "bob"):
            done = cluster.exec(words, user=user, env=env, cwd="/")
            assert (done.rc, len(done.out.splitlines())) == (0, 8), done
            (wanted,) = {line.split()[0] for line in done.out.splitlines()}
            assert wanted == hashlib.sha256(cluster.path("n1", path).read_bytes()).hexdigest()
            left = "ls -A /tmp/pulls/bollard/oci-tmp; rm -rf /tmp/pulls"
            assert good(cluster.exec(["srun", "-Q", "-N4", "sh", "-c", left], user=user, cwd="/")) == "", "no copies"
        assert not (gate.folder / "log").exists(), "a layer was fetched again"
    finally:
        gate.open()
        for node in cluster.nodes()[1:]:
            clean = f"rm -rf {SHARED} {programs} /tmp/pulls /etc/bollard; bollard site configure"
            cluster.exec(clean, node=node, user="root")
