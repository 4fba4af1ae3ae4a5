# SPDX-License-Identifier: BSD-3-Clause
"""--container-mounts and similar: the options of pyxis, by the same names, on the command line and in variables."""

from __future__ import annotations

import re

import pytest
from cluster import CONTROLLER, WHERE, Cluster, Images, Result, Work, good, until


def srun(cluster: Cluster, images: Images, *words: str, env: dict[str, str] | None = None, cwd: str = "") -> Result:
    return cluster.srun("-N1", "-n1", f"--container={images.small}", *words, env=env, cwd=cwd or None)


def refusal(done: Result) -> str:
    """The one line of bollard on stderr; fails unless the step was refused and printed nothing."""
    assert (done.rc, done.out, len(done.complaints())) == (255, "", 1), done
    return done.complaints()[0]


# Ways to ask.


def test_another_name_for_the_image(cluster: Cluster, images: Images) -> None:
    assert good(cluster.srun(f"--container-image={images.small}", "sh", "-c", WHERE)) == "inside\n"


@pytest.mark.parametrize("name", ["PYXIS_CONTAINER_IMAGE", "BOLLARD_CONTAINER_IMAGE"])
def test_the_image_from_a_variable(cluster: Cluster, images: Images, name: str) -> None:
    assert good(cluster.srun("sh", "-c", WHERE, env={name: images.small})) == "inside\n"
    other = cluster.srun(f"--container={images.small}", "sh", "-c", WHERE, env={name: "/no/such.sif"})
    assert good(other) == "inside\n"


def test_two_images(cluster: Cluster, images: Images) -> None:
    done = cluster.srun(f"--container={images.small}", "--container-image=/other.sif", "true")
    assert "name two images" in refusal(done)


def test_an_image_that_was_typed_wins_over_slurms_variable(cluster: Cluster, images: Images) -> None:
    env = {"SRUN_CONTAINER": "/no/such.sif"}
    done = cluster.srun(f"--container-image={images.small}", "bash", "-c", WHERE, env=env)
    assert good(done) == "inside\n"


def test_an_image_without_a_name(cluster: Cluster) -> None:
    assert "--container-image has no value" in refusal(cluster.srun("--container-image=", "true"))


def test_variables_of_pyxis_where_it_is_loaded(cluster: Cluster, images: Images, work: Work) -> None:
    """bollard recognizes pyxis by the name of its library, so any library of that name will do."""
    pyxis = f"{work.path}/spank_pyxis.so"
    good(cluster.exec(f"cp /lib/$(uname -m)-linux-gnu/libm.so.6 {pyxis}"))
    env = {"LD_PRELOAD": pyxis, "PYXIS_CONTAINER_NAME": "theirs", "PYXIS_CONTAINER_WORKDIR": "/opt"}
    assert good(cluster.srun("--export=HOME,PATH", "bash", "-c", WHERE, env=env)) == "outside\n"
    done = cluster.srun("--export=HOME,PATH", f"--container={images.small}", "pwd", env=env, cwd=work.path)
    assert good(done) == f"{work.path}\n"
    env["BOLLARD_CONTAINER_IMAGE"] = images.small
    assert good(cluster.srun("--export=HOME,PATH", "bash", "-c", WHERE, env=env)) == "inside\n"


@pytest.mark.parametrize(
    "name", ["debian:12", "docker.io/library/debian:12", "registry.example/team/app:1.0", "debian"]
)
def test_a_name_of_a_registry_without_docker(cluster: Cluster, name: str) -> None:
    """Users of pyxis write no docker://. Here a plain word is a file, and the message says what to write."""
    done = cluster.srun(f"--container-image={name}", "true")
    assert f"an image of a registry is docker://{name}" in refusal(done)


def test_options_of_no_container(cluster: Cluster) -> None:
    assert "--container-mounts without a container" in refusal(cluster.srun("--container-mounts=/a:/b", "true"))
    assert "--container-readonly without a container" in refusal(cluster.srun("--container-readonly", "true"))


def test_variables_of_no_container_do_nothing(cluster: Cluster) -> None:
    env = {"PYXIS_CONTAINER_MOUNTS": "/a:/b", "PYXIS_CONTAINER_WRITABLE": "1"}
    assert good(cluster.srun("sh", "-c", WHERE, env=env)) == "outside\n"


