# SPDX-License-Identifier: BSD-3-Clause
"""Slurm's own options have the same effect in a container. Most tests run the same line with and without one."""

from __future__ import annotations

import hashlib
import random

import pexpect
import pytest
from cluster import WHERE, Cluster, Images, Work, good, quoted, until

LIMITS = "ulimit -Sa; ulimit -Ha"


def test_limits(cluster: Cluster, images: Images) -> None:
    script = "ulimit -n 512 -s 4096 -c 1000 -u 5000; ulimit -S -n 300; srun -Q {} bash -c '{}'"
    inside = good(cluster.exec(script.format(f"--container={images.mpi}", LIMITS)))
    assert inside == good(cluster.exec(script.format("", LIMITS)))
    assert "(-n) 300\n" in inside


@pytest.mark.parametrize("bind", ["none", "map_cpu:1", "mask_cpu:0x1,0x2", "cores"])
def test_cpu_bind(cluster: Cluster, images: Images, bind: str) -> None:
    words = ["-N1", "-n2", "-c1", "--exclusive", f"--cpu-bind={bind}"]
    look = ["grep", "Cpus_allowed:", "/proc/self/status"]
    inside = cluster.srun(*words, f"--container={images.small}", *look)
    outside = cluster.srun(*words, *look)
    assert inside.lines() == outside.lines() and inside.rc == outside.rc == 0, (inside, outside)


def test_a_shell_on_a_terminal(cluster: Cluster, images: Images) -> None:
    terminal = cluster.terminal(f"srun -Q --pty --container={images.small} bash --norc")
    terminal.sendline(f"PS1=; {WHERE}; test -t 0 && test -t 1 && test -t 2 && echo all; stty size; tty")
    terminal.expect(r"inside\r\nall\r\n24 80\r\n/dev/pts/\d+\r\n")
    terminal.setwinsize(30, 90)
    terminal.sendline("while [ \"$(stty size)\" != '30 90' ]; do sleep 0.1; done; echo resized")
    terminal.expect_exact("resized\r\n")
    terminal.sendline("sh -c 'echo begin; exec sleep 100'; echo not reached")  # begin: the shell has let go
    terminal.expect_exact("begin\r\n")
    terminal.sendintr()
    terminal.sendline("echo after $?")
    terminal.expect_exact("after 130\r\n")
    terminal.sendline("exit 7")
    terminal.expect(pexpect.EOF)
    terminal.wait()
    assert terminal.exitstatus == 7


def test_a_terminal_of_root(cluster: Cluster, images: Images) -> None:
    """Root can give the terminal to a user and to the group tty, as sshd does at a login."""
    command = "chown 0:5 $(tty) && chmod 620 $(tty) && echo given"
    terminal = cluster.terminal(f"srun -Q --pty --container={images.small} --container-remap-root sh -c '{command}'")
    terminal.expect_exact("given")
    terminal.expect(pexpect.EOF)
    terminal.wait()
    assert terminal.exitstatus == 0


@pytest.mark.parametrize("by_slurm", [True, False])
def test_a_terminal_in_a_contained_container(cluster: Cluster, images: Images, work: Work, by_slurm: bool) -> None:
    look = work.write("look", "tty && echo ok > $(tty); ls -d /dev/pts/ptmx\n")
    command = f"bollard exec --contain --bind {look} {images.small} sh {look}"
    if by_slurm:
        command = f"srun -Q --pty --container={images.small} --container-opts='--contain --bind {look}' sh {look}"
    else:
        command = f"script -qc {quoted(command)} /dev/null"  # a terminal of the node's own
    terminal = cluster.terminal(command)
    terminal.expect(r"(/dev/console|/dev/pts/\d+)\r\nok\r\n")
    terminal.expect_exact("/dev/pts/ptmx")
    terminal.expect(pexpect.EOF)
    terminal.wait()
    assert terminal.exitstatus == 0


