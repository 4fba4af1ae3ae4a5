# SPDX-License-Identifier: BSD-3-Clause
"""`bollard build --on-slurm` runs the build on a node."""

from __future__ import annotations

from cluster import Cluster, Images, Work, good

DEFINITION = "Bootstrap: localimage\nFrom: {}\n\n%pre\n    uname -n > node; echo $SLURM_CPUS_PER_TASK >> node\n"


def test_a_build_on_a_node(cluster: Cluster, images: Images, work: Work) -> None:
    work.write("img.def", DEFINITION.format(images.small))
    line = "bollard build --on-slurm='-Q -w n2 -c2' --force --section pre,setup img.sif img.def > log 2>&1"
    good(cluster.exec(line, cwd=work.path, env={"SRUN_CONTAINER": images.small}, seconds=300))
    assert work.read("node") == "n2\n2\n" and work.exists("img.sif")

    done = cluster.exec("bollard build --on-slurm img.sif img.def", cwd=work.path)  # before a job is made
    assert done.rc == 255 and "img.sif" in done.err and "exists" in done.err, done
    done = cluster.exec("bollard build --on-slurm /tmp/img.sif img.def", cwd=work.path)
    assert done.complaints() == [
        "bollard: /tmp/img.sif: is on this host alone, and the build runs on a node; use a shared directory"
    ]

    done = cluster.exec("bollard build --on-slurm --force img.sif <(cat img.def)", cwd=work.path)
    assert "is a pipe on this host, and the build runs on a node; use < and /dev/stdin" in done.err, done
    line = "bollard build --on-slurm=-Q --force --section pre,setup img.sif /dev/stdin < img.def > log 2>&1"
    good(cluster.exec(line, cwd=work.path, seconds=300))
