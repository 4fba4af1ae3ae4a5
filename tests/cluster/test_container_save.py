# SPDX-License-Identifier: BSD-3-Clause
"""--container-save: the container of a step, packed as an image when its tasks have ended."""

from __future__ import annotations

import pytest
from cluster import Cluster, Images, Work, good, srun


def test_saved_and_used_again(cluster: Cluster, images: Images, work: Work) -> None:
    for name in ("saved.sqsh", "saved.sif"):
        script = "echo $SLURM_PROCID > /opt/$SLURM_PROCID; mkdir -p /srv/kept"
        words = ["-N1", "-n2", f"--container={images.small}", "--container-writable", f"--container-save={name}"]
        done = cluster.srun(*words, "sh", "-c", script, cwd=work.path)
        assert good(done) == ""
        places = good(cluster.srun(f"--container={work.path}/{name}", "ls", "-d", "/opt/0", "/opt/1", "/srv/kept"))
        assert places.count("\n") == 3
    assert sorted(path.name for path in work.here.iterdir()) == ["saved.sif", "saved.sqsh"]


def test_a_save_that_fails_is_told(cluster: Cluster, images: Images, work: Work) -> None:
    words = [f"--container-save={work.path}/gone/s.sqsh", "sh", "-c"]
    gone = f"rmdir {work.path}/gone; echo done; exit"
    for status, expected in ((0, 255), (3, 3)):
        good(cluster.exec(["mkdir", f"{work.path}/gone"]))
        done = srun(cluster, images, *words, f"{gone} {status}")
        assert (done.rc, done.out, len(done.complaints())) == (expected, "done\n", 1), done


@pytest.mark.parametrize(
    ("path", "words"), [("/no/where/s.sqsh", "does not exist"), ("/usr/s.sqsh", "may not write"), ("/tmp", "directory")]
)
def test_a_file_that_cannot_be_written_is_refused_first(
    cluster: Cluster, images: Images, path: str, words: str
) -> None:
    done = srun(cluster, images, f"--container-save={path}", "echo", "ran")
    assert words in done.refusal() and done.out == "", done


def test_a_file_that_is_there_is_replaced_with_a_word(cluster: Cluster, images: Images, work: Work) -> None:
    work.write("old.sqsh", "old")
    words = [f"--container={images.small}", "--container-save=old.sqsh", "true"]
    done = cluster.srun(*words, cwd=work.path)
    assert (done.rc, done.complaints()) == (
        0, [f"bollard: container-save {work.path}/old.sqsh: replaces the file that is there"]
    ), done  # fmt: skip
    assert work.here.joinpath("old.sqsh").read_bytes()[:4] == b"hsqs"


def test_the_image_is_not_replaced_by_accident(cluster: Cluster, images: Images, work: Work) -> None:
    good(cluster.exec(["cp", images.small, "own.sif"], cwd=work.path))
    good(cluster.exec(["ln", "-s", "own.sif", "link.sif"], cwd=work.path))
    before = (work.here / "own.sif").stat().st_mtime_ns
    for name in ("link.sif", "./own.sif"):
        done = cluster.srun("--container=own.sif", f"--container-save={name}", "echo", "ran", cwd=work.path)
        assert "is the image itself" in done.refusal()
    assert (work.here / "own.sif").stat().st_mtime_ns == before
    done = cluster.srun("-n1", "--container=own.sif", "--container-save=own.sif", "true", cwd=work.path)
    assert done.rc == 0 and "replaces the image" in done.complaints()[0], done


def test_a_step_that_saves_what_an_earlier_one_made(cluster: Cluster, images: Images, work: Work) -> None:
    make = f"srun -Q -n1 --container={images.small} --container-name=lab --container-writable"
    done = cluster.in_one_job(
        f"{make} sh -c 'echo > /opt/one'",
        f"srun -Q -n1 --container-name=lab --container-save={work.path}/one.sqsh true",
        f"{make} --container-save={work.path}/two.sqsh sh -c 'echo > /opt/two'",
        "srun -Q -n1 --container-name=lab true",
        f"srun -Q -n1 --container={work.path}/one.sqsh ls /opt",
        f"srun -Q -n1 --container={work.path}/two.sqsh ls /opt",
    )
    assert good(done) == "one\none\ntwo\n"


def test_two_steps_that_save_the_same(cluster: Cluster, images: Images, work: Work) -> None:
    step = f"srun -Q -n1 --container={images.small} --container-save={work.path}/same.sqsh true"
    assert good(cluster.in_one_job(step, f"rm {work.path}/same.sqsh", step, f"ls {work.path}")) == "same.sqsh\n"


def test_a_step_that_saves_beside_one_that_runs(cluster: Cluster, images: Images, work: Work) -> None:
    done = cluster.in_one_job(
        f"srun -Q --overlap -n1 --container={images.small} --container-name=lab --container-writable "
        f"bash -c '{work.pause('ready')}' &",
        f"while ! test -e {work.path}/ready; do sleep 0.1; done",
        f"srun -Q --overlap -n1 --container-name=lab --container-save={work.path}/s.sqsh true",
        f"test -e {work.path}/s.sqsh && echo there; touch {work.path}/ready.go; wait",
    )
    assert good(done) == "there\n"


def test_signals_and_status_of_a_task_that_is_saved(cluster: Cluster, images: Images, work: Work) -> None:
    save = f"--container-save={work.path}/s.sqsh"
    assert srun(cluster, images, save, "sh", "-c", "exit 7").rc == 7
    assert srun(cluster, images, save, "sh", "-c", "kill -SEGV $$").rc == 139
    words = ["srun", "-Q", f"--job-name={work.path[-8:]}", f"--container={images.small}", save]
    trap = f"trap 'echo got; exit 5' USR1; {work.pause('ready')}"
    with cluster.start([*words, "bash", "-c", trap]) as step:
        work.wait_for("ready")
        good(cluster.exec(["scancel", "-s", "USR1", f"--name={work.path[-8:]}"]))
        done = step.result()
    assert (done.rc, done.out) == (5, "got\n"), done