@pytest.mark.parametrize("tasks", ["1", "2"])
def test_ten_megabytes_through_stdin(cluster: Cluster, images: Images, tasks: str) -> None:
    data = random.Random(1).randbytes(10_000_000)
    done = cluster.srun("-n", tasks, f"--container={images.small}", "md5sum", stdin=data)
    assert good(done) == f"{hashlib.md5(data).hexdigest()}  -\n" * int(tasks)


def test_ten_megabytes_through_stdout(cluster: Cluster, images: Images) -> None:
    script = f"srun -Q --container={images.small} head -c 10000000 /dev/zero | md5sum"
    assert good(cluster.exec(script)) == f"{hashlib.md5(bytes(10_000_000)).hexdigest()}  -\n"


def test_output_options(cluster: Cluster, images: Images, work: Work) -> None:
    good(cluster.srun("-n2", f"--output={work.path}/out.%t", f"--container={images.small}", "printenv", "SLURM_PROCID"))
    assert [work.read("out.0"), work.read("out.1")] == ["0\n", "1\n"]
    assert cluster.srun("-n2", "--label", f"--container={images.small}", "sh", "-c", WHERE).lines() == [
        "0: inside",
        "1: inside",
    ]
    assert good(cluster.srun("--input=none", f"--container={images.small}", "cat", stdin=b"x")) == ""


@pytest.mark.parametrize("container", [True, False])
def test_multi_prog(cluster: Cluster, images: Images, work: Work, container: bool) -> None:
    config = (
        "# a comment\n\n"
        "0 sh -c 'test -d /.singularity.d && echo in || echo out'\n"
        "1-2   /bin/echo task:%t offset:%o\n"
        "3 /bin/sh -c 'echo \"$0\" $1' two\\ words x\n"
    )
    option = [f"--container={images.small}"] if container else []
    done = cluster.srun("-n4", "-N2", "--multi-prog", *option, work.write("config", config))
    assert done.rc == 0 and done.err == "", done
    seen = done.lines()
    assert ("in" if container else "out") in seen and {"task:1 offset:0", "task:2 offset:1"} <= set(seen), done
    assert len(seen) == 4


@pytest.mark.parametrize("export", ["NONE", "ONE", "ONE,THREE=3", "ALL,THREE=3", "NIL"])
def test_export(cluster: Cluster, images: Images, export: str) -> None:
    look = ["/bin/sh", "-c", "echo $ONE-$TWO-$THREE"]  # --export=NONE leaves no PATH
    given = {"ONE": "1", "TWO": "2"}
    inside = cluster.srun(f"--export={export}", f"--container={images.small}", *look, env=given)
    outside = cluster.srun(f"--export={export}", *look, env=given)
    assert good(inside) == good(outside)
    assert good(cluster.srun(f"--export={export}", f"--container={images.small}", "sh", "-c", WHERE)) == "inside\n"


def test_export_of_batch_jobs(cluster: Cluster, images: Images, work: Work) -> None:
    script = (
        f"#!/bin/bash\n{WHERE}; echo $ONE-$TWO\nsrun -Q --container={images.small} sh -c '{WHERE}; echo $ONE-$TWO'\n"
    )
    given = {"ONE": "1", "TWO": "2"}
    done = cluster.batch(script, work, f"--container={images.mpi}", "--export=ONE", env=given)
    assert done[:2] == (0, "inside\n1-\ninside\n1-\n")


def test_job_arrays(cluster: Cluster, images: Images, work: Work) -> None:
    script = f"#!/bin/sh\necho $SLURM_ARRAY_TASK_ID $({WHERE}) > {work.path}/task.$SLURM_ARRAY_TASK_ID\n"
    job = cluster.sbatch(script, work, "--array=1,3,5", f"--container={images.small}", "-n1")
    for task in (1, 3, 5):
        until(lambda: work.exists(f"task.{task}") and work.read(f"task.{task}"), f"task {task}")  # noqa: B023
        assert work.read(f"task.{task}") == f"{task} inside\n"
    until(lambda: not cluster.exec(["squeue", "-h", "-j", str(job)]).out, "the end of the array")


