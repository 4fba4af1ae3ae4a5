# SPDX-License-Identifier: BSD-3-Clause
"""Slurm's commands and mpirun in a container are the host's, for any C library of the image, or none."""

from __future__ import annotations

import pytest
from cluster import WHERE, Cluster, Images, Work, good, until
from test_mpi import lacks

SUITES = ("bullseye", "bookworm", "trixie", "sid")
TOOLS = "/run/bollard/bin"
# Runs its arguments: all there is in an image without a C library.
ALONE = """
#include <stdio.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	if (argc > 1)
		execvp(argv[1], argv + 1);
	perror("alone");
	return 1;
}
"""


def alone(cluster: Cluster, work: Work, form: str) -> str:
    """An image with one static program, /bin/alone, and nothing else."""
    work.write("alone.c", ALONE)
    good(cluster.exec("mkdir -p tree/bin && gcc -static -o tree/bin/alone alone.c", cwd=work.path))
    if form == "directory":
        return f"{work.path}/tree"
    good(cluster.exec(["bollard", "build", "alone.sif", "tree"], cwd=work.path))
    return f"{work.path}/alone.sif"


def check_commands(cluster: Cluster, image: str, work: Work, *how: str) -> None:
    """Check that each command prints the same in `image` as on the host; `how` starts a program in the image."""

    def inside(*words: str) -> str:
        return good(cluster.srun("-w", "n1", f"--container={image}", *how, *words, cwd=work.path))

    for words in (
        ["sinfo", "-h", "-o", "%n %P"],
        ["srun", "--version"],
        ["scontrol", "show", "partition"],
        ["sbatch", "--version"],
        ["salloc", "--version"],
        ["scancel", "--version"],
        ["sacct", "--version"],
    ):
        assert inside(*words) == good(cluster.exec(words, node="n1")), words
    assert inside("squeue", "-h", "-n", "name", "-o", "%u") == ""
    assert cluster.exec(["sacct"]).err in cluster.srun(f"--container={image}", *how, "sacct").err
    assert inside("srun", "--overlap", "hostname") == "n1\n"
    assert inside("srun", "--overlap", f"--container={image}", *how, "srun", "--overlap", "hostname") == "n1\n"
    job = inside("sbatch", "--parsable", "--hold", "--wrap", "true").strip()
    assert inside("squeue", "-h", "-j", job, "-o", "%u %Z") == f"alice {work.path}\n"
    assert inside("scancel", job) == ""
    until(lambda: not cluster.exec(["squeue", "-h", "-j", job]).out, "the end of the job")


@pytest.mark.parametrize("suite", SUITES)
def test_commands_in_an_image_of_any_release(cluster: Cluster, images: Images, work: Work, suite: str) -> None:
    check_commands(cluster, images.sif(suite, "small"), work)


@pytest.mark.parametrize("form", ["directory", "sif"])
def test_commands_in_an_image_without_a_c_library(cluster: Cluster, work: Work, form: str) -> None:
    """The image also has no users, hosts or shell: users and hosts are the host's."""
    check_commands(cluster, alone(cluster, work, form), work, "/bin/alone")


def test_commands_of_root_in_the_container(cluster: Cluster, images: Images, work: Work) -> None:
    """Slurm sees the user's own id."""
    root = ["-n1", f"--container={images.small}", "--container-remap-root"]
    assert good(cluster.srun(*root, "sh", "-c", "id -u; srun --overlap id -u")) == "0\n1000\n"
    job = good(cluster.srun(*root, "sbatch", "--parsable", "--hold", "--wrap", "true", cwd=work.path)).strip()
    cluster.jobs.append(int(job))
    assert good(cluster.srun(*root, "squeue", "-h", "-j", job, "-o", "%u")) == "alice\n"
    assert good(cluster.srun(*root, "scancel", job)) == ""
    until(lambda: not cluster.exec(["squeue", "-h", "-j", job]).out, "the end of the job")


def test_a_step_from_inside_in_another_container(cluster: Cluster, images: Images, work: Work) -> None:
    image = alone(cluster, work, "sif")
    look = f"grep VERSION_ID /etc/os-release; {WHERE}"
    done = cluster.srun(f"--container={image}", "srun", "--overlap", f"--container={images.small}", "sh", "-c", look)
    assert good(done) == f'VERSION_ID="{12 if cluster.suite == "bullseye" else 11}"\ninside\n'
    done = cluster.srun(f"--container={image}", "srun", "--overlap", "--container=/no/such.sif", "true")
    assert done.rc == 255 and "bollard: /no/such.sif: no such file" in done.err, done


def test_a_job_from_inside(cluster: Cluster, images: Images, work: Work) -> None:
    """The script is a file of the container. The job has the same directory and environment."""
    work.write("job.sh", f"#!/bin/sh\n{WHERE}; pwd; echo $COLOUR\n")
    command = f"cd {work.path} && COLOUR=red sbatch --wait -Q -o job.out job.sh"
    good(cluster.srun(f"--container={images.small}", "sh", "-c", command))
    assert work.read("job.out") == f"outside\n{work.path}\nred\n"
    good(
        cluster.srun(f"--container={images.small}", "sh", "-c", command.replace("-Q", f"-Q --container={images.small}"))
    )
    assert work.read("job.out") == f"inside\n{work.path}\nred\n"


