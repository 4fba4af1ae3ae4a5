# SPDX-License-Identifier: BSD-3-Clause
"""`bollard site check` where nothing is installed, and the parts of it that need no node."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from bollard.runtime import installed
from bollard.runtime.cli import main
from bollard.runtime.errors import BollardError
from bollard.runtime.request import site_config
from bollard.runtime.trust import keyring
from bollard.spank_plugin import (
    check,
    finding,
    folder_check,
    gpu_check,
    host_check,
    install,
    installation,
    plugstack_fault,
    policy_check,
    probes,
)
from bollard.spank_plugin.finding import FAILURE, OK, WARNING, Finding
from bollard.spank_plugin.installation import Where

TOP = Path(__file__).resolve().parents[2]


def test_a_machine_without_bollard(tmp_path):
    """What the machine can do is told all the same, and the installation is missing once."""
    where = Where(f"{tmp_path}/bollard", str(tmp_path), str(tmp_path), f"{tmp_path}/bollard.yaml")
    found = list(check.findings(where))
    assert [row for row in found if row.check == "kernel"][0].text == f"Linux {os.uname().release}"
    assert [row.check for row in found if str(tmp_path) in row.text] == ["installation"]
    for row in found:
        assert row.state in (OK, WARNING, FAILURE) and row.text and "\n" not in row.text, row
        assert bool(row.fix) == (row.state != OK), row
    assert finding.status(found) == FAILURE


def test_the_worst_counts():
    rows = [Finding("a", OK, ""), Finding("b", WARNING, "", "x")]
    assert finding.status(rows[:1]) == OK and finding.status(rows) == WARNING
    assert finding.status([*rows, Finding("c", FAILURE, "", "x")]) == FAILURE


def _refuse():
    raise BollardError("no such thing", "do something")


def test_an_attempt_tells_how_it_went():
    assert probes.attempt(lambda: "well") == (True, "well")
    assert probes.attempt(_refuse) == (False, "no such thing")
    assert probes.attempt(lambda: str(os.open("/no/such/file", os.O_RDONLY)))[1] == (
        "/no/such/file: No such file or directory"
    )
    assert probes.attempt(lambda: os._exit(3)) == (False, "the attempt was killed")


def test_an_attempt_is_made_by_no_root():
    assert probes.attempt(lambda: str(os.geteuid())) == (True, str(os.geteuid() or probes.NOBODY))


def test_settings_of_slurm(tmp_path):
    conf = tmp_path / "slurm.conf"
    assert installation.plugstack_file(str(tmp_path)) == f"{tmp_path}/plugstack.conf"
    conf.write_text("# SlurmdSpoolDir=/a\nslurmdspooldir = /b/%n # c\nPlugStackConfig=/etc/p.conf\nX\n")
    assert installation.slurm_setting(str(tmp_path), "SlurmdSpoolDir") == "/b/%n"
    assert installation.slurm_setting(str(tmp_path), "X") == ""
    assert installation.plugstack_file(str(tmp_path)) == "/etc/p.conf"
    where = Where("/opt/b", str(tmp_path))
    assert installation.plugstack_line(where) == "required /opt/b/spank_bollard.so spool=/b/%n\n"


def test_nothing_is_known_of_what_is_not_there(tmp_path):
    for text in (None, "{", "[]{}"):
        if text is not None:
            (tmp_path / installed.MANIFEST).write_text(text)
        try:
            install.read_manifest(str(tmp_path))
        except BollardError as error:
            assert str(tmp_path) in str(error)
        else:
            raise AssertionError(text)


@pytest.mark.parametrize("file", ["spank_plugin/__main__.py", "spank_plugin/build.py", "setup.py"])
@pytest.mark.parametrize("version", ["3.6", "3.7", "3.8"])
def test_an_older_python_reads_why(version, file):
    """The files that it starts have no newer syntax, and say which Python is needed."""
    text = (TOP / file).read_text()
    major, minor = map(int, version.split("."))
    ast.parse(text, feature_version=(major, minor))
    assert "import annotations" not in text  # from __future__: 3.7
    program = f"import sys; sys.version_info = ({version.replace('.', ', ')}, 1); "
    program += f"exec(compile({text!r}, {str(TOP / file)!r}, 'exec'))"
    done = subprocess.run([sys.executable, "-Bc", program], capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 1 and done.stderr.startswith("bollard: needs Python 3.9 or later"), done
    assert done.stderr.count("\n") == 1 and f" is {version};" in done.stderr


def test_what_is_no_program_says_so():
    done = subprocess.run([sys.executable, "-B", TOP / "spank_plugin/build.py"], capture_output=True, check=False)
    assert done.returncode == 1 and b"run `python3 spank_plugin`" in done.stderr, done


SHIM = "/p/spank_bollard.so"
MISSING = "cannot open shared object file: No such file or directory"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="root asks for users")


@needs_root
@pytest.mark.parametrize(
    ("spoil", "closed", "fix"),
    [
        ("true", "", ""),
        ("chmod 700 {0}/etc/plugstack.conf.d", "{0}/etc/plugstack.conf.d", "chmod a+rX {0}/etc/plugstack.conf.d"),
        ("chmod 700 {0}/etc", "{0}/etc", "chmod a+rX {0}/etc"),
        ("chmod 700 {0}/p", "{0}/p", "bollard site install"),
        ("chmod 600 {0}/p/spank_bollard.so", "{0}/p/spank_bollard.so", "bollard site install"),
        ("chmod 644 {0}/p/bollard-enter", "", ""),  # the check of the installation reports it
        ("chmod 711 {0}/p/bollard-enter", "", ""),
        ("chmod 700 {0}", "{0}", "chmod a+rX {0}"),
    ],
)
def test_what_users_cannot_read(spoil, closed, fix):
    """Root finds it too, who can read everything."""
    with tempfile.TemporaryDirectory(dir="/var/lib") as name:
        top = Path(name)
        for folder in (top, top / "p", top / "p/python"):
            folder.mkdir(exist_ok=True)
            folder.chmod(0o755)
        for file in ("spank_bollard.so", "bollard-enter", "python/a.py"):
            (top / "p" / file).touch(0o755)
        where = stack(top / "etc")._replace(prefix=f"{top}/p")
        assert os.system(spoil.format(top)) == 0
        (found,) = folder_check.access(where)
        assert found.state == (FAILURE if closed else OK), found
        if closed:
            assert (found.text, found.fix) == (f"closed to users: {closed.format(top)}", fix.format(top))


@needs_root
def test_directories_of_root(monkeypatch):
    """Of records only the directory counts: the group of a daemon may have its parent, as on Ubuntu."""
    with tempfile.TemporaryDirectory(dir="/var/lib") as name:
        top, path = Path(name), f"{name}/bollard"
        monkeypatch.setattr(folder_check.constants, "RECORDS", path)
        monkeypatch.setattr(folder_check.constants, "JOB_FOLDERS", path)
        checks = folder_check.records, folder_check.job_folders

        def found():
            return [next(one(Where(f"{name}/p", name))) for one in checks]

        top.chmod(0o755)
        assert [row.text for row in found()] == [f"the first container makes {path}"] * 2
        os.mkdir(path)
        assert [row.text for row in found()] == [f"{path} is root's alone"] * 2
        top.chmod(0o775)
        assert [row.state for row in found()] == [OK, FAILURE]
        os.chown(path, 1000, 0)
        assert [(row.state, row.fix) for row in found()][0] == (WARNING, f"chown -h root {path}")
        os.rmdir(path)
        Path(path).touch()
        assert [(row.state, row.fix) for row in found()] == [(state, f"remove {path}") for state in (WARNING, FAILURE)]


@pytest.mark.parametrize(
    ("said", "fix"),
    [
        (f"libpython3.9.so.1.0: {MISSING}", "install the library libpython3.9.so.1.0: libpython3.9 (Debian)"),
        (f"a: error while loading: libfuse.so.2: {MISSING}", "install the library libfuse.so.2: libfuse2"),
        (f"libzstd.so.1: {MISSING}", "install the library libzstd.so.1"),
        ("_bollard.so: cannot read file data", ""),
    ],
)
def test_the_library_that_is_missing(said, fix):
    assert folder_check.missing_library(said, "python3.9").startswith(fix)
    assert bool(folder_check.missing_library(said, "python3.9")) == bool(fix)


def stack(conf, include=True, line=f"required {SHIM} spool=/var/spool/slurmd\n", settings=""):
    """Slurm's configuration in the directory `conf`; `line` None: no file with the plugin's line."""
    (conf / "plugstack.conf.d").mkdir(parents=True)
    (conf / "slurm.conf").write_text(settings)
    (conf / "plugstack.conf").write_text(f"include {conf}/plugstack.conf.d/*.conf\n" if include else "# none\n")
    if line is not None:
        (conf / "plugstack.conf.d/bollard.conf").write_text(line)
    return Where("/p", str(conf))


@pytest.mark.parametrize(
    ("spoil", "text", "fix"),
    [
        ({"include": False}, "plugstack.conf does not include {conf}/plugstack.conf.d/b", "add to "),
        ({"line": None}, "there is no {conf}/plugstack.conf.d/bollard.conf", "bollard site install"),
        ({"line": "# none\n"}, "bollard.conf does not name the plugin", "bollard site install"),
        ({"line": f"required {SHIM} spool=/nosuch\n"}, "says spool=/nosuch, but", "write spool=/var/spool/slurmd"),
        ({"line": f"required {SHIM}\n"}, "has no spool=, but SlurmdSpoolDir is /var/spool/slurmd", "write spool="),
        ({"settings": "SlurmdSpoolDir=/s/%n\n"}, "but SlurmdSpoolDir is /s/%n", "write spool=/s/%n there"),
        ({"line": f"requires {SHIM}\n"}, "bollard.conf:1: 'requires' is none of required", "mend that line"),
        ({"line": "# ours\nrequired\n"}, "bollard.conf:2: 'required' is none of", "mend that line"),
    ],
)
def test_the_cause_in_plugstack(tmp_path, spoil, text, fix):
    conf = tmp_path / "etc"
    (finding,) = check._plugstack(stack(conf, **spoil))
    assert finding.state == FAILURE
    assert text.format(conf=conf) in finding.text and finding.fix.startswith(fix.format(conf=conf)), finding


def test_slurms_files_in_another_place(tmp_path):
    for place in (tmp_path / "none", tmp_path):
        (finding,) = check._plugstack(Where("/p", str(place)))
        assert finding.text == f"{place} has neither slurm.conf nor plugstack.conf"
        assert finding.fix.endswith("with --slurm-conf")


def test_no_slurm_conf(tmp_path, monkeypatch):
    """Slurm then asks the name service for a controller, and complains of that."""
    monkeypatch.setattr(check.install, "read_manifest", lambda prefix: {"slurm": "22.05"})
    said = "srun: error: resolve_ctls_from_dns_srv: res_nsearch error: Host name lookup failure\n"
    monkeypatch.setattr(check, "_said", lambda *command, where: (1, said))
    (finding,) = check._slurm(Where("/p", str(tmp_path)))
    assert finding.text == f"there is no {tmp_path}/slurm.conf"
    said = "srun: error: spank: Failed to open /etc/slurm/plugstack.conf: Permission denied\n"
    (finding,) = check._slurm(stack(tmp_path / "etc"))
    assert finding.fix == "mend plugstack.conf first"


def test_the_device_of_fuse(tmp_path):
    path = tmp_path / "fuse"
    assert host_check.fuse_fix(str(path)) == "modprobe fuse"
    path.write_text("")
    assert host_check.fuse_fix(str(path)) == f"rm {path}; mknod -m 666 {path} c 10 229"
    assert host_check.fuse_fix("/dev/null").startswith("rm /dev/null; mknod")


@pytest.mark.parametrize(
    ("name", "mode", "told"),
    [
        ("bollard-enter", 0o644, "0644: users cannot start it"),
        ("bollard-keeper", 0o755, "0755: users must be able to start it, and not to read it"),
        ("squashfuse", 0o700, "0700: users must be able to start it, and not to read it"),
        ("bollard-enter", 0o755, ""),
        ("bollard-keeper", 0o711, ""),
    ],
)
def test_modes_of_programs(tmp_path, name, mode, told):
    (tmp_path / name).write_text("")
    (tmp_path / name).chmod(mode)
    (tmp_path / installed.MANIFEST).write_text('{"digests": {}}')
    (finding,) = check._installation(Where(str(tmp_path), "/c"))
    assert (finding.state == FAILURE) == bool(told) and told in finding.text
    assert not told or finding.fix == f"chmod {install.MODES[name]:04o} {tmp_path / name}"


@pytest.mark.parametrize(
    ("program", "told"),
    [("kill -SEGV $$", "was ended by signal 11"), ("echo no such; exit 3", "ended with exit status 3: no such")],
)
def test_a_file_server_that_does_not_start(tmp_path, program, told):
    (tmp_path / "squashfuse").write_text(f"#!/bin/sh\n{program}\n")
    (tmp_path / "squashfuse").chmod(0o755)
    (finding,) = check._squashfuse(Where(str(tmp_path), "/c"))
    assert (finding.state, finding.text) == (FAILURE, f"{tmp_path}/squashfuse {told}")


def test_settings_that_nobody_wrote(tmp_path):
    where = Where(str(tmp_path), "/c", config=str(tmp_path / "none.yaml"))
    fine = site_config.compiled(site_config.Settings({}, ""), str(tmp_path))
    for text, state in ((fine, OK), (b"home=0\n" + fine, WARNING)):
        (tmp_path / "site.conf").write_bytes(text)
        assert [row.state for row in check._settings(where)] == [state]


def test_plugstack_as_it_should_be(tmp_path):
    (finding,) = check._plugstack(stack(tmp_path / "etc"))
    assert finding.state == OK and "required, spool=/var/spool/slurmd" in finding.text


def test_the_help_of_srun_is_no_reason(tmp_path, monkeypatch):
    """--help has the word error in it; without the plugin's line the cause is plugstack.conf."""
    monkeypatch.setattr(check, "_said", lambda *command, where: (0, "  -e, --error=err   location of stderr\n"))
    (finding,) = check._plugin(stack(tmp_path / "a", include=False))
    assert (finding.text, finding.fix) == ("srun has not loaded it", "mend plugstack.conf, see above")
    (finding,) = check._plugin(stack(tmp_path / "b"))
    assert finding.state == FAILURE and "does not show --container" in finding.text
    said = "srun: error: spank: /p/spank_bollard.so: Plugin file not found\n  --error=err\n"
    monkeypatch.setattr(check, "_said", lambda *command, where: (1, said))
    (finding,) = check._plugin(stack(tmp_path / "c"))
    assert finding.text == "srun: error: spank: /p/spank_bollard.so: Plugin file not found"