def test_the_command_line_wins_over_a_variable(cluster: Cluster, images: Images) -> None:
    write = ["sh", "-c", "if touch /opt/x 2>/dev/null; then echo written; else echo refused; fi"]
    assert good(srun(cluster, images, *write, env={"PYXIS_CONTAINER_WRITABLE": "yes"})) == "written\n"
    assert good(srun(cluster, images, *write, env={"PYXIS_CONTAINER_READONLY": "0"})) == "written\n"
    assert good(srun(cluster, images, *write, env={"PYXIS_CONTAINER_READONLY": "1"})) == "refused\n"
    done = srun(cluster, images, "--container-readonly", *write, env={"PYXIS_CONTAINER_WRITABLE": "1"})
    assert good(done) == "refused\n"


def test_lines_of_a_batch_script(cluster: Cluster, images: Images, work: Work) -> None:
    work.write("there", "seen\n")
    script = (
        f"#!/bin/sh\n#SBATCH --container-image={images.small}\n#SBATCH --container-mounts=./there:/srv/there:ro\n"
        "#SBATCH --container-workdir=/srv\npwd; cat there; if echo > there; then echo written; fi 2>/dev/null\n"
    )
    work.write("job.sh", script)
    done = cluster.exec(
        ["sbatch", "--wait", "-Q", f"--output={work.path}/out", "job.sh"],
        cwd=work.path,
        env={"PYXIS_CONTAINER_WRITABLE": "1"},
    )
    assert done.rc == 0, done
    assert work.read("out") == "/srv\nseen\n"


def test_a_script_does_not_hand_its_options_down(cluster: Cluster, images: Images, work: Work) -> None:
    script = f"#!/bin/sh\n{WHERE}\nsrun -Q sh -c '{WHERE}; test -e /srv/t || echo none'\n"
    options = [f"--container={images.mpi}", "--container-mounts=/tmp:/srv/t"]
    assert cluster.batch(script, work, *options)[:2] == (0, "inside\noutside\nnone\n")


def test_a_shell_of_salloc_has_the_options(cluster: Cluster, images: Images) -> None:
    terminal = cluster.terminal(
        f"salloc -Q --container={images.small} --container-mounts=/etc:/srv/etc --container-writable"
    )
    terminal.sendline(f"PS1=; {WHERE}; test -e /srv/etc/passwd && touch /opt/x && echo fine")
    terminal.expect_exact("inside\r\nfine\r\n")
    terminal.sendline("exit")
    terminal.expect("exit")
    terminal.wait()


# What they do.


def test_mounts(cluster: Cluster, images: Images, work: Work) -> None:
    work.write("a", "of a\n")
    work.write("b,c", "of b\n")
    (work.here / "dir").mkdir()
    mounts = r"./a:/new/place/a,./b\,c:/srv/b:ro+nosuid,tmpfs:/scratch:size=2m,../:/up"
    script = (
        "cat /new/place/a /srv/b; test -e /srv/b && echo > /srv/b || echo no; "
        "df --output=size /scratch | tail -1; ls /up | wc -l"
    )
    done = srun(cluster, images, f"--container-mounts={mounts}", "sh", "-c", script, cwd=work.path)
    assert done.out.split() == ["of", "a", "of", "b", "no", "2048", done.out.split()[-1]], done
    assert int(done.out.split()[-1]) > 0


def test_an_inner_mount_is_seen_whatever_the_order(cluster: Cluster, images: Images, work: Work) -> None:
    good(cluster.exec("mkdir -p outer/dir inner; echo inner > inner/name", cwd=work.path))
    for mounts in ("./inner:/canary/dir,./outer:/canary", "./outer:/canary,./inner:/canary/dir"):
        done = srun(cluster, images, f"--container-mounts={mounts}", "cat", "/canary/dir/name", cwd=work.path)
        assert good(done) == "inner\n"


def test_mounts_of_two_words(cluster: Cluster, images: Images) -> None:
    words = ["--container-mounts=/etc:/srv/one", "--container-mounts=/usr:/srv/two"]
    assert good(srun(cluster, images, *words, "sh", "-c", "ls -d /srv/one/passwd /srv/two/bin")).count("\n") == 2


def test_a_private_shm(cluster: Cluster, images: Images, work: Work) -> None:
    name = work.path.rpartition("/")[2]
    script = f"stat -fc '%T %b %S' /dev/shm; stat -c %a /dev/shm; : > /dev/shm/{name}; ls /dev/shm"
    done = good(srun(cluster, images, "--container-shm-size=2M", "sh", "-c", script)).splitlines()
    kind, blocks, size = done[0].split()
    assert (kind, int(blocks) * int(size), done[1:]) == ("tmpfs", 2 << 20, ["1777", name])
    env = {"BOLLARD_CONTAINER_SHM_SIZE": "1g"}
    assert good(srun(cluster, images, "df", "--output=size", "-m", "/dev/shm", env=env)).split()[-1] == "1024"
    assert good(srun(cluster, images, "--container-opts=--shm-size 8m", "ls", "/dev/shm")) == ""
    done_now = cluster.exec(["bollard", "exec", "--shm-size", "3m", images.small, "df", "-m", "/dev/shm"], node="n1")
    assert good(done_now).splitlines()[-1].split()[1] == "3"
    for wrong in ("big", "0", "1t", ""):
        assert "shm-size" in refusal(srun(cluster, images, f"--container-shm-size={wrong}", "true"))


