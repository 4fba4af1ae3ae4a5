# SPDX-License-Identifier: BSD-3-Clause
"""--container-name: later steps of a job in a container that an earlier step made."""

from __future__ import annotations

from cluster import Cluster, Images, Work, good


def test_a_later_step_by_name(cluster: Cluster, images: Images) -> None:
    done = cluster.in_one_job(
        f"srun -Q --container={images.small} --container-name=lab --container-writable sh -c 'echo made > /opt/made'",
        "srun -Q --container-name=lab cat /opt/made",
        "srun -Q --container-name=lab:exec --container-workdir=/opt --export=ALL,WORD=x sh -c 'pwd; echo $WORD'",
        "PYXIS_CONTAINER_NAME=lab srun -Q ls /opt",
    )
    assert good(done) == "made\n/opt\nx\nmade\n"


def test_a_name_on_two_nodes(cluster: Cluster, images: Images) -> None:
    done = cluster.in_one_job(
        f"srun -Q --container={images.small} --container-name=lab --container-writable sh -c 'hostname > /opt/made'",
        "srun -Q --container-name=lab sh -c 'test $(cat /opt/made) = $(hostname) && echo same'",
        nodes=2,
    )
    assert good(done) == "same\nsame\n"


def test_steps_at_the_same_time_share_one(cluster: Cluster, images: Images, work: Work) -> None:
    step = (
        f"srun -Q --overlap --container={images.small} --container-name=lab --container-writable "
        f"bash -c 'echo > /opt/$0; while [ $(ls /opt | wc -l) != 4 ]; do sleep 0.1; done; echo all' "
    )
    done = cluster.in_one_job(*(f"{step} {number} &" for number in range(4)), "wait")
    assert good(done) == "all\n" * 4


def test_names_that_cannot_be(cluster: Cluster, images: Images) -> None:
    make = f"srun -Q -N1 --container={images.small} --container-name=lab"
    done = cluster.in_one_job(
        "srun -Q -N1 --container-name=lab true",
        f"srun -Q -N1 --container={images.small} --container-name=lab:exec true",
        f"{make} true",
        f"{make}:create true",
        f"srun -Q -N1 --container={images.mpi} --container-name=lab true",
        "srun -Q -N1 --container-name=lab:create true",
        "srun -Q -N1 --container-name=a/b true",
        "srun -Q -N1 --container-name=lab:wrong true",
    )
    lines = done.complaints()
    wanted = (
        "no container lab on",
        "no container lab on",
        "has a container lab",
        f"was made from {images.small}, not from",
        "no image named",
        "'a/b' is not allowed",
        "unknown mode 'wrong'",
    )
    assert len(lines) == len(wanted) and all(part in line for part, line in zip(wanted, lines)), lines


def test_a_later_step_that_asks_for_nothing_new(cluster: Cluster, images: Images) -> None:
    make = f"srun -Q -N1 -n1 --container={images.small} --container-name=lab"
    later = "srun -Q -N1 -n1 --container-name=lab"
    mount = "--container-mounts=/srv:/data"
    done = cluster.in_one_job(
        f"{make} {mount} readlink /proc/self/ns/mnt",
        f"{later} {mount} --container-workdir=/data --container-readonly readlink /proc/self/ns/mnt",
    )
    assert len(set(good(done).split())) == 1, done


def test_a_name_is_the_jobs_own(cluster: Cluster, images: Images) -> None:
    make = f"srun -Q -w n1 --container={images.small} --container-name=lab --container-writable"
    inner = "salloc -Q -w n1 -n1 --overcommit srun -Q --container-name=lab true"
    done = cluster.exec(
        ["salloc", "-Q", "-w", "n1", "-n1", "bash", "-c", f"{make} true; env -u SLURM_JOB_ID -u SLURM_JOBID {inner}"]
    )
    assert "no container lab" in done.err, done
