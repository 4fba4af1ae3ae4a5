# SPDX-License-Identifier: BSD-3-Clause
"""A later step gives a named container other options: it is made anew above the same layer, if no task runs in it."""

from __future__ import annotations

from cluster import Cluster, Images, Work, good

LATER = "srun -Q -N1 -n1 --container-name=lab"


def first(images: Images, *words: str) -> str:
    return " ".join(["srun -Q -N1 -n1", f"--container-image={images.small}", "--container-name=lab", *words])


def test_other_mounts_and_the_same_files(cluster: Cluster, images: Images, work: Work) -> None:
    work.write("answer", "42\n")
    done = cluster.in_one_job(
        first(images, "--container-writable", "sh -c 'echo made > /opt/made; rm /etc/debian_version'"),
        f"{LATER} --container-mounts={work.path}:/data sh -c 'cat /data/answer /opt/made; echo more > /opt/more'",
        f"{LATER} sh -c 'cat /data/answer /opt/more; ls /etc/debian_version 2>/dev/null'",
        f"{LATER} --container-mounts={work.path}:/other sh -c 'cat /other/answer /opt/made; ls /data 2>/dev/null'",
    )
    assert done.out == "42\nmade\n42\nmore\n42\nmade\n" and not done.complaints(), done


def test_root_and_the_user_in_turns(cluster: Cluster, images: Images) -> None:
    done = cluster.in_one_job(
        first(images, "--container-remap-root", "--container-writable", "sh -c 'id -u; echo root > /opt/file'"),
        f"{LATER} sh -c 'id -u; cat /opt/file; echo user > /opt/file'",
        f"{LATER} --container-remap-root sh -c 'id -u; cat /opt/file; stat -c %u /opt/file'",
        f"{LATER} --no-container-remap-root id -u",
    )
    assert good(done) == "0\n1000\nroot\n0\nuser\n0\n1000\n"


def test_the_home_and_what_may_be_written(cluster: Cluster, images: Images) -> None:
    done = cluster.in_one_job(
        first(images, "-D /", "--no-container-mount-home", "--container-writable", "sh -c 'touch /opt/made; ls -d ~'"),
        f"PYXIS_CONTAINER_MOUNT_HOME=1 {LATER} -D / sh -c 'ls -d ~; ls /opt'",
        f"{LATER} --container-readonly sh -c 'ls /opt; touch /opt/not'",
        f"{LATER} --container-writable sh -c 'touch /opt/again; ls /opt'",
    )
    assert done.out == "/home/alice\nmade\nmade\nagain\nmade\n" and not done.complaints(), done


def test_a_container_that_cannot_be_made_anew_keeps_its_files(cluster: Cluster, images: Images) -> None:
    done = cluster.in_one_job(
        first(images, "--container-writable", "sh -c 'echo made > /opt/made'"),
        f"{LATER} --container-mounts=/no/such:/data echo ran",
        f"{LATER} --container-mounts=/no/such:/other echo ran",
        f"{LATER} cat /opt/made",
    )
    lines = done.complaints()
    assert done.out == "made\n" and len(lines) == 2 and all("bind /no/such: No such" in line for line in lines), done


def test_a_container_with_tasks_is_not_made_anew(cluster: Cluster, images: Images, work: Work) -> None:
    step = "srun -Q --overlap -N1 -n1 --container-name=lab"
    done = cluster.in_one_job(
        f"{step} --container-image={images.small} --container-writable bash -c '{work.pause('ready')}' &",
        f"while ! test -e {work.path}/ready; do sleep 0.1; done",
        f"{step} --container-mounts=/srv:/data echo ran",
        f"{step} --no-container-mount-home echo ran",
        f"{step} --container-writable sh -c 'echo joined > /opt/file'",
        f"touch {work.path}/ready.go; wait",
        f"{step} --container-mounts=/srv:/data sh -c 'cat /opt/file; ls -d /data'",
    )
    lines = done.complaints()
    assert done.out == "joined\n/data\n" and len(lines) == 2, done
    for option, line in zip(("--container-mounts", "--no-container-mount-home"), lines):
        assert f"was made without this {option}, and tasks of another step run in it; " in line, lines


def test_another_layer_to_write_to_is_refused(cluster: Cluster, images: Images, work: Work) -> None:
    work.here.joinpath("layer").mkdir(mode=0o777)
    done = cluster.in_one_job(
        first(images, "--container-writable", "sh -c 'echo made > /opt/made'"),
        f"{LATER} --container-opts='--overlay {work.path}/layer' echo ran",
        f"{LATER} cat /opt/made",
    )
    assert done.out == "made\n" and "was made without this --overlay" in done.complaints()[0], done


def test_a_directory_that_the_container_does_not_show(cluster: Cluster, images: Images, work: Work) -> None:
    done = cluster.in_one_job(
        first(images, "--container-writable", "sh -c 'echo made > /opt/made'"),
        f"srun -Q -N1 -n1 --container-name=lab -D {work.path} sh -c 'pwd; cat /opt/made'",
    )
    assert done.out == f"{work.path}\nmade\n" and not done.complaints(), done