def test_nothing_mounted(cluster: Cluster, images: Images, work: Work) -> None:
    done = srun(
        cluster, images, "--container-mounts=umount:/tmp,umount:/home/alice", "sh", "-c", "ls -A /tmp; pwd", cwd="/tmp"
    )
    assert good(done).splitlines()[-1] in ("/tmp", "/")
    gone = srun(cluster, images, "--container-mounts=umount:/home/alice", "ls", "/home/alice", cwd="/")
    assert gone.rc == 2 and "No such file" in gone.err, gone


@pytest.mark.parametrize(
    ("mounts", "words"),
    [
        ("/nope/nope:/x", "bind /nope/nope: No such file"),
        ("/etc:/x:suid", "'suid' is not supported"),
        ("/etc:/x:wrong", "unknown flag 'wrong'"),
        ("/etc:x", "must begin with /"),
        ("/etc:/", "root cannot be replaced"),
        ("tmpfs", "names no directory"),
        ("/etc:/a:ro:more", "is not SRC[:DST[:FLAGS]]"),
    ],
)
def test_mounts_that_cannot_be(cluster: Cluster, images: Images, mounts: str, words: str) -> None:
    assert words in refusal(srun(cluster, images, f"--container-mounts={mounts}", "true"))


def test_home_or_not(cluster: Cluster, images: Images, work: Work) -> None:
    look = ["sh", "-c", f"echo $HOME; test -d {work.path} && echo there; true"]
    assert good(srun(cluster, images, "--no-container-mount-home", *look, cwd="/")) == "/home/alice\n"
    assert good(srun(cluster, images, *look, cwd="/", env={"PYXIS_CONTAINER_MOUNT_HOME": "0"})) == "/home/alice\n"
    both = srun(cluster, images, "--container-mount-home", *look, cwd="/", env={"BOLLARD_NO_HOME": "1"})
    assert good(both) == "/home/alice\nthere\n"


def test_a_working_directory(cluster: Cluster, images: Images) -> None:
    assert good(srun(cluster, images, "--container-workdir=/usr/bin", "pwd")) == "/usr/bin\n"
    assert "no such directory" in refusal(srun(cluster, images, "--container-workdir=/nope", "true"))
    assert "must begin with /" in refusal(srun(cluster, images, "--container-workdir=nope", "true"))


def test_what_is_written_ends_with_the_step(cluster: Cluster, images: Images) -> None:
    script = (
        "rm /usr/bin/touch; mkdir -p /opt/a/b && echo x > /opt/a/b/c && mv /opt/a /opt/d && cat /opt/d/b/c; "
        "ls /usr/bin/touch"
    )
    done = srun(cluster, images, "--container-writable", "sh", "-c", script)
    assert done.out == "x\n" and "No such file" in done.err, done
    assert "No such file" in srun(cluster, images, "--container-writable", "ls", "/opt/d").err
    assert "Read-only" in srun(cluster, images, "touch", "/opt/d").err


# What a step can leave behind in a container: options, a line that writes, and a line that finds it.
LEFT = [
    ("--container-writable", "touch /opt/left", "ls /opt/left"),
    ("--container-mounts=tmpfs:/room", "touch /room/left", "ls /room/left"),
    ("--container-opts=--contain", "touch /tmp/left ~/left", "ls /tmp/left"),
    ("--container-opts=--scratch=/room", "touch /room/left", "ls /room/left"),
    ("--container-unshare=uts", "readlink /proc/self/ns/uts", "false"),
]


@pytest.mark.parametrize(("option", "write", "look"), LEFT, ids=[option for option, _, _ in LEFT])
def test_a_container_without_a_name_is_new_for_each_step(
    cluster: Cluster, images: Images, option: str, write: str, look: str
) -> None:
    """Two steps of one job with the same options. Containers that are only read are shared: test_warm.py."""
    step = f"srun -Q -N1 -n1 --container={images.small} {option} sh -c"
    done = in_one_job(
        cluster, f"{step} 'readlink /proc/self/ns/mnt; {write}'", f"{step} 'readlink /proc/self/ns/mnt; {look}'"
    )
    assert done.rc != 0, done
    places = [line for line in done.out.split() if line.startswith("mnt:")]
    assert len(set(places)) == 2, done