def test_a_configless_slurm(tmp_path, monkeypatch):
    """slurmd's copies are what Slurm reads; nothing is changed there, and no owner is found wrong."""
    copies = tmp_path / "spool/conf-cache"
    stack(copies, include=False)
    (tmp_path / "conf").symlink_to(copies)
    monkeypatch.setattr(installation, "CONFIGLESS", f"{tmp_path}/conf")
    empty = tmp_path / "etc"
    empty.mkdir()
    (empty / "plugstack.conf").write_text(f"required {SHIM}\n")
    assert installation.conf_in_use(str(empty)) == f"{tmp_path}/conf"
    assert installation.conf_in_use(str(copies)) == str(copies)
    where = Where("/p", installation.conf_in_use(str(empty)))
    (finding,) = check._plugstack(where)
    assert finding.state == FAILURE
    assert finding.text.startswith(f"{tmp_path}/conf/plugstack.conf, which slurmd has copied")
    assert "the controller's plugstack.conf itself: required /p/spank_bollard.so spool=" in finding.fix
    assert not [row for row in check._owners(where) if str(tmp_path) in row.text + row.fix]
    with pytest.raises(BollardError, match="slurmd copies these files from the controller"):
        install.install(Where(f"{tmp_path}/p", f"{tmp_path}/conf"), print)


