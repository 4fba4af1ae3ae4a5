# SPDX-License-Identifier: BSD-3-Clause
"""Thousands of steps, ended at any moment; crowds on one node; named containers that many steps share.

After each test the fixture `leftovers` (tests/cluster/conftest.py) has the last word: no process, mount, file or
socket more than before on any node, and every node in service without a reason.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest
from cluster import Cluster, Images, Running, Work, good, until

DRIVE = Path(__file__).with_name("drive.py")
# One allocation's steps; then it is given back, so that the ends of jobs are tried as well.
ROUND = 50
AT_ONCE = 4
ALLOCATION = ["-N4", "--ntasks-per-node=2"]
HOURS = 4 * 3600.0


class Ended(NamedTuple):
    """How one step ended."""

    rc: int
    out: str
    err: str
    how: str


def drive(cluster: Cluster, work: Work, allocation: list[str], words: list[str], commands: list[list[str]]) -> Running:
    """Start drive.py in an allocation of its own; `driven` has what came."""
    program = work.write("drive.py", DRIVE.read_bytes())
    given = work.write("commands.json", json.dumps(commands))
    return cluster.start(
        ["salloc", "-Q", *allocation, "bash", "-c", f'exec python3 "$@" < {given}', "bash", program, *words],
        cwd=work.path,
    )


def driven(running: Running, seconds: float = HOURS) -> list[Ended]:
    done = running.result(seconds)
    assert done.rc == 0, done
    return [Ended(*answer) for answer in json.loads(done.out)]


def no_defects(steps: list[Ended]) -> None:
    """Nobody hung, and what bollard said was meant for a user."""
    assert [step for step in steps if "still there" in step.how] == []
    assert [step for step in steps if "defect" in step.err or "Traceback" in step.err] == []
    assert [step for step in steps if "More processors" in step.err] == []  # or nothing was started


def a_step(chance: random.Random, image: str, number: int) -> list[str]:
    """A step on one to four nodes that would run for ever; each second one makes a container of its own."""
    nodes, tasks = chance.randint(1, 4), chance.randint(1, 2)
    words = [f"-N{nodes}", f"-n{nodes * tasks}", f"--container={image}"]
    if chance.random() < 0.5:
        words.append(f"--container-mounts=/tmp:/mnt/{number}")
    words += chance.choice([[], [], ["--container-writable"], ["--container-name=" + f"n{number % 7}"]])
    script = chance.choice(
        [
            "echo here; exec sleep 10000",
            "echo here; sleep 10000 & sleep 10000 & wait",
            "echo here; trap '' TERM; while :; do sleep 1; done",
            "echo here; while :; do ls -lR /usr > /dev/null; done",
        ]
    )
    return [*words, "sh", "-c", script]


def test_steps_are_cancelled_at_random_moments(
    cluster: Cluster, images: Images, work: Work, pytestconfig: pytest.Config, seed: int
) -> None:
    count, at = pytestconfig.getoption("--cancels"), 0
    chance = random.Random(seed)
    ways: Counter[str] = Counter()
    print(f"seed {seed}")
    while at < count:
        size = min(ROUND, count - at)
        commands = [a_step(chance, images.small, at + number) for number in range(size)]
        words = ["cancel", str(chance.randrange(1 << 32)), str(AT_ONCE)]
        with drive(cluster, work, ALLOCATION, words, commands) as running:
            steps = driven(running)
        no_defects(steps)
        assert [step for step in steps if step.rc == 0] == []
        ways.update(f"{step.how}, {'begun' if 'here' in step.out else 'not begun'}" for step in steps)
        at += size
    assert sum(ways.values()) == count
    print(dict(ways))
    if count >= 100:  # else it was no random moment
        assert any("not begun" in way for way in ways) and any(", begun" in way for way in ways), ways


def test_jobs_are_cancelled_while_steps_start(
    cluster: Cluster, images: Images, work: Work, pytestconfig: pytest.Config, seed: int
) -> None:
    """A twentieth as many whole jobs, each with some steps on their way."""
    chance = random.Random(seed)
    print(f"seed {seed}")
    for number in range(max(1, pytestconfig.getoption("--cancels") // 20)):
        commands = [a_step(chance, images.small, number * 10 + at) for at in range(4)]
        _cancelled_with(cluster, work, f"{work.path[-8:]}-{number}", commands, chance.randint(0, 3))


def _cancelled_with(cluster: Cluster, work: Work, name: str, commands: list[list[str]], wanted: int) -> None:
    """A job that is cancelled when `wanted` of its steps are on record, begun or not."""

    def steps() -> int:
        found = cluster.exec(["squeue", "-h", "-o", "%i", f"--name={name}"]).out.split()
        if not found:
            return -1
        return cluster.exec(["squeue", "-h", "-s", "-o", "%j", "-j", found[0]]).out.count("stress-")

    with drive(cluster, work, [*ALLOCATION, f"--job-name={name}"], ["crowd"], commands) as running:
        until(lambda: steps() >= wanted, f"{wanted} steps of {name}")
        good(cluster.exec(["scancel", "-Q", f"--name={name}"]))
        running.result(300)


def barrier(work: Work, number: int) -> str:
    """Shell that tells that it is there, and waits for all, or for the end of the test."""
    return f"echo > {work.path}/in-{number}; while test -d {work.path} -a ! -e {work.path}/go; do sleep 0.5; done"


def crowd(cluster: Cluster, work: Work, commands: list[list[str]]) -> tuple[int, list[Ended]]:
    """All steps at once on one node, each of which stops at its barrier: how many keepers there were then, and how the
    steps ended."""
    with drive(cluster, work, ["-N1", "-w", "n1"], ["crowd"], commands) as running:

        def all_are_there() -> bool:
            assert running.popen.poll() is None, running.result()
            return len(list(work.here.glob("in-*"))) == len(commands)

        until(all_are_there, f"{len(commands)} steps at once", 1800)
        keepers = len(cluster.named("n1", "bollard-keeper"))
        work.write("go", "")
        return keepers, driven(running)


def test_a_crowd_of_steps_of_many_images(
    cluster: Cluster, images: Images, work: Work, pytestconfig: pytest.Config
) -> None:
    """All at the same time on one node, each in the container of its image."""
    count, kinds = pytestconfig.getoption("--crowd"), pytestconfig.getoption("--crowd-images")
    for kind in range(kinds):
        good(cluster.exec(["cp", "--reflink=auto", images.small, f"{work.path}/i{kind}.sif"], seconds=600))
    commands = [
        ["-n1", f"--container={work.path}/i{number % kinds}.sif", "sh", "-c",
         f"{barrier(work, number)}; echo $APPTAINER_NAME $(cat /etc/debian_version)"]
        for number in range(count)
    ]  # fmt: skip
    version = good(cluster.srun("-n1", f"--container={images.small}", "cat", "/etc/debian_version")).strip()

    keepers, steps = crowd(cluster, work, commands)

    assert keepers == min(kinds, count)
    for number, step in enumerate(steps):
        assert (step.rc, step.out, step.err) == (0, f"i{number % kinds}.sif {version}\n", ""), step


def test_steps_share_named_containers(
    cluster: Cluster, images: Images, work: Work, pytestconfig: pytest.Config
) -> None:
    """All start at once, so that some make a container while others look for it; each sees what the others wrote."""
    count, names = pytestconfig.getoption("--named"), pytestconfig.getoption("--names")
    commands = [
        ["-n1", f"--container={images.small}", f"--container-name=lab{number % names}", "--container-writable", "sh",
         "-c", f"echo > /opt/{number}; {barrier(work, number)}; ls /opt | sort -n | tr '\\n' ' '"]
        for number in range(count)
    ]  # fmt: skip

    keepers, steps = crowd(cluster, work, commands)

    assert keepers == min(names, count)
    for number, step in enumerate(steps):
        shared = "".join(f"{other} " for other in range(count) if other % names == number % names)
        assert (step.rc, step.out, step.err) == (0, shared, ""), step