def test_what_a_command_starts_has_the_containers_environment(cluster: Cluster, images: Images) -> None:
    """Neither a task nor salloc's shell gets the variables that were set for the host's loader."""
    look = f"{WHERE}; env | grep -E '^LD_|HIDDEN|paths.so|SLURM_BOLLARD' | sort"
    given = {"BOLLARDENV_LD_LIBRARY_PATH": "/image/lib"}
    expected = "LD_LIBRARY_PATH=/image/lib:/.singularity.d/libs\n"
    step = cluster.srun(f"--container={images.small}", "srun", "--overlap", "sh", "-c", look, env=given)
    assert good(step) == f"outside\n{expected}"
    shell = cluster.srun(f"--container={images.small}", "salloc", "-Q", "sh", "-c", look, env=given)
    assert good(shell) == f"inside\n{expected}"


def test_the_commands_carry_their_own_names(cluster: Cluster, images: Images, work: Work) -> None:
    line = ["srun", "-Q", "-w", "n1", f"--container={images.small}", "srun", "-Q", "--overlap", "sleep", "60"]
    with cluster.start(line):
        until(lambda: cluster.named("n1", "srun"), "srun on n1, not its loader")


def test_an_image_with_a_slurm_of_its_own(cluster: Cluster, images: Images) -> None:
    """The host's commands come first, because they work with the host's Slurm; BOLLARD_NO_SLURM selects the image's."""
    look = "command -v srun; srun --overlap hostname"
    assert good(cluster.srun("-w", "n1", f"--container={images.mpi}", "sh", "-c", look)) == f"{TOOLS}/srun\nn1\n"
    own = cluster.srun("-w", "n1", f"--container={images.mpi}", "sh", "-c", look, env={"BOLLARD_NO_SLURM": "1"})
    assert good(own) == "/usr/bin/srun\nn1\n", "of the same release here"
    done = cluster.srun(f"--container={images.small}", "srun", "hostname", env={"BOLLARD_NO_SLURM": "1"})
    assert done.rc == 255 and "bollard: srun: not found in the container" in done.err, done


def test_path_and_what_users_put_first(cluster: Cluster, images: Images) -> None:
    for given, path in (
        ({"BOLLARDENV_PREPEND_PATH": "/a"}, f"/a:{TOOLS}:/usr/local/sbin"),
        ({"BOLLARDENV_PATH": "/a:/usr/bin"}, "/a:/usr/bin"),
        ({"BOLLARD_NO_SLURM": "1"}, "/usr/local/sbin"),
    ):
        done = cluster.srun(f"--container={images.small}", "/usr/bin/printenv", "PATH", env=given)
        assert good(done).startswith(path), given


def test_by_hand(cluster: Cluster, images: Images) -> None:
    """Containers of `bollard exec` have the commands too: users submit jobs from a container on a login node."""
    words = ["bollard", "exec", images.small]
    assert good(cluster.exec([*words, "sinfo", "-h", "-o", "%n"])) == good(cluster.exec(["sinfo", "-h", "-o", "%n"]))
    assert good(cluster.exec([*words, "srun", "sh", "-c", WHERE])) == "outside\n"
    assert good(cluster.exec([*words, "srun", f"--container={images.small}", "sh", "-c", WHERE])) == "inside\n"


# mpirun


def ring(output: str) -> list[str]:
    return sorted(line.split(" library")[0] for line in output.splitlines())


def sound(cluster: Cluster, images: Images, library: str) -> str:
    """An image of the nodes' release; on Debian 12 another one, because its MPICH 4.0.2 may hang (docs/mpi.md)."""
    hangs = library == "mpich" and cluster.suite == "bookworm"
    return images.sif("trixie", "mpi") if hangs else images.mpi


@pytest.mark.parametrize(
    ("library", "line"),
    [
        ("ompi", "mpirun -n 4 --bind-to none"),
        ("ompi", "mpiexec --map-by ppr:2:node"),
        ("mpich", "mpiexec -n 4 -ppn 2"),
        ("mpich", "mpirun.mpich -hosts n1:2,n2:2"),
    ],
)
def test_mpirun_is_srun(cluster: Cluster, images: Images, work: Work, library: str, line: str) -> None:
    """The ranks use the wire-up of the program's MPI library, and run in the same container on both nodes."""
    script = f"#!/bin/sh\n{line} /opt/mpi/{library}_ring\n"
    options = ["-w", "n1,n2", "-N2", "-n4", "--ntasks-per-node=2", f"--container={sound(cluster, images, library)}"]
    done = cluster.batch(script, work, *options)
    if lacks(cluster, "pmix" if library == "ompi" else "pmi2", done):
        return
    hosts = ["n1"] * 2 + ["n2"] * 2
    assert ring(done.out) == [*(f"rank {n} of 4 on {host}" for n, host in enumerate(hosts)), "sum ok"], done
    assert done.rc == 0