def test_missing_modules_and_programs(monkeypatch, tmp_path):
    where = Where("/p", str(tmp_path))
    monkeypatch.setattr(check, "_imports", lambda name: name != "cffi")
    (finding,) = check._modules(where)
    assert finding.state == FAILURE and "python3-cffi" in finding.fix
    monkeypatch.setattr(check, "_said", lambda *command, where: (0, "MPI plugin types are...\n\tpmix_v4\n"))
    assert [row.check for row in check._pmi(where)] == ["MPI plugins"]  # nobody knows of the library then
    monkeypatch.setenv("PATH", str(tmp_path))
    assert [(row.state, row.fix) for row in check._programs(where)] == [
        (WARNING, "install skopeo"), (WARNING, "install squashfs-tools"),
    ]  # fmt: skip


def test_the_command_of_a_lost_installation(tmp_path):
    program = tmp_path / "bollard"
    program.write_text(install.command_text(f"{tmp_path}/gone"))
    done = subprocess.run([sys.executable, "-IS", program], capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 255 and done.stderr.count("\n") == 1, done
    assert done.stderr.startswith(f"bollard: {tmp_path}/gone: the installation is missing")


def test_a_policy_that_refuses_everything_or_protects_nobody(tmp_path):
    key, ring = "A" * 40, tmp_path / "keys"

    def found(rule):
        text = f"trust: {{mode: enforce, keyring: {ring}, rules: [{rule}]}}\n"
        values, mistakes = site_config.read(text.encode())
        assert mistakes == []
        values["trust-file"] = "/y"
        (tmp_path / "site.conf").write_bytes(site_config.compiled(site_config.Settings(values, ""), str(tmp_path)))
        return [text for _, text, _ in policy_check.faults(str(tmp_path))]

    assert found("{from: /a, owner: 0, without: [x]}") == []
    assert found("{from: 'docker://h'}") == ["/y:1: users can put another file into their caches of docker://h"]
    assert "relies on the SBOM" in found("{from: /a, without: [x]}")[0]
    signed = f"{{from: anywhere, signed-by: {key}}}"
    assert [text.split(" is ")[0] for text in found(signed)] == [str(ring), f"{tmp_path}/gpgv"]
    ring.write_text("no keyring")
    assert any("is no keyring" in text for text in found(signed))
    ring.write_bytes(b"")
    assert any(text.endswith(f"lacks the key {key}") for text in found(signed))
    body = b"\4" + bytes(4) + b"\1" + (1024).to_bytes(2, "big") + b"\xff" * 128 + b"\0\x11\1\0\1"
    ring.write_bytes(b"\xc6\xff" + len(body).to_bytes(4, "big") + body)  # a packet of a public key
    key = keyring.read(str(ring))[0].fingerprint
    told = f"{ring}: the key {key} is RSA with 1024 bits, and 2048 are needed, so its signatures do not count"
    assert told in found(f"{{from: anywhere, signed-by: {key}}}")


@pytest.mark.parametrize(
    ("names", "known", "told"),
    [
        ([], ["libcuda.so.1"], []),
        (["nvidiactl", "nvidia0"], [], [(True, "NVIDIA: /dev/nvidia0 is there, but the loader knows no driver")]),
        (["nvidia0"], ["libcuda.so.1", "libm.so.6"], [(False, "NVIDIA: /dev/nvidia0, 1 libraries of the driver")]),
        (["kfd"], [], [(False, "AMD: /dev/kfd")]),
    ],
)
def test_a_node_with_a_card_and_its_driver(monkeypatch, tmp_path, names, known, told):
    monkeypatch.setattr(gpu_check.gpu, "of_machine", lambda: {name: f"/lib/{name}" for name in known})
    monkeypatch.setattr(
        gpu_check.gpu,
        "device_files",
        lambda kind: [f"/dev/{n}" for n in names if (n == "kfd") == (kind == "rocm") and n != "nvidiactl"],
    )

    assert [(failure, text[: len(told[0][1])]) for failure, text, _ in gpu_check.findings(str(tmp_path))] == told


def test_the_page_has_every_check():
    page = (TOP / "docs/admins.md").read_text()
    start = page.index("| id | finding | tried |")
    rows = page[start : page.index("\n\n", start)].splitlines()[2:]
    assert rows == [f"| `{finding.identity(name)}` | {name} | {tried} |" for name, tried in finding.TRIED.items()]
    assert len({finding.identity(name) for name in finding.TRIED}) == len(finding.TRIED)


def test_every_finding_is_in_the_table():
    """The names in the source of the checks are those of the table."""
    files = ("check", "host_check", "plugstack_fault", "folder_check")
    source = "".join((TOP / f"spank_plugin/{name}.py").read_text() for name in files)
    names = set(re.findall(r"""(?:Finding|attempt|_folder)\(\s*"([^"]+)",""", source))
    assert names == set(finding.TRIED)


def test_ids_for_programs():
    shown = finding.as_json([Finding("Slurm's settings", OK, "a")], "1")
    assert shown["checks"] == [
        {"id": "slurms-settings", "check": "Slurm's settings", "state": "ok", "text": "a", "fix": ""}
    ]


@pytest.mark.parametrize(
    ("restricted", "worked", "state"),
    [(False, False, OK), (False, True, OK), (True, True, OK), (True, False, FAILURE)],
)
def test_apparmor(restricted, worked, state):
    found = host_check.apparmor(restricted, worked)
    assert found.state == state and ("/etc/apparmor.d/bollard" in found.fix) == (state == FAILURE)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"flags": os.ST_RDONLY}, "is read-only"),
        ({"free": 0}, "is full"),
        ({"inodes": 9, "ffree": 0}, "has no room for another file"),
        ({"inodes": 0, "ffree": 0}, ""),
        ({}, ""),
    ],
)
def test_a_filesystem_to_which_root_cannot_write(values, said):
    made = {"free": 5, "inodes": 9, "ffree": 9, "flags": 0, **values}
    free, files = made["free"], made["ffree"]
    found = os.statvfs_result((1, 1, 9, free, free, made["inodes"], files, files, made["flags"], 255))
    told = folder_check.unwritable("/run", found)
    assert (told[0] if told else "") == (f"the filesystem of /run {said}" if said else "")
    assert not told or "/run shows it" in told[1]