def test_concurrent_steps_do_not_write_into_each_other(cluster: Cluster, images: Images) -> None:
    step = f"srun -Q --overlap -N1 -n1 --container={images.small} --container-writable"
    script = "bash -c 'echo $0 > /opt/mine; sleep 0.5; test $(cat /opt/mine) = $0 && ls /opt'"
    done = in_one_job(cluster, f"{step} {script} 1 & {step} {script} 2 & wait")
    assert good(done) == "mine\nmine\n"


def test_ranks_share_what_is_written(cluster: Cluster, images: Images) -> None:
    script = "echo $SLURM_PROCID > /opt/$SLURM_PROCID; while [ $(ls /opt | wc -l) != 3 ]; do sleep 0.1; done; ls /opt"
    done = cluster.srun("-N1", "-n3", f"--container={images.small}", "--container-writable", "bash", "-c", script)
    assert done.lines() == ["0"] * 3 + ["1"] * 3 + ["2"] * 3, done


def test_root_in_the_container(cluster: Cluster, images: Images, work: Work) -> None:
    script = (
        f"id -u; id -g; echo $HOME; stat -c %u /usr {work.path}; touch {work.path}/made; chown root {work.path}/made"
    )
    done = srun(cluster, images, "--container-remap-root", "sh", "-c", script)
    assert good(done) == "0\n0\n/root\n0\n0\n"
    assert (work.here / "made").stat().st_uid == work.here.stat().st_uid
    assert good(srun(cluster, images, "--no-container-remap-root", "id", "-un")) == "alice\n"
    assert good(srun(cluster, images, "id", "-u", env={"PYXIS_CONTAINER_REMAP_ROOT": "true"})) == "0\n"


def test_root_in_the_container_is_no_root_of_the_host(cluster: Cluster, images: Images) -> None:
    for command in ("cat /proc/1/environ", "kill -CONT 1", "echo x > /proc/sys/kernel/hostname", "cat /etc/shadow"):
        done = srun(
            cluster, images, "--container-remap-root", "--container-mounts=/etc/shadow:/etc/shadow", "sh", "-c", command
        )
        assert done.rc != 0 and done.out == "", (command, done)


def test_root_in_the_container_and_mpi(cluster: Cluster, images: Images) -> None:
    """PMIx's server compares the host's user ids. bollard refuses, because a task refused by PMIx hangs slurmstepd."""
    words = ["-N1", "-n2", f"--container={images.mpi}", "--container-remap-root"]
    done = cluster.srun(*words, "--mpi=pmi2", "/opt/mpi/mpich_ring")
    assert done.rc == 0 and "sum ok" in done.out, done
    known = cluster.exec(["srun", "--mpi=list"])
    if "pmix" in known.out + known.err:  # Debian's newest has none
        refused = cluster.srun(*words, "--mpi=pmix", "/opt/mpi/ompi_ring")
        assert refused.rc == 255 and refused.out == "" and "PMIx" in refused.complaints()[0], refused


def test_own_namespaces(cluster: Cluster, images: Images) -> None:
    look = ["sh", "-c", "readlink /proc/self/ns/net /proc/self/ns/ipc /proc/self/ns/uts; grep -c : /proc/net/dev"]
    outside = good(cluster.srun("-w", "n1", *look)).split()
    inside = good(srun(cluster, images, "-w", "n1", "--container-unshare=net,uts", *look)).split()
    assert inside[0] != outside[0] and inside[1] == outside[1] and inside[2] != outside[2] and inside[3] == "1"
    assert "unshare 'pid'" in refusal(srun(cluster, images, "--container-unshare=pid", "true"))


def test_variables_of_pytorch(cluster: Cluster, images: Images, work: Work) -> None:
    show = "echo $RANK $LOCAL_RANK $WORLD_SIZE $MASTER_ADDR $((MASTER_PORT - SLURM_JOB_ID % 4536)) $OMP_NUM_THREADS"
    words = ["-N2", "--ntasks-per-node=2", f"--container={images.small}", "sh", "-c", show]
    done = cluster.srun(*words, env={"PYTORCH_VERSION": "2.1"})
    first = good(done).split()[3]
    assert sorted(done.out.splitlines()) == [f"{rank} {rank % 2} 4 {first} 61000 1" for rank in range(4)], done
    assert good(cluster.srun("-n1", "-N1", f"--container={images.small}", "sh", "-c", "echo $RANK.")) == ".\n"

    script = work.write("script", f"#!/bin/sh\nsrun -n2 sh -c '{show}'\n")
    words = ["--wait", "-Q", "-n2", "-N1", f"--output={work.path}/out", f"--container={images.small}", script]
    good(cluster.exec(["sbatch", *words], user="alice", cwd=work.path, env={"PYTORCH_VERSION": "2.1"}))
    ranks = sorted((work.here / "out").read_text().splitlines())
    assert [line.split()[:2] + line.split()[4:] for line in ranks] == [["0", "0", "61000", "1"], ["1", "1", "61000", "1"]]