@pytest.mark.parametrize("option", [[], ["--container-writable"]], ids=["plain", "writable"])
def test_heterogeneous_steps(cluster: Cluster, images: Images, option: list[str]) -> None:
    look = [f"--container={images.small}", *option, "sh", "-c", f"{WHERE}; echo $SLURM_PROCID"]
    done = cluster.srun("-n1", *look, ":", "-n2", *look)
    assert sorted(good(done).split()) == ["0", "1", "2", "inside", "inside", "inside"]


def test_heterogeneous_steps_of_programs(cluster: Cluster, images: Images, work: Work) -> None:
    """In the container each component has its own command with its own argument 0."""
    look = "tr '\\0' ' ' < /proc/$$/cmdline; echo; " + WHERE
    words = [[f"--container={images.small}", shell, "-c", look] for shell in ("sh", "/bin/bash")]
    done = cluster.srun("-n1", *words[0], ":", "-n2", *words[1], ":", "-n1", *words[0])
    lines = sorted(line.split(" ")[0] for line in good(done).splitlines())
    assert lines == ["/bin/bash", "/bin/bash", "inside", "inside", "inside", "inside", "sh", "sh"], done


def test_multi_prog_does_not_go_with_components(cluster: Cluster, images: Images, work: Work) -> None:
    programs = work.write("programs", "0 true\n")
    words = ["-n1", "--multi-prog", f"--container={images.small}", programs]
    done = cluster.srun(*words, ":", *words)
    assert done.rc == 255 and done.complaints() == [
        "bollard: --multi-prog in a container does not go with components; start each with an srun of its own"
    ]


def test_heterogeneous_steps_have_one_container(cluster: Cluster, images: Images) -> None:
    for line in (["hostname", ":", f"--container={images.small}"], [f"--container={images.small}", "hostname", ":"]):
        done = cluster.srun(*line, "hostname")
        assert done.rc == 255 and done.out == "" and len(done.complaints()) == 1, done


def test_heterogeneous_batch_jobs(cluster: Cluster, images: Images, work: Work) -> None:
    script = (
        "#!/bin/bash\n#SBATCH -n1\n#SBATCH hetjob\n#SBATCH -n2\n"
        f"{WHERE}\nsrun -Q --het-group=0,1 --container={images.small} sh -c '{WHERE}'\n"
        f"srun -Q --het-group=1 sh -c '{WHERE}'\n"
    )
    assert cluster.batch(script, work)[:2] == (0, "outside\n" + "inside\n" * 3 + "outside\n" * 2)


def test_heterogeneous_batch_jobs_in_a_container(cluster: Cluster, images: Images, work: Work) -> None:
    script = (
        f"#!/bin/bash\n#SBATCH -n1\n#SBATCH --container={images.mpi}\n#SBATCH hetjob\n#SBATCH -n1\n"
        f"{WHERE}\nsrun -Q --het-group=0,1 --container={images.small} sh -c '{WHERE}'\n"
    )
    assert cluster.batch(script, work)[:2] == (0, "inside\n" * 3)


@pytest.mark.parametrize("target", ["", "=/tmp/test-bcast", "=/tmp/"])
def test_bcast(cluster: Cluster, images: Images, work: Work, target: str) -> None:
    """In the container the copied file runs, on every node."""
    program = work.write("program", f"#!/bin/sh\n{WHERE}; hostname; rm $0\n")
    done = cluster.srun("-N2", "-w", "n1,n2", f"--bcast{target}", f"--container={images.small}", program, cwd=work.path)
    assert sorted(good(done).split()) == ["inside", "inside", "n1", "n2"], done
    good(cluster.exec(f"rm -f {work.path}/slurm_bcast*; rm -f /tmp/slurm_bcast* /tmp/test-bcast", user="root"))