def test_a_library_that_is_there_and_closed_is_not_to_be_installed():
    said = "squashfuse: error while loading shared libraries: libfuse3.so.3: cannot open shared object file: %s"
    assert "libfuse3" in folder_check.missing_library(said % "No such file or directory", "python3.11")
    assert folder_check.missing_library(said % "Permission denied", "python3.11") == ""


@pytest.mark.parametrize(
    ("names", "fix"), [(("bollard", "old"), "remove {}/old.conf:1"), (("a", "b"), "keep one line")]
)
def test_the_plugin_named_twice(tmp_path, names, fix):
    folder = tmp_path / "plugstack.conf.d"
    folder.mkdir()
    (tmp_path / "slurm.conf").touch()
    (tmp_path / "plugstack.conf").write_text(f"include {folder}/*.conf\n")
    for name in names:
        (folder / f"{name}.conf").write_text("required /p/spank_bollard.so\n")
    wrong, text, cure = plugstack_fault.fault(Where("/p", str(tmp_path)))
    assert wrong and "more than once" in text and cure == fix.format(folder)


def test_plugins_may_complain_before_slurm_tells_its_release(tmp_path, monkeypatch):
    srun = tmp_path / "srun"
    said = "srun: spank: option provided by both spank_bollard.so"
    srun.write_text(f"#!/bin/sh\necho '{said}' >&2\necho slurm-wlm 26.05.5\n")
    srun.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert check._slurm_version(Where(slurm_conf=str(tmp_path))) == (0, "slurm-wlm 26.05.5")


def test_a_module_that_python_cannot_load(monkeypatch, capsys):
    """On a filesystem with noexec, or built for another Python."""
    file = str(Path(main.__file__).parents[1] / "system/_linux.so")

    def fail(argv):
        raise ImportError("failed to map segment", name="_linux", path=file)

    monkeypatch.setattr(main, "_main", fail)
    assert main.main(["doctor"]) == 255
    said = capsys.readouterr().err
    assert said.startswith(f"bollard: {file} cannot be loaded by Python ") and said.count("\n") == 1
