# SPDX-License-Identifier: BSD-3-Clause
"""Workflow engines of PyPI for the nodes of the test cluster, each in a virtual environment of its own.

They are installed in a layer above the suite's tree, by its Python, and kept in $BOLLARD_ENGINES, else in
/var/cache/bollard-engines. All nodes see them in /images/engines/NAME.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pip

TOP = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TOP / "slurm-test-cluster"), str(TOP / "tests")]

import state  # noqa: E402
import suites  # noqa: E402
from building import machine_binds  # noqa: E402

CACHE = Path(os.environ.get("BOLLARD_ENGINES", "/var/cache/bollard-engines"))
PLACE = "/images/engines"
# The releases that were run when this table was written; a change here installs anew.
ENGINES = {
    "snakemake": ("snakemake==9.27.1", "snakemake-executor-plugin-slurm==2.8.0"),
    "cwltool": ("cwltool==3.3.20260925135507",),
    "miniwdl": ("miniwdl==1.16.0",),
    "reframe": ("ReFrame-HPC==4.10.4",),
    "spython": ("spython==0.3.14",),
    "toil": ("toil[cwl]==9.6.0",),
    "shpc": ("singularity-hpc==0.1.32",),
}
# In a layer above the suite's tree: an environment at `place`, filled by the pip of the one that runs the tests.
# Debian's own pip would need packages, whose installation waits for the cluster's.
_INSTALL = r"""
set -eu
tree=$1 layer=$2 pip=$3 place=$4; shift 4
mkdir -p "$layer/upper" "$layer/work" "$layer/root"
mount -t overlay -o "lowerdir=$tree,upperdir=$layer/upper,workdir=$layer/work" layer "$layer/root"
root=$layer/root
mount -t proc proc "$root/proc"
mount --bind /dev "$root/dev"
mount -t tmpfs tmp "$root/tmp"
mkdir "$root/tmp/pip"
cp -r "$pip" "$root/tmp/pip/pip"
exec chroot "$root" env -i PATH=/usr/bin:/bin HOME=/tmp LC_ALL=C.UTF-8 sh -euc '
python3 -m venv --without-pip "$0"
PYTHONPATH=/tmp/pip exec "$0/bin/python" -m pip --disable-pip-version-check --no-cache-dir install "$@"
' "$place" "$@"
"""


def install(suite: str, name: str) -> Path:
    """Install an engine for a suite, if it is not there as ENGINES has it; return its directory on this machine."""
    cluster = state.Cluster(suite)
    kept = CACHE / suite / name
    stamp = " ".join((suites.stamp(suite), *ENGINES[name]))
    kept.mkdir(parents=True, exist_ok=True)
    with open(CACHE / suite / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if suites.read(kept / ".stamp") == stamp:
            return kept
        suites.ensure_tree(cluster)
        layer, log = CACHE / suite / f"{name}.new", CACHE / suite / f"{name}.log"
        suites.remove_tree(layer)
        log.unlink(missing_ok=True)
        _settings(layer / "upper")
        words = [str(cluster.tree), str(layer), os.path.dirname(pip.__file__), f"{PLACE}/{name}", *ENGINES[name]]
        suites.run_recipe(_INSTALL, words, log)
        made = layer / f"upper{PLACE}/{name}"
        (made / ".stamp").write_text(stamp)
        suites.remove_tree(kept)
        made.rename(kept)
        suites.remove_tree(layer)
    return kept


def show(suite: str, name: str) -> str:
    """Install an engine and let the nodes of the running cluster see it; return its directory there."""
    kept = install(suite, name)
    shown = state.Cluster(suite).shared / f"images/engines/{name}"
    if suites.read(shown / ".stamp") != suites.read(kept / ".stamp"):
        suites.remove_tree(shown)
        shown.parent.mkdir(parents=True, exist_ok=True)
        # Hard links, where both are on one filesystem.
        for how in ("-al", "-a"):
            if (
                subprocess.run(["cp", how, str(kept), str(shown)], stderr=subprocess.DEVNULL, check=False).returncode
                == 0
            ):
                break
            suites.remove_tree(shown)
    return f"{PLACE}/{name}"


def _settings(upper: Path) -> None:
    """Give a layer this machine's settings of pip and of the resolver."""
    with tempfile.TemporaryDirectory() as scratch:
        for bind in machine_binds(Path(scratch)):
            source, target, _ = bind.split(":")
            if "apt" not in target:  # the suite's tree has those
                (upper / target[1:]).parent.mkdir(parents=True, exist_ok=True)
                (upper / target[1:]).write_bytes(Path(source).read_bytes())
    (upper / "etc").mkdir(parents=True, exist_ok=True)
    (upper / "etc/resolv.conf").write_bytes(Path("/etc/resolv.conf").read_bytes())


if __name__ == "__main__":
    for engine in sys.argv[2:] or ENGINES:
        print(install(sys.argv[1], engine))