def test_own_memory_of_a_private_ipc_namespace(cluster: Cluster, images: Images) -> None:
    """POSIX shared memory and message queues are files below /dev. A private IPC namespace has its own."""
    place = f"srun -Q -N1 -n1 --container={images.small}"
    look = "ls -A /dev/shm /dev/mqueue; echo > /dev/shm/inside; stat -fc %T /dev/shm /dev/mqueue"
    done = in_one_job(
        cluster,
        f"{place} sh -c 'echo > /dev/shm/$SLURM_JOB_ID'",
        f"{place} --container-unshare=ipc sh -c '{look}'",
        f"{place} sh -c 'ls /dev/shm/inside; rm /dev/shm/$SLURM_JOB_ID'",
    )
    assert done.out == "/dev/mqueue:\n\n/dev/shm:\ntmpfs\nmqueue\n" and "No such file" in done.err, done


@pytest.mark.parametrize(
    ("mounts", "script"),
    [
        ("/dev/null:/null", "echo x > /null; cat /null"),
        ("/dev:/host-dev", "head -c1 /host-dev/zero >/host-dev/null"),
        ("/dev:/dev", "head -c1 /dev/zero >/dev/null"),
        ("/dev/pts:/dev/pts,/dev/./zero:/zero:ro+dev", "head -c1 /zero | od -An -tx1 | grep -q 00"),
    ],
)
def test_devices_that_are_mounted_can_be_used(cluster: Cluster, images: Images, mounts: str, script: str) -> None:
    for contain in ([], ["--container-opts=--contain"]):
        assert good(srun(cluster, images, f"--container-mounts={mounts}", *contain, "sh", "-c", script)) == ""


def test_devices_of_other_places_are_not_usable(cluster: Cluster, images: Images) -> None:
    """A path with .. can lead anywhere, so its devices cannot be used. The flag dev is refused outside /dev."""
    done = srun(cluster, images, "--container-mounts=/dev/../dev/zero:/zero", "head", "-c1", "/zero")
    assert done.rc != 0 and "Permission denied" in done.err, done
    assert "'dev' is not supported" in refusal(srun(cluster, images, "--container-mounts=/etc:/x:dev", "true"))


def test_own_values_over_the_images(cluster: Cluster, images: Images) -> None:
    show = ["sh", "-c", "echo $PATH"]
    assert "/mine" not in good(srun(cluster, images, *show, env={"PATH": "/usr/bin:/bin:/mine"}))
    kept = srun(cluster, images, "--container-env=NONE,PATH", *show, env={"PATH": "/usr/bin:/bin:/mine"})
    assert good(kept) == "/usr/bin:/bin:/mine\n"


def test_a_layer_that_stays(cluster: Cluster, images: Images) -> None:
    """The layer is a directory on the node's own disk: the kernel's overlay does not write to a network filesystem."""
    place = ["-w", "n1", f"--container={images.small}"]
    good(cluster.srun("-w", "n1", "bash", "-c", "mkdir -p /tmp/layer"))
    try:
        words = [*place, "--container-opts=--overlay /tmp/layer"]
        assert good(cluster.srun(*words, "-n2", "sh", "-c", "echo $SLURM_PROCID > /opt/$SLURM_PROCID")) == ""
        assert good(cluster.srun(*words, "ls", "/opt")) == "0\n1\n"
        read_only = cluster.srun(
            *place, "--container-opts=--overlay /tmp/layer:ro", "sh", "-c", "ls /opt; touch /opt/2"
        )
        assert read_only.out == "0\n1\n" and "Read-only" in read_only.err, read_only
    finally:
        good(cluster.srun("-w", "n1", "rm", "-rf", "/tmp/layer"))


def test_a_layer_in_a_file(cluster: Cluster, images: Images, work: Work) -> None:
    """The layer is an ext3 file, served by fuse2fs: tasks share it, the next step sees it, and it stays clean."""
    good(cluster.exec(["bollard", "overlay", "create", "--size=64", "layer.img"], cwd=work.path))
    words = ["-N1", "-n2", f"--container={images.small}"]
    writes = f"--container-opts=--overlay {work.path}/layer.img"
    assert good(cluster.srun(*words, writes, "sh", "-c", "echo $SLURM_PROCID > /opt/$SLURM_PROCID")) == ""
    _until_no_keeper(cluster)
    assert cluster.exec(["/sbin/e2fsck", "-fn", f"{work.path}/layer.img"]).rc == 0
    done = cluster.srun(*words, f"{writes}:ro", "sh", "-c", "ls /opt; touch /opt/2 2>&1")
    assert done.rc == 1 and done.out.count("0\n1\n") == 2 and done.out.count("Read-only") == 2, done