@pytest.mark.parametrize("container", [True, False])
def test_scancel_reaches_a_trap(cluster: Cluster, images: Images, work: Work, container: bool) -> None:
    script = f"#!/bin/bash\ntrap 'echo caught; {WHERE}; exit 9' TERM USR1\necho > ready\nwhile :; do sleep 0.1; done\n"
    option = [f"--container={images.small}"] if container else []
    job = cluster.sbatch(script, work, *option)
    work.wait_for("ready")
    good(cluster.exec(["scancel", "--full", "--signal=TERM", str(job)]))
    assert cluster.ended(job)["ExitCode"] == "9:0"
    assert (
        work.read("job.out").replace("Terminated\n", "").endswith(f"caught\n{'inside' if container else 'outside'}\n")
    )


def test_scancel_ends_steps(cluster: Cluster, images: Images, work: Work) -> None:
    script = f"trap 'echo caught > {work.path}/caught' TERM; echo > {work.path}/ready; while :; do sleep 0.1; done"
    job = cluster.sbatch(
        f"#!/bin/bash\nsrun -Q --container={images.small} bash -c '{script.replace(chr(39), chr(34))}'\n", work
    )
    work.wait_for("ready")
    good(cluster.exec(["scancel", str(job)]))
    cluster.ended(job)
    assert work.exists("caught"), "SIGTERM comes before SIGKILL"


def test_a_signal_to_srun(cluster: Cluster, images: Images, work: Work) -> None:
    words = ["srun", "-Q", f"--container={images.small}", "sh", "-c", f"echo > {work.path}/ready; exec sleep 100"]
    with cluster.start(words) as step:
        work.wait_for("ready")
        step.terminate()
        assert step.result().rc != 0


def test_every_exit_code(cluster: Cluster, images: Images) -> None:
    """All 256 exit codes, as steps of one job, several at a time."""
    step = f'srun -Q -n1 --exact --container={images.small} sh -c "exit {{}}"; echo {{}} $?'
    done = cluster.exec(
        ["salloc", "-Q", "-n4", "bash", "-c", f"seq 0 255 | xargs -P4 -I{{}} bash -c '{step}'"], seconds=180
    )
    seen = dict(line.split() for line in done.out.splitlines())
    # Slurm itself uses 253, and srun returns 1 for it.
    expected = {str(code): str(code) for code in range(256)}
    expected["253"] = str(cluster.srun("sh", "-c", "exit 253").rc)
    assert seen == expected


@pytest.mark.parametrize("name", ["TERM", "KILL", "SEGV", "ABRT", "USR1", "INT"])
def test_death_by_signal(cluster: Cluster, images: Images, name: str) -> None:
    words = ["sh", "-c", f"ulimit -c 0; kill -{name} $$"]
    inside = cluster.srun("-w", "n1", f"--container={images.small}", *words)
    outside = cluster.srun("-w", "n1", *words)
    assert inside == outside and inside.rc > 128


def test_one_task_that_fails(cluster: Cluster, images: Images) -> None:
    words = ["bash", "-c", "test $SLURM_PROCID != 1 || exit 3; sleep 0.2"]
    inside = cluster.srun("-n4", "-w", "n1", "-N1", f"--container={images.small}", *words)
    assert inside == (3, "", "srun: error: n1: task 1: Exited with exit code 3\n")


def test_one_task_that_ends_the_others(cluster: Cluster, images: Images) -> None:
    words = ["bash", "-c", "test $SLURM_PROCID != 1 || exit 3; exec sleep 100"]
    inside = cluster.srun("-n4", "-w", "n1", "-N1", "--kill-on-bad-exit", f"--container={images.small}", *words)
    outside = cluster.srun("-n4", "-w", "n1", "-N1", "--kill-on-bad-exit", *words)
    assert inside.rc == outside.rc and "task 1: Exited with exit code 3" in inside.err, (inside, outside)
