#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Measure what a container costs on the test cluster: start, plugin alone, MPI. Host and container take turns.

    bench/run.py [start] [phases] [loaded] [mpi] [ranks] [--runs 25] [--suite bookworm]

start    time that the container adds from srun to the last rank's first instruction; 1 and 8 ranks on a node;
         cold: no earlier step of the job has used this image, and with 8 ranks nor has the pre-flight seen it;
         warm: an earlier step has
phases   the phases of a cold start, as --container-verbose prints them
loaded   the time that the plugin in plugstack.conf adds to a job without a container
mpi      latency of 100 000 round trips of 8 bytes, bandwidth of 10 000 messages of 1 MiB
ranks    a cold start with 1 to 8 ranks, beside `srun apptainer exec`; always on sid, the suite that has Apptainer

Prints a table and writes bench/results/SUITE-SECTION.json. The figures are medians of the differences of pairs, because
the speed of the machine changes during a run.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
CLUSTER = [sys.executable, str(HERE.parent / "slurm-test-cluster/cluster")]
HOME = "/home/alice"
SMALL = f"{HOME}/bench.sif"
GZIP = f"{HOME}/bench-gzip.sqfs"
PLUGSTACK = "/etc/slurm/plugstack.conf.d/bollard.conf"

Numbers = list[float]