def test_a_layer_in_the_image(cluster: Cluster, images: Images, work: Work) -> None:
    """The layer is in the SIF file: --writable writes to it, and without --writable it is visible."""
    good(cluster.exec(["cp", images.small, "own.sif"], cwd=work.path))
    good(cluster.exec(["bollard", "overlay", "create", "--size=64", "own.sif"], cwd=work.path))
    words = ["-N1", "-n1", f"--container={work.path}/own.sif"]
    assert good(cluster.srun(*words, "--container-opts=--writable", "sh", "-c", "echo kept > /opt/x")) == ""
    _until_no_keeper(cluster)
    assert good(cluster.srun(*words, "cat", "/opt/x")) == "kept\n"


@pytest.mark.parametrize(("make", "use"), [([], ["--fakeroot"]), (["--fakeroot"], [])])
def test_a_layer_of_the_user_and_one_of_root(
    cluster: Cluster, images: Images, work: Work, make: list[str], use: list[str]
) -> None:
    """The file has the numbers of its maker, and a namespace maps one number."""
    good(cluster.exec(["bollard", "overlay", "create", *make, "--size", "64", "layer.img"], cwd=work.path))
    other, own = (
        cluster.exec(
            ["bollard", "exec", *words, "--overlay", "layer.img", images.small, "touch", "/opt/x"], cwd=work.path
        )
        for words in (use, make)
    )
    assert "its files do not belong to" in refusal(other) and "overlay create" in refusal(other), other
    assert good(own) == ""


def test_a_layer_of_root_to_read(cluster: Cluster, images: Images, work: Work) -> None:
    """Files that a site gives its users: the top of the file is the layer, and belongs to root."""
    good(cluster.exec("mkdir -p data/opt/data; echo more > data/opt/data/file", cwd=work.path))
    good(cluster.exec("/sbin/mkfs.ext3 -q -E root_owner=0:0 -d data layer.img 16m", cwd=work.path))
    words = ["-N1", "-n1", f"--container={images.small}", f"--container-opts=--overlay {work.path}/layer.img:ro"]
    assert good(cluster.srun(*words, "cat", "/opt/data/file", "/etc/debian_version")).startswith("more\n")


@pytest.mark.parametrize("kind", ["directory", "file", "file:ro", "image"])
def test_a_layer_does_not_lead_to_the_host(cluster: Cluster, images: Images, work: Work, kind: str) -> None:
    """The user who made the layer may have replaced its directories by links; they must not lead to the host."""
    cluster.exec(["mkdir", "-p", "secret/work", "layer"], cwd=work.path)
    good(cluster.exec(["sh", "-c", "echo hidden > secret/key; ln -s $PWD/secret layer/upper"], cwd=work.path))
    good(cluster.exec(["ln", "-s", f"{work.path}/secret/work", "layer/work"], cwd=work.path))
    good(cluster.exec(["/sbin/mkfs.ext3", "-q", "-d", "layer", "layer.img", "16m"], cwd=work.path))
    place, option = images.small, f"--overlay {work.path}/layer.img"
    if kind == "directory":
        option = f"--overlay {work.path}/layer"
    elif kind == "file:ro":
        option += ":ro"
    elif kind == "image":
        place, option = f"{work.path}/own.sif", "--containall"
        good(cluster.exec(["cp", images.small, "own.sif"], cwd=work.path))
        add = "bollard sif add --datatype=4 --partfs=2 --parttype=4 --partarch=2 --groupid=1 own.sif layer.img"
        good(cluster.exec(add.split(), cwd=work.path))
    done = cluster.srun(
        "-N1", "-n1", f"--container={place}", f"--container-opts=--containall {option}", "sh", "-c", "cat /key; > /new"
    )
    assert (done.rc, done.out) == (255, "") and "its upper is no directory" in done.err, done
    assert good(cluster.exec(["ls", "secret"], cwd=work.path)) == "key\nwork\n"


def _until_no_keeper(cluster: Cluster) -> None:
    nodes = [node for node in cluster.nodes() if node != CONTROLLER]
    until(lambda: not any(cluster.named(node, "bollard-keeper", "fuse2fs", "fuse2fs2") for node in nodes), "the end")


