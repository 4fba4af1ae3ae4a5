# SPDX-License-Identifier: BSD-3-Clause
"""The `bollard` command: reading its options, its help, its errors, and `bollard plan`."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

import bollard
from bollard.runtime.cli.commands import COMMANDS
from bollard.runtime.errors import BollardError
from bollard.runtime.request import command_line, forms, options, spec
from bollard.runtime.system import workspace

OWN = {"json": ("", "for programs"), "shell": ("PATH", "a shell")}


def parse(*argv: str):
    return command_line.parse(list(argv), "plan", OWN)


def command(*argv: str, cwd=None, **environ: str) -> subprocess.CompletedProcess[str]:
    """`bollard ARGV` in a process of its own, with no variables but `environ`."""
    return subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from bollard.runtime.cli.main import main; sys.exit(main(sys.argv[1:]))",
            *argv,
        ],
        env={"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "HOME": "/home/u", **environ},
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


def refused(*argv: str, cwd=None) -> str:
    """The one line that a failing command prints."""
    done = command(*argv, cwd=cwd)
    assert (done.returncode, done.stdout) == (255, "")
    assert done.stderr.startswith("bollard: ")
    assert done.stderr.count("\n") == 1
    return done.stderr[9:-1]


@pytest.fixture(scope="module")
def squashfs(tmp_path_factory):
    tree = tmp_path_factory.mktemp("tree")
    (tree / "etc").mkdir()
    path = tree.parent / "img.sqfs"
    subprocess.run(["mksquashfs", str(tree), str(path), "-quiet", "-noappend"], stdout=subprocess.DEVNULL, check=True)
    return path


@pytest.fixture
def directory(tmp_path):
    scripts = tmp_path / "root/.singularity.d/env"
    scripts.mkdir(parents=True)
    (scripts / "90-environment.sh").write_text("export WHO=image PATH=/own:$PATH\n")
    return tmp_path / "root"


# Options


@pytest.mark.parametrize(
    ("argv", "found", "rest"),
    [
        ([], [], []),
        (["img", "--cleanenv", "-x"], [], ["img", "--cleanenv", "-x"]),
        (["--cleanenv", "img"], [("cleanenv", "1")], ["img"]),
        (["-e", "img"], [("cleanenv", "1")], ["img"]),
        (["--bind", "/a:/b", "img"], [("bind", "/a:/b")], ["img"]),
        (["--bind=/a=b", "-B", "/c", "-B/d", "img"], [("bind", "/a=b"), ("bind", "/c"), ("bind", "/d")], ["img"]),
        (["-eB/a", "img"], [("cleanenv", "1"), ("bind", "/a")], ["img"]),
        (["--env", "A=b c", "--env=B=", "img"], [("env", "A=b c"), ("env", "B=")], ["img"]),
        (["--pwd", "-", "img"], [("pwd", "-")], ["img"]),
        (["--cwd", "/x", "--debug", "img"], [("pwd", "/x"), ("verbose", "1")], ["img"]),
        (["--json", "-s", "/bin/zsh", "img"], [("json", "1"), ("shell", "/bin/zsh")], ["img"]),
        (["--", "--img"], [], ["--img"]),
        (["-"], [], ["-"]),
    ],
)
def test_options_end_at_the_image(argv, found, rest):
    assert parse(*argv) == (found, rest)


OWN_WORD = "the image is a word of its own: bollard plan [OPTION...] IMAGE ..."
SRUNS = "that is srun's name; write "


@pytest.mark.parametrize(
    ("argv", "message", "hint"),
    [
        (["--bnd", "x"], "--bnd: no such option", "did you mean --bind?"),
        (["--zzz=1"], "--zzz=1: no such option", "see `bollard plan --help`"),
        (["-Z"], "-Z: no such option", "see `bollard plan --help`"),
        (["--bind"], "--bind needs a value", "write --bind=SRC[:DST[:FLAGS]]"),
        (["-v", "/tmp:/data", "img"], "-v /tmp:/data: -v is --verbose here", "write --bind /tmp:/data"),
        (["--volume", "/a:/b"], "--volume: no such option", "docker's --volume: write --bind SRC:DST"),
        (["--container", "i"], "--container: no such option", OWN_WORD),
        (["--container-mounts=/a:/b"], "--container-mounts=/a:/b: no such option", SRUNS + "--mounts"),
        (["--container-mount-home"], "--container-mount-home: no such option", SRUNS + "--no-home=false"),
        (["--cleanenv=x"], "--cleanenv=x: a switch takes no value", "write --cleanenv alone"),
    ],
)
def test_options_that_cannot_be_meant(argv, message, hint):
    with pytest.raises(BollardError) as caught:
        parse(*argv)

    assert (caught.value.message, caught.value.hint) == (message, hint)


def test_build_takes_no_options_of_a_container():
    with pytest.raises(BollardError):
        command_line.parse(["--bind", "/a"], "build", {"force": ("", "")}, container=False)
    assert command_line.parse(["-F", "a", "b"], "build", {"force": ("", "")}, container=False)[0] == [("force", "1")]


@pytest.mark.parametrize("command", ["build", "inspect", "sif add"])
def test_where_no_program_follows_options_may_stand_anywhere(command):
    own = {"force": ("", ""), "size": ("N", "")}
    argv = ["a", "--size", "5", "-", "b", "-F", "--", "--force"]
    assert command_line.parse(argv, command, own, container=False) == (
        [("size", "5"), ("force", "1")],
        ["a", "-", "b", "--force"],
    )


def test_what_follows_the_job_is_the_programs():
    assert command_line.parse(["7", "ls", "-l"], "attach", {}, container=False) == ([], ["7", "ls", "-l"])


def test_environment_forms():
    environ = {"APPTAINER_BIND": "/a", "BOLLARD_PWD": "", "SINGULARITY_CLEANENV": "1", "BIND": "/x"}

    assert command_line.variables(environ) == [("APPTAINER_BIND", "/a"), ("SINGULARITY_CLEANENV", "1")]


@pytest.mark.parametrize("name", list(COMMANDS))
def test_help_names_every_option(name):
    done = command(name, "--help")
    container = COMMANDS[name][3]

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: bollard {name} ")
    assert max(map(len, done.stdout.splitlines())) <= 120
    for row in options.TABLE:
        assert (f"--{row.name}" in done.stdout.split()) == (container or row.name in COMMANDS[name][2])
        assert all(form in done.stdout for form in row.forms) or not container
    assert all(f"--{option}" in done.stdout for option in COMMANDS[name][2])


def test_help_and_version():
    overview = command("--help")

    assert overview.returncode == command().returncode == 0
    assert all(f"\n  {name} " in overview.stdout for name in COMMANDS)
    assert command("--version").stdout == f"bollard {bollard.__version__}\n"


# Errors


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["nosuch"], "nosuch: no such command; see `bollard --help`"),
        (["exce", "img", "true"], "exce: no such command; did you mean `bollard exec`?"),
        (["instnace", "list"], "instnace: no such command; did you mean `bollard instance`?"),
        (["site", "chek"], "site chek: no such command; see `bollard site --help`"),
        (["site", "check", "n1"], "site check: unexpected 'n1'; see `bollard site check --help`"),
        (["exec"], "no image named; name a SIF file, a squashfs file or a directory"),
        (["exec", "no.sif", "id"], "no.sif: no such file; check the name with `ls "),
        (["exec", "sftp://host/x", "id"], "sftp://host/x: sftp images cannot be fetched; known are docker, oras, "),
        (["exec", "library://x", "id"], "library://x: no library is named; add --library URL, set BOLLARD_LIBRARY"),
        (["pull"], "pull takes a URI, and perhaps a file before it, not 0 words"),
        (["cache", "clean"], "cache clean asks before it removes anything, and there is no terminal; add --force"),
        (["cache", "clean", "-f", "--days=x"], "--days x: is not a number; write --days 30"),
        (["exec", "--bind", "a:b", "/i", "id"], "bind 'a:b': 'b' must begin with /"),
        (["plan", "no.sif"], "no.sif: no such file"),
        (["build", "a.sif"], "build takes two names, not 1"),
        (["build", "a.sif", "/no/such/tree"], "/no/such/tree: No such file or directory"),
    ],
)
def test_a_mistake_is_one_line(argv, text, tmp_path):
    assert text in refused(*argv, cwd=tmp_path)


def test_exec_needs_a_program(squashfs):
    missing = f"no command given after the image {squashfs}; name a program of the image, or use `bollard shell`"
    assert refused("exec", str(squashfs)) == missing
    before = "--bind: not an option of all commands; options come after the command: "
    before += "`bollard exec --bind ... IMAGE PROGRAM`"
    assert refused("--bind", "/a", "exec", str(squashfs), "true") == before
    assert refused("exec", "--name", "x", str(squashfs), "true").startswith("--name x: only the steps of a job share")


# bollard plan


def planned(*argv: str, cwd=None, **environ: str):
    done = command("plan", "--json", *argv, cwd=cwd, **environ)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def test_plan_of_a_squashfs(squashfs):
    plan = planned("--bind", "/usr:/mnt:ro", "--env", "A=b", squashfs.name, "ls", "-l", cwd=squashfs.parent)

    assert plan["command"] == ["ls", "-l"]
    assert plan["spec"]["image"] == plan["image"]["path"] == str(squashfs)
    assert plan["spec"]["asked"] == squashfs.name
    assert plan["spec"]["binds"] == [["/usr", "/mnt", True]]
    assert plan["spec"]["env"] == [["A", "b"]]
    assert (plan["image"]["kind"], plan["image"]["offset"], plan["image"]["arch"]) == ("squashfs", 0, None)
    assert plan["image"]["scripts"] is False
    mounts = {mount["target"]: mount for mount in plan["mounts"]}
    assert (mounts["/home/u"]["kind"], mounts["/home/u"]["source"]) == ("bind", "/home/u")
    assert (mounts["/mnt"]["source"], mounts["/mnt"]["read_only"], mounts["/mnt"]["if_missing"]) == (
        "/usr", True, "refuse",
    )  # fmt: skip
    assert [namespace["name"] for namespace in plan["namespaces"]] == ["user", "mnt"]
    assert (plan["layers"], plan["writable"]) == ([], False)
    environment = plan["environment"]
    assert (environment["A"], environment["HOME"], environment["BOLLARD_IMAGE"]) == ("b", "/home/u", squashfs.name)
    assert environment["APPTAINER_BIND"] == "/mnt"


def test_plan_of_a_directory_has_the_images_environment(directory):
    environment = planned(str(directory), WHO="host", ELSE="host")["environment"]

    assert (environment["WHO"], environment["ELSE"]) == ("image", "host")
    assert environment["PATH"].startswith("/own:/usr/local/sbin:")


def test_plan_has_namespaces_layers_and_cards(squashfs, tmp_path):
    (tmp_path / "layer").mkdir()
    wishes = ["--overlay", f"{tmp_path}/layer", "--overlay", f"{squashfs}:ro", "--net", "--hostname", "there", "--nv"]
    plan = planned(*wishes, str(squashfs))

    assert [(namespace["name"], namespace["setting"]) for namespace in plan["namespaces"]] == [
        ("user", "own ids"), ("mnt", ""), ("net", ""), ("uts", "there"),
    ]  # fmt: skip
    layers = [(layer["source"], layer["filesystem"], layer["read_only"]) for layer in plan["layers"]]
    assert layers == [(f"{tmp_path}/layer", "directory", False), (str(squashfs), "squashfs", True)]
    assert plan["writable"] is True
    assert bool(plan["missing_gpus"]) != any(mount["target"].startswith("/.singularity.d") for mount in plan["mounts"])
    assert len(plan["text"]) == len(plan["namespaces"] + plan["layers"] + plan["mounts"])


def test_plan_refuses_what_the_keeper_refuses(squashfs, tmp_path):
    assert "is a file; --writable needs a directory" in refused("plan", "--writable", str(squashfs))
    assert "overlay /nope: No such file" in refused("plan", "--overlay", "/nope", str(squashfs))
    wishes = ["--overlay", str(tmp_path), "--writable-tmpfs"]
    assert "more than one layer to write to" in refused("plan", *wishes, str(squashfs))


def test_plan_follows_variables(squashfs):
    spec = planned(str(squashfs), APPTAINER_BIND="/usr", SINGULARITY_NO_HOME="1", BOLLARD_LOG="debug")["spec"]

    assert (spec["binds"], spec["home"], spec["verbose"]) == ([["/usr", "/usr", False]], "", True)


def test_plan_for_people(directory):
    done = command("plan", str(directory), "id", WHO="host", ELSE="host", LD_LIBRARY_PATH="/x")

    assert (done.returncode, done.stderr) == (0, "")
    assert "  WHO=image\n" in done.stdout
    assert "ELSE" not in done.stdout
    assert "\n  not passed: LD_LIBRARY_PATH" in done.stdout
    assert "/dev  from  /dev  (devices)" in done.stdout


def test_plan_to_a_reader_that_has_enough(directory):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        done = subprocess.run(
            [sys.executable, "-c", f"from bollard.runtime.cli.main import main; main(['plan', {str(directory)!r}])"],
            stdout=closed,
            stderr=subprocess.PIPE,
            check=False,
        )

    assert done.stderr == b""


def test_the_path_of_exec_imports_little():
    code = f"import sys; sys.path[:0] = {[path for path in sys.path if path]!r}\n"
    code += "from bollard.runtime.cli import main\nfrom bollard.runtime.local import execution, submission\n"
    code += "from bollard.runtime.request import command_line, forms\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-ISc", code], stdout=subprocess.PIPE, check=True, encoding="utf-8")

    assert not {"argparse", "re", "typing", "subprocess", "logging", "json", "enum"} & set(done.stdout.split())


@pytest.mark.parametrize(
    ("argv", "found"),
    [
        (["-eC"], [("cleanenv", "1"), ("containall", "1")]),
        (["-cip"], [("contain", "1"), ("ipc", "1"), ("pid", "1")]),
        (["-fB/a:/b"], [("fakeroot", "1"), ("bind", "/a:/b")]),
        (["-B=/a:/b"], [("bind", "/a:/b")]),
        (["-W", "/w", "-S/s", "-o", "/o"], [("workdir", "/w"), ("scratch", "/s"), ("overlay", "/o")]),
        (["--contain=false", "--pid=TRUE", "-w=t"], [("contain", "0"), ("pid", "1"), ("writable", "1")]),
        (["-u", "--unsquash", "--no-init"], []),
        (["--no-nv", "--no-rocm", "--no-pid=false"], [("nv", "0"), ("rocm", "0")]),
        (["--keep-privs=false"], []),
    ],
)  # fmt: skip
def test_apptainers_ways_to_write_options(argv, found):
    assert parse(*argv, "img.sif") == (found, ["img.sif"])


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (["--add-caps", "CAP_NET_RAW"], "a container has the rights of its user"),
        (["--memory=1G"], "limits of a job are Slurm's"),
        (["--security", "seccomp:x"], "root's to set"),
        (["--nvccli"], "needs root"),
        (["--oom-kill-disable"], "limits of a job are Slurm's"),
        (["--runscript-timeout", "5"], "a limit on time is Slurm's"),
    ],
)
def test_options_that_cannot_be_had_say_why(argv, reason):
    with pytest.raises(BollardError) as caught:
        parse(*argv)

    assert argv[0].partition("=")[0] in caught.value.message and reason in caught.value.message


def test_tmpdir_is_where_images_are_converted(monkeypatch, tmp_path):
    monkeypatch.setenv("BOLLARD_TMPDIR", "/elsewhere")
    assert parse("--tmpdir", str(tmp_path), "img.sif") == ([], ["img.sif"])
    assert workspace.parent(os.environ) == str(tmp_path)


def test_opposites_win():
    """Over a variable that asks for the same, and over what --containall brings."""
    given = parse("--containall", "--no-pid", "--no-nv", "/img.sif")[0]
    values = forms.resolve([*given, ("APPTAINER_NV", "1"), ("APPTAINER_ROCM", "1"), ("image", "/img.sif")])
    asked = spec.make([*values, ("cwd", "/")])
    assert asked.unshare == ("ipc",) and asked.gpus == ("no-nv", "rocm")


@pytest.mark.parametrize("words", [["exec"], ["sif", "list"], ["sif"]])
def test_help_of_a_command(words):
    assert command("help", *words).stdout == command(*words, "--help").stdout
    assert command("help", *words).returncode == 0


@pytest.mark.parametrize("words", [["nosuch"], ["exce"], ["key", "nosuch"], ["sif", "list", "x"], ["exec", "x"]])
def test_help_of_no_command(words):
    done = command("help", *words)

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"bollard: {' '.join(words)}: no such command; ")


def test_verbose_before_an_image_is_verbose():
    assert parse("-v", "/data/img.sif") == ([("verbose", "1")], ["/data/img.sif"])
    assert parse("-v", "docker://a:1") == ([("verbose", "1")], ["docker://a:1"])


def test_root_cannot_give_its_rights_up(monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert parse("--no-privs", "img.sif") == ([], ["img.sif"])
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert parse("--no-privs=false", "img.sif") == ([], ["img.sif"])
    with pytest.raises(BollardError, match="--no-privs: root keeps"):
        parse("--no-privs", "img.sif")


def test_no_option_is_known_in_two_ways():
    table = set(options.ROWS)
    assert not table & set(options.REFUSED) and not table & set(options.WITHOUT_EFFECT)
    assert not set(options.REFUSED) & set(options.WITHOUT_EFFECT)


def test_apptainers_options_before_the_command(squashfs):
    assert command("-q", "--nocolor", "plan", str(squashfs)).returncode == 0
