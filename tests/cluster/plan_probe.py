# SPDX-License-Identifier: BSD-3-Clause
"""Runs on a node, in a job: plans each set of options, and makes a container by `srun` and by `bollard exec`.

    plan_probe.py IMAGE SETS OUT    SETS: JSON, {name: [options, fronts]}; OUT gets the results, as JSON

test_plan.py compares the results.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

# What a container looks like from inside. A container without /proc has the host's at /srv/proc.
LOOK = """
p=/proc/self; test -e $p || p=/srv/proc/self
cat $p/mountinfo; echo ==; cat $p/uid_map; echo ==
for n in user mnt net ipc uts pid; do readlink $p/ns/$n; done; echo ==
for f in /dev/fd /dev/stdin /dev/stdout /dev/stderr /dev/ptmx; do echo $f $(readlink $f); done; echo ==
uname -n; echo ==; if touch /opt/.new 2> /dev/null; then echo writable; fi
"""


def run(argv: list[str]) -> tuple[int, str, str]:
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def probe(image: str, text: str, fronts: list[str]) -> dict[str, object]:
    """The results for one set of options, with each of the `fronts` srun and exec."""
    words = shlex.split(text)
    planned = run(["bollard", "plan", "--json", *words, image])
    step = ["srun", "-Q", "-n1", "--mpi=none", "--overlap", f"--container={image}", "--container-verbose"]
    sources: dict[str, str] = {}
    if not planned[0]:
        mounts = json.loads(planned[1])["mounts"]
        sources = {each["source"]: os.path.realpath(each["source"]) for each in mounts if each["kind"] == "bind"}
    found = {}
    if "srun" in fronts:
        found["srun"] = run([*step, *([f"--container-opts={text}"] if text else []), "sh", "-c", LOOK])
    if "exec" in fronts:
        found["exec"] = run(["bollard", "exec", "--verbose", *words, image, "sh", "-c", LOOK])
    return {"plan": planned, "sources": sources, "found": found}


def main() -> None:
    image, sets, out = sys.argv[1:]
    with open(sets) as file:
        wanted = json.load(file)
    # Two at a time: each set has its own layer, so two sets never write to the same one.
    with ThreadPoolExecutor(2) as pool:
        found = dict(zip(wanted, pool.map(lambda each: probe(image, *each), wanted.values())))
    host = {name: os.readlink(f"/proc/self/ns/{name}") for name in ("user", "mnt", "net", "ipc", "uts", "pid")}
    with open("/proc/self/mountinfo") as file:
        mounts = file.read()
    with open(out, "w") as file:
        json.dump({"sets": found, "namespaces": host, "mounts": mounts, "uid": os.getuid()}, file)


main()