def cluster(suite: str, *command: str, node: str = "ctl", user: str = "alice") -> str:
    done = subprocess.run(
        [*CLUSTER, "exec", "--suite", suite, "--node", node, "--user", user, "--", *command],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        sys.exit(f"bench: {' '.join(command)} on {node} ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout + "\n" + done.stderr


def shared(suite: str, path: str) -> Path:
    """Path on this machine of a file in the nodes' /home or /images."""
    name = os.environ.get("BOLLARD_CLUSTER", "")
    return Path(f"/var/lib/bollard-test-cluster/{name}{'.' if name else ''}{suite}{path}")


def made(suite: str, kind: str) -> str:
    """Path of the root tree of an image of that kind. Makes tree and SIF file (in /images) if they are missing."""
    images = [sys.executable, str(HERE.parent / "slurm-test-cluster/images"), "build", "--suite", suite, "--kind", kind]
    tree = subprocess.run(
        images, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=True
    ).stdout.strip()
    image = shared(suite, f"/images/{suite}-{kind}.sif")
    stamp = Path(f"{tree}.stamp")
    if not image.exists() or image.stat().st_mtime < stamp.stat().st_mtime:
        dev_tree = [sys.executable, str(HERE.parent / "tests/dev_tree.py")]
        checkout = subprocess.run(dev_tree, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
        program = "import sys; from bollard.runtime.cli.main import main; sys.exit(main(sys.argv[1:]))"
        build = [sys.executable, "-c", program, "build", "--force", str(image), tree]
        subprocess.run(build, env={**os.environ, "PYTHONPATH": checkout}, stdin=subprocess.DEVNULL, check=True)
        image.chmod(0o644)
    return tree


def prepare(suite: str) -> None:
    """Make what is missing: the cluster, the images, the MPI programs for the host.

    Alice's home gets the small image twice: built by bollard, and as Apptainer 1.4 builds it (gzip, blocks of 128 KiB).
    """
    subprocess.run([*CLUSTER, "up", "--suite", suite, "--plugin"], stdin=subprocess.DEVNULL, check=True)
    tree, image = made(suite, "small"), shared(suite, SMALL)
    made(suite, "mpi")
    if not image.exists():
        shutil.copy(shared(suite, f"/images/{suite}-small.sif"), image)
    if not shared(suite, GZIP).exists():
        subprocess.run(
            ["mksquashfs", tree, str(shared(suite, GZIP)), "-comp", "gzip", "-noappend", "-quiet", "-no-progress"],
            check=True,
        )
    shutil.copy(HERE / "inside.py", shared(suite, f"{HOME}/bench-inside.py"))
    for path in (SMALL, GZIP, f"{HOME}/bench-inside.py"):
        os.chown(shared(suite, path), 1000, 1000)
    for library, compiler in (("ompi", "mpicc.openmpi"), ("mpich", "mpicc.mpich")):
        source = "/usr/src/bollard/tests/programs/mpi_pingpong.c"
        cluster(suite, compiler, "-O2", "-o", f"{HOME}/{library}_pingpong", source)


def summary(plain: Numbers, other: Numbers) -> dict[str, float]:
    """Medians in ms of `plain`, `other` and their pairwise differences (`added`; quartiles `low`, `high`)."""
    added = [b - a for a, b in zip(plain, other)]
    low, _, high = statistics.quantiles(added, n=4)
    figures = {"plain": statistics.median(plain), "with": statistics.median(other), "added": statistics.median(added)}
    return {name: round(value, 2) for name, value in {**figures, "low": low, "high": high}.items()}


def show(title: str, figures: dict[str, float], wanted: str = "") -> None:
    print(
        f"  {title:<46} {figures['plain']:>8.1f} {figures['with']:>8.1f} {figures['added']:>8.1f}"
        f"   {figures['low']:>6.1f} to {figures['high']:.1f}   {wanted}"
    )


def heading(unit: str) -> None:
    print(f"  {'':<46} {'host':>8} {'with':>8} {'added':>8}   quartiles   wanted   ({unit})")


def bench_start(suite: str, runs: int) -> object:
    print("Time from srun to the last rank's first instruction, inside an allocation")
    heading("ms, medians")
    results = {}
    wanted = {("bollard", "cold"): "<= 25", ("bollard", "warm"): "<= 12", ("gzip", "cold"): "<= 45"}
    for ranks in (1, 8):
        for mode in ("cold", "warm"):
            ways = ["-w", "n1", "--", "-w", "n1", f"--container={SMALL}", "--", "-w", "n1", f"--container={GZIP}"]
            out = cluster(
                suite, "salloc", "-Q", "-n8", "-w", "n1",
                "python3", f"{HOME}/bench-inside.py", str(runs), str(ranks), mode, *ways,
            )  # fmt: skip
            plain, bollard, gzip = json.loads(out[out.index("[[") :].splitlines()[0])
            for name, times in (("bollard", bollard), ("gzip", gzip)):
                figures = summary(plain, times)
                results[f"{name} {mode} {ranks}"] = {**figures, "pairs": list(zip(plain, times))}
                show(f"{name} image, {mode}, ranks: {ranks}", figures, wanted.get((name, mode), ""))
    return results


def bench_phases(suite: str, runs: int) -> object:
    print("A cold start by phases, as --container-verbose tells it")
    found: dict[str, Numbers] = {}
    for _ in range(runs):
        out = cluster(suite, "srun", "-w", "n1", f"--container={SMALL}", "--container-verbose", "true")
        for name, value in re.findall(r"^bollard: n1: (.{15}) +([0-9.]+) ms", out, re.M):
            found.setdefault(name.strip(), []).append(float(value))
    medians = {name: round(statistics.median(values), 2) for name, values in found.items()}
    for name, value in medians.items():
        print(f"  {name:<46} {value:>8.2f} ms")
    return medians


def bench_loaded(suite: str, runs: int) -> object:
    print("A job without a container: the plugin in plugstack.conf, or not")
    heading("ms, medians")
    times: dict[bool, Numbers] = {True: [], False: []}
    moves = {True: (PLUGSTACK + ".off", PLUGSTACK), False: (PLUGSTACK, PLUGSTACK + ".off")}
    try:
        for turn in range(2 * runs + 2):
            loaded = turn % 2 == 1
            if turn:
                for node in ("ctl", "n1"):
                    cluster(suite, "mv", *moves[loaded], node=node, user="root")
            else:
                for node in ("ctl", "n1"):
                    cluster(suite, "mv", *moves[False], node=node, user="root")
            out = cluster(suite, "python3", f"{HOME}/bench-inside.py", "1", "1", "warm", "-Q", "-w", "n1")
            if turn >= 2:
                times[loaded].append(json.loads(out)[0][0])
    finally:
        for node in ("ctl", "n1"):
            cluster(
                suite, "sh", "-c", f"[ ! -e {PLUGSTACK}.off ] || mv {PLUGSTACK}.off {PLUGSTACK}", node=node, user="root"
            )
    figures = summary(times[False], times[True])
    show("plugin loaded, no --container", figures, "<= 2")
    return {**figures, "pairs": list(zip(times[False], times[True]))}


def mpi_figures(text: str) -> dict[str, float]:
    """The medians in the line of JSON that tests/programs/mpi_pingpong.c prints."""
    found = json.loads(re.findall(r"^\{.*\}$", text, re.M)[-1])
    return {kind: found[kind]["median"] for kind in ("latency_us", "bandwidth_mib_s")}


def bench_mpi(suite: str, runs: int) -> object:
    print("MPI between two ranks, 100 000 round trips of 8 bytes, 10 000 messages of 1 MiB")
    print(f"  {'':<32} {'host':>9} {'container':>9} {'ratio':>7}   pairs: {runs}")
    results: dict[str, object] = {}
    # One real CPU for each rank, because the simulated nodes share the CPUs of this machine.
    program = 'exec taskset -c "$SLURM_PROCID" "$0" 100000'
    for library, pmi in (("ompi", "pmix"), ("mpich", "pmi2")):
        for place, nodes in (("one node", "-N1"), ("two nodes", "-N2")):
            if library == "mpich" and nodes == "-N2":
                continue  # Debian 12's MPICH can hang there, also on the host: docs/mpi.md
            words = [nodes, "-n2", f"--mpi={pmi}", "--cpu-bind=none"]
            path = f"/opt/mpi/{library}_pingpong"
            pairs = []
            for _ in range(runs):
                host = cluster(suite, "srun", "-Q", *words, "sh", "-c", program, f"{HOME}/{library}_pingpong")
                inside = cluster(
                    suite, "srun", "-Q", *words, f"--container=/images/{suite}-mpi.sif", "sh", "-c", program, path
                )
                pairs.append([mpi_figures(text) for text in (host, inside)])
            for figure in pairs[0][0]:
                a, b = (statistics.median(pair[side][figure] for pair in pairs) for side in (0, 1))
                ratio = statistics.median(pair[1][figure] / pair[0][figure] for pair in pairs)
                print(f"  {library + ', ' + place + ', ' + figure:<32} {a:>9.2f} {b:>9.2f} {ratio:>7.3f}")
            results[f"{library} {place}"] = pairs
    return results


def bench_ranks(suite: str, runs: int) -> object:
    print("Time from srun to the last rank's first instruction: bollard and Apptainer, one gzip image")
    heading("ms, medians")
    add = [*CLUSTER, "add", "--suite", suite, "--node", "n1", "apptainer"]
    subprocess.run(add, stdin=subprocess.DEVNULL, check=True)
    results = {}
    for ranks in (1, 2, 4, 8):
        ways = ["-w", "n1", "--", "-w", "n1", f"--container={GZIP}", "--", "-w", "n1", "apptainer", "-q", "exec", GZIP]
        out = cluster(
            suite, "salloc", "-Q", "-n8", "-w", "n1",
            "python3", f"{HOME}/bench-inside.py", str(runs), str(ranks), "cold", *ways,
        )  # fmt: skip
        plain, bollard, apptainer = json.loads(out[out.index("[[") :].splitlines()[0])
        for name, times in (("bollard", bollard), ("apptainer", apptainer)):
            results[f"{name} {ranks}"] = {**summary(plain, times), "pairs": list(zip(plain, times))}
            show(f"{name}, ranks: {ranks}", summary(plain, times))
    return results


SECTIONS = {
    "start": bench_start, "phases": bench_phases, "loaded": bench_loaded, "mpi": bench_mpi, "ranks": bench_ranks,
}  # fmt: skip
# The suite of a section that needs what only this suite has.
SUITES = {"ranks": "sid"}


def main() -> None:
    parser = argparse.ArgumentParser(description="what a container costs on the test cluster")
    parser.add_argument("sections", nargs="*", help=", ".join(SECTIONS))
    parser.add_argument("--runs", type=int, default=25)
    parser.add_argument("--suite", default="bookworm")
    given = parser.parse_args()
    if unknown := set(given.sections) - set(SECTIONS):
        parser.error(f"no section {min(unknown)}; there are {', '.join(SECTIONS)}")
    prepared: set[str] = set()
    for name in given.sections or SECTIONS:
        suite = SUITES.get(name, given.suite)
        if suite not in prepared:
            prepare(suite)
            prepared.add(suite)
        runs = {"loaded": max(given.runs, 50), "mpi": min(given.runs, 5)}.get(name, given.runs)
        result = SECTIONS[name](suite, runs)
        target = HERE / "results" / f"{suite}-{name}.json"
        target.parent.mkdir(exist_ok=True)
        target.write_text(json.dumps(result, indent=1) + "\n")
        print(f"  -> {target.relative_to(HERE.parent)}\n")


if __name__ == "__main__":
    main()
