# SPDX-License-Identifier: BSD-3-Clause
"""Batch scripts and allocations in containers. No step and no job inherits a container.

This is Slurm's own rule for --container: a step is in the container of its own srun line. An srun without --container
runs on the host, also in a batch script that is in a container.
"""

from __future__ import annotations

from cluster import WHERE, Cluster, Images, Work, good

SPECS = "! env | grep -e ^SLURM_BOLLARD -e ^SLURM_CONTAINER"


def test_a_script_with_an_sbatch_line(cluster: Cluster, images: Images, work: Work) -> None:
    script = f"#!/bin/bash\n#SBATCH --container={images.small}\n{WHERE}\npwd\nexit 3\n"
    assert cluster.batch(script, work)[:2] == (3, f"inside\n{work.path}\n")


def test_the_command_line_of_sbatch(cluster: Cluster, images: Images, work: Work) -> None:
    assert cluster.batch(f"#!/bin/sh\n{WHERE}\n", work, f"--container={images.small}")[:2] == (0, "inside\n")


def test_the_interpreter_is_the_images(cluster: Cluster, images: Images, work: Work) -> None:
    done = cluster.batch("#!/usr/bin/nobody-has-this\n", work, f"--container={images.small}")
    assert done.rc == 255 and done.out.count("bollard: ") == 1, done


def test_environment_forms(cluster: Cluster, images: Images, work: Work) -> None:
    script = f"#!/bin/sh\n{WHERE}\n"
    assert cluster.batch(script, work, env={"SBATCH_CONTAINER": images.small})[:2] == (0, "inside\n")
    done = cluster.srun("sh", "-c", WHERE, env={"SRUN_CONTAINER": images.small})
    assert good(done) == "inside\n"


def test_arguments_of_a_script(cluster: Cluster, images: Images, work: Work) -> None:
    script = work.write("args.sh", '#!/bin/bash\nprintf "%s\\n" "$@"\n')
    words = ["one", "two words", "", "*", "a'b\"c", "--x=$HOME"]
    submit = ["sbatch", "--parsable", f"--output={work.path}/args.out", f"--container={images.small}", script, *words]
    job = int(good(cluster.exec(submit, cwd=work.path)))
    cluster.jobs.append(job)
    assert cluster.ended(job)["JobState"] == "COMPLETED"
    assert work.read("args.out") == "".join(f"{word}\n" for word in words)


def test_a_script_on_the_host_starts_containers(cluster: Cluster, images: Images, work: Work) -> None:
    inside = f"srun -Q -n2 -N2 --container={images.small} sh -c '{WHERE}'"
    script = f"#!/bin/bash\n{WHERE}\n{inside}\nsrun -Q -n1 -N1 sh -c '{WHERE}'\n"
    assert cluster.batch(script, work, "-N2")[:2] == (0, "outside\ninside\ninside\noutside\n")


def test_srun_within_a_script_in_a_container(cluster: Cluster, images: Images, work: Work) -> None:
    """The image has Slurm's commands. Steps of the script run on the host unless their srun has --container."""
    script = (
        f"#!/bin/bash\n#SBATCH --container={images.mpi}\n{WHERE}\n"
        f"srun -Q -n2 -N2 sh -c '{WHERE}'\n"
        f"srun -Q -n2 -N2 --container={images.small} sh -c '{WHERE}; cat /etc/debian_version'\n"
    )
    version = (images.small_tree / "etc/debian_version").read_text()
    done = cluster.batch(script, work, "-N2")
    assert done.rc == 0, done
    lines = done.out.splitlines()
    assert lines[:3] == ["inside", "outside", "outside"], done
    assert sorted(lines[3:]) == sorted(["inside", version.strip()] * 2), done


