# SPDX-License-Identifier: BSD-3-Clause
"""--container-mounts and similar: the options of pyxis, by the same names, on the command line and in variables."""

from __future__ import annotations

import pytest
from cluster import WHERE, Cluster, Images, Work, good, srun

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
    assert "name two images" in done.refusal()


def test_an_image_that_was_typed_wins_over_slurms_variable(cluster: Cluster, images: Images) -> None:
    env = {"SRUN_CONTAINER": "/no/such.sif"}
    done = cluster.srun(f"--container-image={images.small}", "bash", "-c", WHERE, env=env)
    assert good(done) == "inside\n"


def test_an_image_without_a_name(cluster: Cluster) -> None:
    assert "--container-image has no value" in cluster.srun("--container-image=", "true").refusal()


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
    assert f"an image of a registry is docker://{name}" in done.refusal()


def test_options_of_no_container(cluster: Cluster) -> None:
    assert "--container-mounts without a container" in cluster.srun("--container-mounts=/a:/b", "true").refusal()
    assert "--container-readonly without a container" in cluster.srun("--container-readonly", "true").refusal()


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
        assert "shm-size" in srun(cluster, images, f"--container-shm-size={wrong}", "true").refusal()


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
    assert words in srun(cluster, images, f"--container-mounts={mounts}", "true").refusal()


def test_home_or_not(cluster: Cluster, images: Images, work: Work) -> None:
    look = ["sh", "-c", f"echo $HOME; test -d {work.path} && echo there; true"]
    assert good(srun(cluster, images, "--no-container-mount-home", *look, cwd="/")) == "/home/alice\n"
    assert good(srun(cluster, images, *look, cwd="/", env={"PYXIS_CONTAINER_MOUNT_HOME": "0"})) == "/home/alice\n"
    assert good(srun(cluster, images, *look, cwd="/", env={"ENROOT_MOUNT_HOME": "no"})) == "/home/alice\n"
    from_home = srun(cluster, images, "--no-container-mount-home", "sh", "-c", "pwd; ls -A ~", cwd="/home/alice")
    (line,) = from_home.complaints()
    assert "/home/alice cannot be entered in the container; the program starts in /" in line, from_home
    assert from_home.out == "/\n", from_home
    both = srun(cluster, images, "--container-mount-home", *look, cwd="/", env={"BOLLARD_NO_HOME": "1"})
    assert good(both) == "/home/alice\nthere\n"


def test_a_working_directory(cluster: Cluster, images: Images) -> None:
    assert good(srun(cluster, images, "--container-workdir=/usr/bin", "pwd")) == "/usr/bin\n"
    assert "no such directory" in srun(cluster, images, "--container-workdir=/nope", "true").refusal()
    assert "must begin with /" in srun(cluster, images, "--container-workdir=nope", "true").refusal()


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
    done = cluster.in_one_job(
        f"{step} 'readlink /proc/self/ns/mnt; {write}'", f"{step} 'readlink /proc/self/ns/mnt; {look}'"
    )
    assert done.rc != 0, done
    places = [line for line in done.out.split() if line.startswith("mnt:")]
    assert len(set(places)) == 2, done


def test_concurrent_steps_do_not_write_into_each_other(cluster: Cluster, images: Images) -> None:
    step = f"srun -Q --overlap -N1 -n1 --container={images.small} --container-writable"
    script = "bash -c 'echo $0 > /opt/mine; sleep 0.5; test $(cat /opt/mine) = $0 && ls /opt'"
    done = cluster.in_one_job(f"{step} {script} 1 & {step} {script} 2 & wait")
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
    assert "unshare 'pid'" in srun(cluster, images, "--container-unshare=pid", "true").refusal()


def test_variables_of_pytorch(cluster: Cluster, images: Images, work: Work) -> None:
    show = "echo $RANK $LOCAL_RANK $WORLD_SIZE $MASTER_ADDR $((MASTER_PORT - SLURM_JOB_ID % 4536)) $OMP_NUM_THREADS"
    words = ["-N2", "--ntasks-per-node=2", f"--container={images.small}", "sh", "-c", show]
    done = cluster.srun(*words, env={"PYTORCH_VERSION": "2.1"})
    first = good(done).split()[3]
    assert sorted(done.out.splitlines()) == [f"{rank} {rank % 2} 4 {first} 61000 1" for rank in range(4)], done
    assert good(cluster.srun("-n1", "-N1", f"--container={images.small}", "sh", "-c", "echo $RANK.")) == ".\n"

    script = work.write("script", f"#!/bin/sh\nsrun -n2 --container={images.small} sh -c '{show}'\n")
    words = ["--wait", "-Q", "-n2", "-N1", f"--output={work.path}/out", f"--container={images.small}", script]
    good(cluster.exec(["sbatch", *words], user="alice", cwd=work.path, env={"PYTORCH_VERSION": "2.1"}))
    ranks = [line.split() for line in sorted((work.here / "out").read_text().splitlines())]
    assert [line[:2] + line[4:] for line in ranks] == [["0", "0", "61000", "1"], ["1", "1", "61000", "1"]]


def test_own_memory_of_a_private_ipc_namespace(cluster: Cluster, images: Images) -> None:
    """POSIX shared memory and message queues are files below /dev. A private IPC namespace has its own."""
    place = f"srun -Q -N1 -n1 --container={images.small}"
    look = "ls -A /dev/shm /dev/mqueue; echo > /dev/shm/inside; stat -fc %T /dev/shm /dev/mqueue"
    done = cluster.in_one_job(
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
    assert "'dev' is not supported" in srun(cluster, images, "--container-mounts=/etc:/x:dev", "true").refusal()


def test_own_values_over_the_images(cluster: Cluster, images: Images) -> None:
    show = ["sh", "-c", "echo $PATH"]
    assert "/mine" not in good(srun(cluster, images, *show, env={"PATH": "/usr/bin:/bin:/mine"}))
    kept = srun(cluster, images, "--container-env=NONE,PATH", *show, env={"PATH": "/usr/bin:/bin:/mine"})
    assert good(kept) == "/usr/bin:/bin:/mine\n"


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
    assert "no such option" in srun(cluster, images, "--container-opts=--nope", "true").refusal()
    assert "is not an option" in srun(cluster, images, "--container-opts=word", "true").refusal()
    assert "quotation" in srun(cluster, images, "--container-opts='", "true").refusal()