@pytest.mark.parametrize("option", ["--pid", "--containall", "--compat"])
def test_own_processes(cluster: Cluster, images: Images, option: str) -> None:
    """Tasks see each other but no process of the node. They end, and can be ended, as on the host."""
    words = ["-N1", "-n2", f"--container={images.small}", f"--container-opts={option}"]
    done = cluster.srun(*words, "sh", "-c", "cat /proc/1/comm; ls -d /proc/[0-9]*; exit 3")
    assert done.rc == 3, done
    lines = done.out.split()
    numbers = [int(line.rpartition("/")[2]) for line in lines if line.startswith("/proc/")]
    assert lines.count("bollard-first") == 2 and numbers and max(numbers) < 20, done
    assert cluster.srun(*words, "sh", "-c", "kill -SEGV $$").rc == 139
    script = "trap 'echo told; exit 7' USR1; echo here; while :; do sleep 0.1; done"
    with cluster.start(["srun", "-Q", "--job-name=own-processes", *words, "sh", "-c", script]) as step:
        assert step.popen.stdout is not None
        assert [step.popen.stdout.readline() for _ in range(2)] == ["here\n"] * 2
        good(cluster.exec(["scancel", "-Q", "--signal=USR1", "--name=own-processes"]))
        done = step.result()
        assert (done.rc, done.out.count("told")) == (7, 2), done


def test_any_option_of_the_command(cluster: Cluster, images: Images) -> None:
    words = "--contain --hostname there --env 'A=b c' --env=C=d --bind /etc:/srv/etc"
    done = srun(
        cluster,
        images,
        f"--container-opts={words}",
        "sh",
        "-c",
        "hostname; echo $A $C; ls /tmp ~; cat /srv/etc/hostname",
        cwd="/",
    )
    assert good(done).splitlines()[:3] == ["there", "b c d", "/home/alice:"]
    assert "no such option" in refusal(srun(cluster, images, "--container-opts=--nope", "true"))
    assert "is not an option" in refusal(srun(cluster, images, "--container-opts=word", "true"))
    assert "quotation" in refusal(srun(cluster, images, "--container-opts='", "true"))


# Containers with a name.


def in_one_job(cluster: Cluster, *steps: str, nodes: int = 1) -> Result:
    return cluster.exec(["salloc", "-Q", f"-N{nodes}", "bash", "-c", "\n".join(steps)])


def test_a_later_step_by_name(cluster: Cluster, images: Images) -> None:
    done = in_one_job(
        cluster,
        f"srun -Q --container={images.small} --container-name=lab --container-writable sh -c 'echo made > /opt/made'",
        "srun -Q --container-name=lab cat /opt/made",
        "srun -Q --container-name=lab:exec --container-workdir=/opt --export=ALL,WORD=x sh -c 'pwd; echo $WORD'",
        "PYXIS_CONTAINER_NAME=lab srun -Q ls /opt",
    )
    assert good(done) == "made\n/opt\nx\nmade\n"