def test_nothing_is_inherited(cluster: Cluster, images: Images, work: Work) -> None:
    """Neither nested steps nor jobs that a job submits inherit the container."""
    script = (
        f"#!/bin/bash\n#SBATCH --container={images.mpi}\n{SPECS}\n"
        f"srun -Q -n1 bash -c '{WHERE}; {SPECS}'\n"
        f"sbatch --parsable --output={work.path}/child.out --wrap '{WHERE}; {SPECS}' > child.job\n"
    )
    done = cluster.batch(script, work)
    assert done.out == "outside\n", done
    child = int(work.read("child.job"))
    cluster.jobs.append(child)
    cluster.ended(child)
    assert work.read("child.out") == "outside\n"


def test_no_option_is_inherited(cluster: Cluster, images: Images, work: Work) -> None:
    """Slurm passes the options of plugins on to nested steps; bollard's apply only to the command that has them."""
    step = f"srun --container={images.small} true"
    script = f"#!/bin/bash\n#SBATCH --container={images.mpi} --container-verbose\n{step} 2> {work.path}/nested\n"
    done = cluster.batch(script, work)
    assert done.rc == 0 and "bollard" in done.out, done
    assert work.read("nested") == ""
    done = cluster.exec(["salloc", "-Q", "--container-verbose", "bash", "-c", step])
    assert good(done) == ""


def test_environment_forms_of_the_others(cluster: Cluster, images: Images, work: Work) -> None:
    """The variable overrides an #SBATCH line, and the command line overrides both, as with Slurm's own options."""
    script = f"#!/bin/sh\n#SBATCH --container=/no/such.sif\n{WHERE}\n"
    assert cluster.batch(script, work, env={"SBATCH_CONTAINER": images.small})[:2] == (0, "inside\n")
    wrong = {"SBATCH_CONTAINER": "/no/such.sif", "SRUN_CONTAINER": "/no/such.sif"}
    assert cluster.batch(script, work, f"--container={images.small}", env=wrong)[:2] == (0, "inside\n")
    assert good(cluster.srun(f"--container={images.small}", "sh", "-c", WHERE, env=wrong)) == "inside\n"


def test_a_command_of_salloc_is_on_the_host(cluster: Cluster, images: Images) -> None:
    """No plugin can change that; a warning tells the user."""
    done = cluster.exec(["salloc", "-Q", f"--container={images.small}", "hostname"])
    assert done.rc == 0 and done.out == "ctl\n", done
    assert done.complaints() == [
        "bollard: warning: salloc runs hostname on this host, not in the container; "
        "write salloc srun --container=IMAGE PROGRAM"
    ]
    done = cluster.exec(["salloc", "-Q", "hostname"])
    assert (done.rc, done.err) == (0, "")


def test_salloc_starts_containers(cluster: Cluster, images: Images) -> None:
    done = cluster.exec(["salloc", "-Q", "-N2", "srun", f"--container={images.small}", "sh", "-c", WHERE])
    assert good(done) == "inside\ninside\n"


def test_the_interactive_step_of_salloc(cluster: Cluster, images: Images) -> None:
    """With LaunchParameters=use_interactive_step, salloc's shell is a step on the first node, in the container."""
    terminal = cluster.terminal(f"salloc -Q --container={images.small}")
    terminal.sendline(f"PS1=; {WHERE}; hostname; stty size")
    terminal.expect("inside\r\nn[1-4]\r\n24 80\r\n")
    terminal.sendline("exit 5")
    terminal.expect_exact("exit")
    terminal.wait()
    assert terminal.exitstatus == 5


def test_a_plain_step_in_the_interactive_step(cluster: Cluster, images: Images) -> None:
    terminal = cluster.terminal(f"salloc -Q --container={images.mpi}")
    terminal.sendline(f"PS1=; {WHERE}; srun -Q sh -c '{WHERE}'; echo done $?")
    terminal.expect("inside\r\noutside\r\ndone 0\r\n")
    terminal.sendline("exit")
    terminal.expect_exact("exit")
    terminal.wait()
    assert terminal.exitstatus == 0
