# SPDX-License-Identifier: BSD-3-Clause
"""bollard-inside, the real program: what it starts in the place of srun, and of mpirun (build.SOURCES).

The host's loader is a program here that tells its words and its environment.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
from pathlib import Path
from typing import NamedTuple

import pytest
from compiled import FOLDER

from bollard.spank_plugin import build, build_inside

JOB = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2", "BOLLARD_CONTAINER": "/i/a b.sif"}


LOADER = """
#include <stdio.h>
extern char **environ;

int main(int argc, char **argv)
{
	(void) argc;
	while (*++argv)
		printf("%s%c", *argv, 0);
	printf("--end--%c", 0);
	for (char **at = environ; *at; at++)
		printf("%s%c", *at, 0);
	return 0;
}
"""


class Started(NamedTuple):
    rc: int
    words: list[str]
    env: dict[str, str]
    err: str


@pytest.fixture(scope="module")
def view(tmp_path_factory):
    """/run/bollard of a container, with a loader that tells what it was asked."""
    folder = tmp_path_factory.mktemp("view")
    host = build_inside.HostSlurm(
        (("srun", "/usr/bin/srun"), ("sinfo", "/opt/s/sinfo")), "/loader", ("/l",), (), (), "/e"
    )
    text = build_inside.header(host, "/usr/lib/bollard").replace('"/run/bollard', f'"{folder}')
    (folder / "host_slurm.h").write_text(text)
    build.write_headers(folder)
    (folder / "loader.c").write_text(LOADER)
    subprocess.run(["cc", "-static", folder / "loader.c", "-o", folder / "loader"], check=True)
    (folder / "bin").mkdir()
    program = folder / "bin/bollard-inside"
    flags = ["-static", "-O1", "-g", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-Wno-missing-field-initializers"]
    subprocess.run(["cc", *flags, f"-I{folder}", "-o", program, *build.sources("bollard-inside")], check=True)
    for name in (*build_inside.MPIRUN, "srun", "sinfo", "sacct"):
        (folder / "bin" / name).symlink_to("bollard-inside")
    return folder


def start(view, *words, env=None):
    done = subprocess.run(
        [view / "bin" / words[0], *words[1:]],
        env={"PATH": f"{view}/bin:/usr/bin:/bin", **(env or {})},
        capture_output=True,
    )
    told, _, rest = done.stdout.decode().partition("--end--\0")
    env = dict(entry.split("=", 1) for entry in rest.split("\0") if entry)
    return Started(done.returncode, told.split("\0")[:-1], env, done.stderr.decode())


def srun(view, *words, env=None):
    """The words of the srun that an mpirun line becomes, past those that are always there."""
    started = start(view, *words, env={**JOB, **(env or {})})
    assert started.err == "" and started.words[:5] == [
        "--library-path", f"{view}/l", f"{view}/usr/bin/srun", "--container=/i/a b.sif", "--export=ALL",
    ], started  # fmt: skip
    return [word for word in started.words[5:] if not word.startswith("--mpi=")]


def test_a_command_is_the_hosts_by_the_hosts_loader(view):
    started = start(view, "sinfo", "-N", "a b", "", env={"LD_LIBRARY_PATH": "/image", "LD_PRELOAD": "/image/x.so"})
    assert started.words == ["--library-path", f"{view}/l", f"{view}/opt/s/sinfo", "-N", "a b", ""]
    assert started.env["LD_LIBRARY_PATH"] == "/image", "for what the command starts"
    assert started.env["LD_PRELOAD"] == f"{view}/bin/paths.so"
    assert started.env["_BOLLARD_HIDDEN_LD_PRELOAD"] == "/image/x.so"


def test_a_command_the_host_lacks(view):
    started = start(view, "sacct")
    assert started.rc == 255 and started.err.startswith("bollard: sacct: not a command of Slurm's on this node;")


@pytest.mark.parametrize(
    ("line", "result"),
    [
        ("./app", ""),
        ("-n 4 ./app", "--ntasks=4"),
        ("-np 4 -- ./app -x", "--ntasks=4"),
        ("--np=4 ./app", "--ntasks=4"),
        ("-n 4 --bind-to core ./app -n 9", "--cpu-bind=cores --ntasks=4"),
        ("--bind-to=hwthread:overload-allowed ./app", "--cpu-bind=threads"),
        ("-bind-to none ./app", "--cpu-bind=none"),
        ("--report-bindings -bind-to-core ./app", "--cpu-bind=verbose,cores"),
        ("--report-bindings ./app", "--cpu-bind=verbose"),
        ("-H n1,n2 ./app", "--nodes=2 --nodelist=n1,n2 --ntasks=2"),
        ("--host n1:2,n2:2 -n 3 ./app", "--nodes=2 --ntasks-per-node=2 --nodelist=n1,n2 --ntasks=3"),
        ("-host n1:2,n2:2 -n 2 ./app", "--nodes=1 --ntasks-per-node=2 --nodelist=n1 --ntasks=2"),
        ("-hosts n1,n1,n2 ./app", "--distribution=arbitrary --nodelist=n1,n1,n2 --ntasks=3"),
        ("-H n1 -N 3 ./app", "--nodes=1 --nodelist=n1 --ntasks-per-node=3 --ntasks=3"),
        ("-ppn 2 ./app", "--ntasks-per-node=2 --ntasks=4"),
        ("-n 3 -ppn 2 ./app", "--nodes=2 --ntasks-per-node=2 --ntasks=3"),
        ("-npernode 2 -n 2 ./app", "--nodes=1 --ntasks-per-node=2 --ntasks=2"),
        ("--map-by ppr:2:node ./app", "--ntasks-per-node=2 --ntasks=4"),
        ("--map-by node:PE=4 ./app", "--distribution=cyclic --cpus-per-task=4"),
        ("--map-by :OVERSUBSCRIBE -n 9 ./app", "--overcommit --ntasks=9"),
        ("--oversubscribe --tag-output ./app", "--overcommit --label"),
        ("-wdir /tmp -l -q ./app", "--chdir=/tmp --label --quiet"),
        ("--allow-run-as-root -launcher ssh -rmk slurm -genvall ./app", ""),
    ],
)
def test_lines_of_mpirun(view, line, result):
    words = srun(view, "mpirun", *line.split())
    at = words.index("--")
    assert words[:at] == result.split()
    assert words[at + 1 :] == line.split()[line.split().index("./app") :]


@pytest.mark.parametrize(
    ("layout", "ranks", "nodes"), [("2(x3),1", 2, 1), ("2(x3),1", 3, 2), ("2(x3),1", 7, 4), ("1,8", 9, 2), ("2", 3, 0)]
)
def test_ranks_fill_one_node_after_the_other(view, layout, ranks, nodes):
    words = srun(view, "mpirun", "-n", str(ranks), "./app", env={"SLURM_TASKS_PER_NODE": layout})
    spread = srun(view, "mpirun", "-bynode", "-n", str(ranks), "./app", env={"SLURM_TASKS_PER_NODE": layout})
    assert spread[: spread.index("--")] == ["--distribution=cyclic", f"--ntasks={ranks}"]
    assert words[: words.index("--")] == [*([f"--nodes={nodes}"] if nodes else []), f"--ntasks={ranks}"]


@pytest.mark.parametrize("option", ["-hostfile", "--machinefile", "-f"])
def test_a_file_of_hosts(view, tmp_path, option):
    file = tmp_path / "hosts"
    file.write_text("# ours\n\nn1 slots=2 max_slots=4\n n2:2 # two\n")
    words = srun(view, "mpirun", option, str(file), "./app")
    assert words == ["--nodes=2", "--ntasks-per-node=2", "--nodelist=n1,n2", "--ntasks=4", "--", "./app"]


def test_localhost_is_this_node(view):
    assert "--nodelist=n7" in srun(view, "mpirun", "-H", "localhost:2", "./app", env={"SLURMD_NODENAME": "n7"})


def test_variables(view):
    line = "-x A=1=2 -x B -env C c -genv D d --mca btl self,vader --prtemca x y --pmixmca p q ./app"
    started = start(view, "mpirun", *line.split(), env={**JOB, "B": "b", "LD_LIBRARY_PATH": '/x"$y'})
    names = ("A", "B", "C", "D", "OMPI_MCA_btl", "PRTE_MCA_x", "PMIX_MCA_p", "LD_LIBRARY_PATH")
    values = ["1=2", "b", "c", "d", "self,vader", "y", "q", '/x"$y']
    assert [started.env[name] for name in names] == values
    assert started.env["BOLLARDENV_LD_LIBRARY_PATH"] == '/x\\"\\$y', "read as between double quotes"
    assert started.env["BOLLARDENV_PATH"].endswith(":/usr/bin:/bin")
    assert started.env["BOLLARD_AS_HERE"] == "1"


@pytest.mark.parametrize(("step", "shared"), [("0", True), ("12", True), ("4294967290", False), ("", False)])
def test_in_a_step_its_cpus_are_shared(view, step, shared):
    env = {"SLURM_STEP_ID": step, "SLURM_CPU_BIND": "quiet,mask_cpu:0x1", "SLURM_NNODES": "1"}
    started = start(view, "mpirun", "-n", "2", "./app", env={**JOB, **env})
    assert ("--overlap" in started.words) is shared
    assert ("SLURM_CPU_BIND" in started.env) is not shared


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("--nosuch 1 ./app", "--nosuch"),
        ("-configfile x", "-configfile"),
        ("-n", "its value is missing"),
        ("-n many ./app", "many"),
        ("-n 0 ./app", "0"),
        ("--bind-to l3cache ./app", "l3cache"),
        ("--map-by ppr:2:socket ./app", "ppr:2:socket"),
        ("--map-by ppr:9999999999999999999:node ./app", "ppr:9999999999999999999:node"),
        ("--map-by seq ./app", "seq"),
        ("--rank-by node ./app", "node"),
        ("-hostfile /no/such ./app", "/no/such"),
        ("-H n1:x ./app", "n1"),
        ("-n 2", "no program"),
        ("-n 1 ./a : -n 1 ./b", "--multi-prog"),
    ],
)
def test_what_srun_cannot_do_is_said_in_one_line(view, line, word):
    started = start(view, "mpirun", *line.split(), env=JOB)
    assert started.rc == 255 and started.words == [], started
    assert started.err.startswith("bollard: mpirun") and started.err.count("\n") == 1 and word in started.err


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({**JOB, "BOLLARD_NO_MPIRUN": "1"}, ["-n", "2", "x"]),
        ({"BOLLARD_CONTAINER": "/i.sif"}, ["-n", "2", "x"]),  # no job
        (JOB, ["--version"]),
        (JOB, ["-n", "2", "--help"]),
    ],
)
def test_the_images_own_mpirun(view, tmp_path, env, words):
    own = tmp_path / "mpirun"
    own.write_text('#!/bin/sh\necho own "$SRUN_CONTAINER" "$@"\n')
    own.chmod(0o755)
    env = {**env, "PATH": f"{view}/bin:{tmp_path}:/usr/bin"}
    done = subprocess.run([view / "bin/mpirun", *words], env=env, capture_output=True, text=True)
    container = env["BOLLARD_CONTAINER"] if "SLURM_JOB_ID" in env else ""
    assert done.stdout == f"own {container} {' '.join(words)}\n", "what it starts by srun belongs in the container"
    env["PATH"] = f"{view}/bin:/nowhere"
    done = subprocess.run([view / "bin/mpirun", *words], env=env, capture_output=True, text=True)
    assert done.returncode == 255 and done.stderr.startswith("bollard: mpirun: the image has none;")


@pytest.mark.parametrize(
    ("library", "mpi"),
    [
        ("libmpi.so.40", "pmix"), ("libmpi_mpifh.so.40", "pmix"), ("libmpich.so.12", "pmi2"),
        ("libmpichfort.so.12", "pmi2"), ("libmpi.so.12", "pmi2"), ("libmpiexample.so.1", ""), ("libm.so.6", ""),
    ],
)  # fmt: skip
def test_the_wire_up_is_what_the_program_was_linked_with(view, tmp_path, library, mpi):
    subprocess.run(
        ["cc", "-shared", "-x", "c", "/dev/null", f"-Wl,-soname,{library}", "-o", tmp_path / library], check=True
    )
    source = tmp_path / "main.c"
    source.write_text("int main(void) { return 0; }\n")
    link = ["cc", source, "-Wl,--no-as-needed", tmp_path / library, "-o", tmp_path / "app"]
    subprocess.run(link, check=True)
    asked = [word for word in start(view, "mpirun", str(tmp_path / "app"), env=JOB).words if word.startswith("--mpi=")]
    assert asked == ([f"--mpi={mpi}"] if mpi else [])
    data = (tmp_path / "app").read_bytes()
    for size in (0, 5, 64, 100, 1000, len(data) // 2):  # cut off anywhere, it is no program of MPI, and no crash
        (tmp_path / "app").write_bytes(data[:size])
        assert start(view, "mpirun", str(tmp_path / "app"), env=JOB).rc == 0


@pytest.mark.parametrize(("own", "mpi"), [("openmpi", "pmix"), ("mpich", "pmi2"), ("hydra", "pmi2"), ("nothing", "")])
def test_the_wire_up_of_a_script_is_that_of_the_images_mpirun(view, tmp_path, own, mpi):
    (tmp_path / "bin").mkdir()
    target = tmp_path / f"mpirun.{own}"
    shutil.copy("/bin/true", target)
    (tmp_path / "bin/mpirun").symlink_to(target)
    env = {**JOB, "PATH": f"{view}/bin:{tmp_path}/bin"}
    words = start(view, "mpirun", "script.py", env=env).words if (tmp_path / "bin").exists() else []
    assert [word for word in words if word.startswith("--mpi=")] == ([f"--mpi={mpi}"] if mpi else [])


def test_the_name_tells_the_wire_up_too(view):
    assert "--mpi=pmix" in start(view, "mpirun.openmpi", "script", env=JOB).words
    assert "--mpi=pmi2" in start(view, "mpiexec.hydra", "script", env=JOB).words


def test_what_it_becomes_can_be_seen(view):
    done = subprocess.run(
        [view / "bin/mpirun", "-n", "2", "./app"],
        env={**JOB, "BOLLARD_SHOW_MPIRUN": "1"},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "srun --container=/i/a b.sif --export=ALL --ntasks=2 -- ./app\n"


@pytest.fixture(scope="module")
def paths(view):
    """paths.so for that view, and a file or two in it."""
    library = view / "paths.so"
    flags = ["-shared", "-fPIC", "-O2", "-std=gnu11", "-Wall", "-Wextra", "-Werror", f"-I{view}"]
    subprocess.run(["cc", *flags, "-o", library, FOLDER / "paths.c", "-ldl"], check=True)
    for name, text in {
        "e/slurm.conf": "of the host\n",
        "e/d/x.conf": "",
        "etc/passwd": "slurm:x:64030:64030::/:/bin/false\n",
        "etc/group": "slurm:x:64030:\nodd:x:64031:\n",
    }.items():
        (view / name).parent.mkdir(parents=True, exist_ok=True)
        (view / name).write_text(text)
    return library


def with_paths(paths, *words, env=None):
    env = {"PATH": "/usr/bin:/bin", "LD_PRELOAD": str(paths), **(env or {})}
    return subprocess.run(words, env=env, capture_output=True, text=True).stdout


def test_slurms_paths_are_in_the_view(paths):
    script = (
        "import glob, os, pwd, grp; print(open('/e/slurm.conf').read().strip(), os.listdir('/e/d'), "
        "os.path.exists('/e/slurm.conf'), os.path.exists('/elsewhere'), os.access('/e/none', 0), "
        "pwd.getpwnam('slurm').pw_uid, pwd.getpwuid(64030).pw_name, grp.getgrnam('odd').gr_gid, "
        "grp.getgrgid(64031).gr_name, pwd.getpwuid(0).pw_name)"
    )
    told = with_paths(paths, "/usr/bin/python3", "-Ic", script)
    assert told == "of the host ['x.conf'] True False False 64030 slurm 64031 odd root\n"


def test_a_socket_is_in_the_view(paths, view, tmp_path, monkeypatch):
    (view / "run/munge").mkdir(parents=True)
    monkeypatch.chdir(view / "run/munge")  # the path may be too long for a socket's name
    script = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX)\n"
        "try: s.connect('/var/run/munge/munge.socket.2'); print(s.recv(9))\nexcept OSError as e: print(e.strerror)"
    )
    assert "No such file" in with_paths(paths, "/usr/bin/python3", "-Ic", script)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("munge.socket.2")
        listener.listen()
        assert len(str(view)) < 70
        answer = threading.Thread(target=lambda: listener.accept()[0].send(b"munge"))
        answer.start()
        assert with_paths(paths, "/usr/bin/python3", "-Ic", script) == "b'munge'\n"
        answer.join()


def test_what_a_command_starts_has_the_containers_environment(paths):
    env = {"_BOLLARD_HIDDEN_LD_PRELOAD": "", "LD_LIBRARY_PATH": "/image"}
    told = with_paths(paths, "/usr/bin/env", env=env).splitlines()
    assert sorted(told) == ["LD_LIBRARY_PATH=/image", "LD_PRELOAD=", "PATH=/usr/bin:/bin"]
    assert with_paths(paths, "/usr/bin/env") == "PATH=/usr/bin:/bin\n"


def test_this_machines_own(tmp_path, monkeypatch):
    """Found by its programs: here /bin/true stands for srun."""
    (tmp_path / "bin").mkdir()
    shutil.copy("/bin/true", tmp_path / "bin/srun")
    (tmp_path / "slurm.conf").write_text(f"PluginDir={tmp_path}/a:{tmp_path}/b # ours\n")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    found = build_inside.find(tmp_path, "/usr/lib/bollard")

    assert found is not None
    assert dict(found.commands)["srun"] == f"{tmp_path}/bin/srun"
    assert found.plugins == (f"{tmp_path}/a", f"{tmp_path}/b")
    assert any((Path(folder) / "libc.so.6").exists() for folder in found.libraries) and Path(found.loader).exists()
    assert "/usr" in found.trees
    assert all(any(place.startswith(tree) for tree in found.trees) for place in (found.loader, *found.libraries))
    assert "PLACES = ('" in build_inside.module(found, "/p") and "TOOLS = '/p/inside/bin'" in build_inside.module(
        found, "/p"
    )


def test_a_machine_without_slurm(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert build_inside.find(tmp_path, "/p") is None
    assert "TOOLS = ''" in build_inside.module(None, "/p") and "PLACES = ()" in build_inside.module(None, "/p")


@pytest.mark.parametrize(
    ("places", "trees"),
    [
        (["/usr/lib/x/ld.so", "/usr/bin/srun", "/usr/lib/bollard/"], ("/usr",)),
        (["/usr/lib64/ld.so", "/opt/slurm/24/bin/srun", "/opt/bollard/"], ("/opt/bollard", "/opt/slurm", "/usr")),
        (["/lib64/ld.so", "/usr/bin/srun"], ("/lib64", "/usr")),
    ],
)
def test_the_fewest_directories(places, trees):
    assert build_inside.trees(places) == trees