def test_a_name_on_two_nodes(cluster: Cluster, images: Images) -> None:
    done = in_one_job(
        cluster,
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
    done = in_one_job(cluster, *(f"{step} {number} &" for number in range(4)), "wait")
    assert good(done) == "all\n" * 4


def test_names_that_cannot_be(cluster: Cluster, images: Images) -> None:
    make = f"srun -Q -N1 --container={images.small} --container-name=lab"
    done = in_one_job(
        cluster,
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
    done = in_one_job(
        cluster,
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


# Saved.


def test_saved_and_used_again(cluster: Cluster, images: Images, work: Work) -> None:
    for name in ("saved.sqsh", "saved.sif"):
        script = "echo $SLURM_PROCID > /opt/$SLURM_PROCID; mkdir -p /srv/kept"
        words = ["-N1", "-n2", f"--container={images.small}", "--container-writable", f"--container-save={name}"]
        done = cluster.srun(*words, "sh", "-c", script, cwd=work.path)
        assert good(done) == ""
        assert (
            good(cluster.srun(f"--container={work.path}/{name}", "ls", "-d", "/opt/0", "/opt/1", "/srv/kept")).count(
                "\n"
            )
            == 3
        )
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
    assert words in refusal(done) and done.out == "", done


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
        assert "is the image itself" in refusal(done)
    assert (work.here / "own.sif").stat().st_mtime_ns == before
    done = cluster.srun("-n1", "--container=own.sif", "--container-save=own.sif", "true", cwd=work.path)
    assert done.rc == 0 and "replaces the image" in done.complaints()[0], done


def test_a_step_that_saves_what_an_earlier_one_made(cluster: Cluster, images: Images, work: Work) -> None:
    make = f"srun -Q -n1 --container={images.small} --container-name=lab --container-writable"
    done = in_one_job(
        cluster,
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
    assert good(in_one_job(cluster, step, f"rm {work.path}/same.sqsh", step, f"ls {work.path}")) == "same.sqsh\n"


def test_a_step_that_saves_beside_one_that_runs(cluster: Cluster, images: Images, work: Work) -> None:
    done = in_one_job(
        cluster,
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


# The image's entrypoint.


@pytest.fixture
def with_entrypoint(cluster: Cluster, images: Images, work: Work) -> str:
    """An image whose runscript prints a line, exports a variable and executes its arguments."""
    script = work.write(
        "make.sh", "printf '#!/bin/sh\\necho hello\\nexport MADE=here\\nexec \"$@\"\\n' > /.singularity.d/runscript"
    )
    path = f"{work.path}/entry.sif"
    good(cluster.srun(f"--container={images.small}", "--container-writable", f"--container-save={path}", "sh", script))
    return path


def test_an_entrypoint(cluster: Cluster, with_entrypoint: str) -> None:
    words = ["-N1", "-n2", f"--container={with_entrypoint}"]
    show = ["sh", "-c", "echo made $MADE"]
    assert good(cluster.srun(*words, *show)) == "made\nmade\n"
    assert good(cluster.srun(*words, "--container-entrypoint", *show)) == "made here\nmade here\n"
    assert good(cluster.srun(*words, *show, env={"PYXIS_CONTAINER_ENTRYPOINT": "1"})) == "made here\nmade here\n"
    logged = cluster.srun(*words, "--container-entrypoint", "--container-entrypoint-log", *show)
    assert (logged.rc, logged.out, logged.err) == (0, "made here\nmade here\n", "hello\n")
    off = cluster.srun(*words, "--no-container-entrypoint", *show, env={"PYXIS_CONTAINER_ENTRYPOINT": "1"})
    assert good(off) == "made\nmade\n"


def test_an_entrypoint_that_does_not_go_on(cluster: Cluster, images: Images, work: Work) -> None:
    path = f"{work.path}/entry.sif"
    script = work.write(
        "make.sh", "printf '#!/bin/sh\\necho no licence here >&2\\nexit 0\\n' > /.singularity.d/runscript"
    )
    good(cluster.srun(f"--container={images.small}", "--container-writable", f"--container-save={path}", "sh", script))
    done = cluster.srun(f"--container={path}", "--container-entrypoint", "true")
    assert "--no-container-entrypoint" in refusal(done)
    assert "no licence here" in done.err  # the script's message is shown even without --container-entrypoint-log


# Images of enroot's.

ENROOT = """
mkdir /workspace
cat > /etc/fstab <<'END'
${ENROOT_ROOTFS}/data /data none x-create=dir,bind
/proc /proc rbind
${HOME} /mnt/home none rbind
END
cat > /etc/environment <<'END'
PATH=/opt/own:/usr/bin:/bin
GREETING=it's me
END
cat > /etc/rc <<'END'
mkdir -p "/workspace" 2> /dev/null
cd "/workspace" && unset OLDPWD || exit 1

if [ -s /etc/rc.local ]; then
    . /etc/rc.local
fi

if [ $# -gt 0 ]; then
    exec '/entry.sh' "$@"
else
    exec '/entry.sh' 'bash'
fi
END
printf '#!/bin/sh\\necho hello\\nexport MADE=here\\nexec "$@"\\n' > /entry.sh
chmod +x /entry.sh
rm -rf /.singularity.d
"""


def test_an_image_in_enroots_layout(cluster: Cluster, images: Images, work: Work) -> None:
    path = f"{work.path}/enroot.sqsh"
    script = work.write("make.sh", ENROOT)
    good(cluster.srun(f"--container={images.small}", "--container-writable", f"--container-save={path}", "sh", script))
    show = ["sh", "-c", "echo $(pwd) ${PATH#*bollard/bin:} $GREETING $MADE"]  # one line: those of two tasks can mix
    words = ["-N1", "-n2", f"--container-image={path}"]
    first = cluster.srun(*words, *show)
    (line,) = first.complaints()
    assert f"{path}: mounts of its /etc/fstab are not made: /mnt/home; " in line, first
    plain = first.out.splitlines()
    assert len(plain) == 2 and plain[0] == plain[1], plain
    assert plain[0].startswith("/workspace /opt/own:/usr/bin:/bin") and plain[0].endswith("bin it's me"), plain
    started = cluster.srun(*words, "--container-entrypoint", *show).out.splitlines()
    assert len(started) == 2 and all(re.fullmatch("/workspace [^ ]+ it's me here", line) for line in started), started
    assert cluster.srun(*words, "--container-workdir=/usr", "pwd").out == "/usr\n/usr\n"
