#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Measure `pull docker://` of bollard and of Apptainer in turn, from a registry on this machine.

    bench/pulls.py [--runs 3] [--megabytes 380]

The image is made of the /usr of the tree of `make peers`, in four layers as `docker build` writes them (gzip). Each
run has an empty cache. Prints the medians and writes bench/results/sid-pull.json: seconds of wall time, the median
ratio of pairs, because the speed of the machine changes during a run, and the largest sum of the memory of all
processes of a run (RSS, so shared pages count once for each process).
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / place) for place in ("tests/peers", "tests/builds", "tests", ".dev")]

import servers  # noqa: E402
from tree import ROOT, Machine  # noqa: E402

LAYERS = 4
# Runs inside the tree, so that entering the tree is not measured.
_MEASURE = r"""
import os, shutil, subprocess, sys, threading, time
runs, uri = int(sys.argv[1]), sys.argv[2]
top = os.path.expanduser(f"~/pulls-{os.getpid()}")
page = os.sysconf("SC_PAGE_SIZE")

def memory(group):
    total = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as file:
                fields = file.read().rpartition(") ")[2].split()
            if int(fields[3]) == group:  # session
                total += int(fields[21]) * page
        except OSError:
            pass
    return total

def once(program):
    shutil.rmtree(top, ignore_errors=True)
    os.mkdir(top)
    cache = {"bollard": "BOLLARD_CACHEDIR", "apptainer": "APPTAINER_CACHEDIR"}[program]
    words = [program, "pull", "--no-https", f"{top}/img.sif", uri]
    begin = time.monotonic()
    child = subprocess.Popen(words, env={**os.environ, cache: f"{top}/cache"}, stdin=subprocess.DEVNULL,
                             stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
    peak = [0]
    def watch():
        while child.poll() is None:
            peak[0] = max(peak[0], memory(child.pid))
            time.sleep(0.1)
    watcher = threading.Thread(target=watch)
    watcher.start()
    said = child.communicate()[1]
    took = time.monotonic() - begin
    watcher.join()
    if child.returncode:
        sys.exit(f"{program}: {said.decode()}")
    size = os.path.getsize(f"{top}/img.sif")
    shutil.rmtree(top)
    return took, peak[0], size

for number in range(runs):
    found = {program: once(program) for program in ("bollard", "apptainer")[:: 1 if number % 2 else -1]}
    print(*(value for program in ("bollard", "apptainer") for value in found[program]), flush=True)
"""


def layout(place: Path, megabytes: int) -> Path:
    """An OCI layout with an image of about that size, unpacked."""
    files: list[list[str]] = [[] for _ in range(LAYERS)]
    left = megabytes << 20
    for folder, _, names in os.walk(ROOT / "usr"):
        for name in names:
            path = Path(folder, name)
            if left > 0 and not path.is_symlink() and path.is_file() and os.access(path, os.R_OK):
                left -= path.stat().st_size
                files[min(LAYERS - 1, LAYERS * left // (megabytes << 20) if left > 0 else 0)].append(
                    str(path.relative_to(ROOT))
                )
    entries, ids = [], []
    (place / "blobs/sha256").mkdir(parents=True)

    def blob(data: bytes, kind: str) -> dict[str, Any]:
        (place / "blobs" / servers.digest(data).replace(":", "/")).write_bytes(data)
        return servers.entry(data, kind)

    for names in files:
        (place / "names").write_text("\n".join(names))
        argv = ["tar", "-C", str(ROOT), "--owner=0", "--group=0", "-c", "-T", str(place / "names")]
        tar = subprocess.run(argv, stdout=subprocess.PIPE, check=True).stdout
        ids.append(f"sha256:{hashlib.sha256(tar).hexdigest()}")
        entries.append(blob(gzip.compress(tar, 6, mtime=0), "application/vnd.oci.image.layer.v1.tar+gzip"))
    config = {
        "architecture": servers.ARCH, "os": "linux", "config": {"Env": ["PATH=/usr/bin"]},
        "rootfs": {"type": "layers", "diff_ids": ids},
    }  # fmt: skip
    manifest = {
        "schemaVersion": 2, "mediaType": servers.OCI_MANIFEST, "layers": entries,
        "config": blob(json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json"),
    }  # fmt: skip
    notes = {"org.opencontainers.image.ref.name": "latest"}
    top = {**blob(json.dumps(manifest).encode(), servers.OCI_MANIFEST), "annotations": notes}
    (place / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (place / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [top]}))
    return place


def main() -> None:
    parser = argparse.ArgumentParser(description="what the conversion of an OCI image costs beside Apptainer")
    parser.add_argument("--runs", type=int, default=3, help="pairs; default: %(default)s")
    parser.add_argument("--megabytes", type=int, default=380, help="size of the image's files; default: %(default)s")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bollard-bench-") as made:
        top = Path(made)
        with servers.registry(servers.program(top), top / "registry") as registry:
            registry.push(layout(top / "layout", given.megabytes), "bench/image:v1")
            machine = Machine()
            try:
                words = ["python3", "-c", _MEASURE, str(given.runs), f"docker://{registry.host}/bench/image:v1"]
                done = subprocess.run(
                    machine.command(["env", "-i", "HOME=/home/peer", "PATH=/usr/local/bin:/usr/bin:/bin", *words]),
                    stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False,
                )  # fmt: skip
            finally:
                machine.stop()
    if done.returncode:
        sys.exit("bench: a pull failed")
    rows = [[float(word) for word in line.split()] for line in done.stdout.decode().splitlines()]
    ratios = sorted(row[0] / row[3] for row in rows)
    memory = {"bollard": max(row[1] for row in rows), "apptainer": max(row[4] for row in rows)}
    size = {"bollard": rows[0][2], "apptainer": rows[0][5]}
    found = {
        "bollard": round(statistics.median(row[0] for row in rows), 2),
        "apptainer": round(statistics.median(row[3] for row in rows), 2),
        "ratio": round(statistics.median(ratios), 3),
        "low": round(ratios[0], 3),
        "high": round(ratios[-1], 3),
        "memory": memory,
        "size": size,
        "pairs": [[row[0], row[3]] for row in rows],
    }
    (HERE / "results/sid-pull.json").write_text(json.dumps(found, indent=1) + "\n")
    took = f"bollard {found['bollard']} s, apptainer {found['apptainer']} s, ratio {found['ratio']}"
    print(f"pull of {given.megabytes} MB: {took}")
    for program in ("bollard", "apptainer"):
        print(f"{program}: {memory[program] / 1e6:.0f} MB of memory at most, an image of {size[program] / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