def test_srun_takes_what_mpirun_was_given(cluster: Cluster, images: Images, work: Work) -> None:
    options = "--bind-to core --oversubscribe --tag-output -wdir /tmp --stdin none --allow-run-as-root"
    script = f"#!/bin/sh\nmpirun -H n1:2,n2 -n 3 {options} sh -c 'echo $(hostname) $(pwd)'\n"
    script += "mpirun --map-by node -n 3 -l hostname\nmpirun --map-by slot:PE=1 -np 2 hostname\n"
    done = cluster.batch(script, work, "-w", "n1,n2", "-N2", "--ntasks-per-node=2", f"--container={images.small}")
    ranks = ["0: n1 /tmp", "1: n1 /tmp", "2: n2 /tmp"] + ["0: n1", "1: n2", "2: n1"] + ["n1", "n1"]
    # Slurm 22.05 also warns that 3 tasks on 2 nodes are not 2 on each. A step waits if slurmctld does not know yet that
    # the one before has ended, and says so.
    own = ("srun: Warning: ", "srun: Job ", "srun: Step created for job ")
    printed = [line for line in done.out.splitlines() if not line.startswith(own)]
    assert sorted(printed) == sorted(ranks), done


def test_ranks_of_mpirun_have_the_containers_options(cluster: Cluster, images: Images, work: Work) -> None:
    """Binds, directory, variables and PATH are those of the container in which mpirun was called."""
    work.write("mark", "")
    script = (
        "#!/bin/bash\nexport PATH=/extra:$PATH LD_LIBRARY_PATH='/l/$x' COLOUR=red; cd /\n"
        "mpirun -n 2 -x TASTE=sweet sh -c 'echo $PATH $LD_LIBRARY_PATH $COLOUR $TASTE $GIVEN; pwd; ls /data/mark'\n"
    )
    given = {"BOLLARD_BIND": f"{work.path}:/data", "BOLLARDENV_GIVEN": "g i", "BOLLARD_PWD": "/tmp"}
    done = cluster.batch(script, work, "-n2", f"--container={images.small}", env=given)
    assert done.rc == 0, done
    assert done.out.count("/data/mark\n") == done.out.count("\n/tmp\n") == 2, done
    assert done.out.count(f"/extra:{TOOLS}:/usr/local/sbin") == 2
    assert done.out.count(" /l/$x:/.singularity.d/libs red sweet g i\n") == 2, done.out


def test_mpirun_in_a_step_shares_its_cpus(cluster: Cluster, images: Images) -> None:
    done = cluster.srun("-n2", "-N1", f"--container={images.small}", "sh", "-c", f"mpirun -n 2 sh -c '{WHERE}'")
    assert sorted(good(done).split()) == ["inside"] * 4


def test_the_images_own_mpirun(cluster: Cluster, images: Images, work: Work) -> None:
    """The image's mpirun runs with BOLLARD_NO_MPIRUN=1, and for --version and the like, which only it can answer."""
    version = "mpirun --version | head -1"
    own = good(cluster.srun(f"--container={images.mpi}", "sh", "-c", version))
    assert own.startswith("mpirun (Open MPI)")
    look = f"command -v mpirun; BOLLARD_NO_MPIRUN=1 {version}; echo $BOLLARD_NO_MPIRUN"
    assert good(cluster.srun(f"--container={images.mpi}", "sh", "-c", look)) == f"{TOOLS}/mpirun\n{own}\n"
    done = cluster.srun(f"--container={images.mpi}", "sh", "-c", look, env={"BOLLARD_NO_MPIRUN": "1"})
    assert good(done) == f"{TOOLS}/mpirun\n{own}1\n"


@pytest.mark.parametrize("library", ["ompi", "mpich"])
def test_the_images_own_mpirun_over_two_nodes(cluster: Cluster, images: Images, work: Work, library: str) -> None:
    """The processes that it starts on other nodes by srun are in the container too."""
    name = {"ompi": "openmpi", "mpich": "mpich"}[library]
    script = f"#!/bin/sh\nmpirun.{name} -n 2 /opt/mpi/{library}_ring\n"
    options = ["-w", "n1,n2", "-N2", "--ntasks-per-node=1", f"--container={sound(cluster, images, library)}"]
    done = cluster.batch(script, work, *options, env={"BOLLARD_NO_MPIRUN": "1"})
    lines = [line for line in ring(done.out) if line.startswith(("rank", "sum"))]
    assert lines == ["rank 0 of 2 on n1", "rank 1 of 2 on n2", "sum ok"], done


def test_what_mpirun_cannot_pass_on(cluster: Cluster, images: Images) -> None:
    done = cluster.srun(f"--container={images.mpi}", "mpirun", "--tune", "x", "true")
    assert done.rc == 255 and len(done.complaints()) == 1 and "BOLLARD_NO_MPIRUN=1" in done.err, done
