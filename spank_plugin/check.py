# SPDX-License-Identifier: BSD-3-Clause
"""`bollard site check`: checks whether containers work on this node, by trying each part.

A check yields findings: ok, warning, or failure with a fix. It changes nothing. Any user can run it, also under srun on
many nodes at once. As root, it tries namespaces, mounts and a container as the user nobody, because users need them.
"""

from __future__ import annotations

import errno
import importlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from bollard.mpi.errors import WireupError
from bollard.mpi.library import open_library
from bollard.runtime import installed
from bollard.runtime.container import journal
from bollard.runtime.errors import BollardError
from bollard.runtime.request import options, site, site_config
from bollard.runtime.system import owners
from bollard.spank_plugin import (
    build,
    folder_check,
    gpu_check,
    host_check,
    install,
    installation,
    plugstack,
    plugstack_fault,
    policy_check,
    probes,
)
from bollard.spank_plugin.finding import FAILURE, OK, WARNING, Finding, Found
from bollard.spank_plugin.installation import Where

_SECONDS = 30
HERE = Where()
_AGAIN = plugstack_fault.AGAIN


def findings(where: Where) -> Found:
    """Yield every finding on this node, for the installation `where`; causes come before their effects."""
    where = where._replace(slurm_conf=installation.conf_in_use(where.slurm_conf))
    there = os.path.exists(f"{where.prefix}/{installed.MANIFEST}")
    package = install.package_of(where.prefix)
    for check in CHECKS:
        if not there and check in OF_INSTALLATION[1:]:
            continue  # the finding of the first one states that nothing is installed
        try:
            for finding in check(where):
                fix = finding.fix.replace(_AGAIN, f"install the package {package} again") if package else finding.fix
                yield finding._replace(text=" ".join(finding.text.split("\n")), fix=fix)
        except (BollardError, OSError, subprocess.SubprocessError, ValueError) as error:
            text = " ".join(str(error).split())
            fix = f"install the package {package} again" if package else _AGAIN
            yield Finding(check.__name__.strip("_").replace("_", " "), FAILURE, f"cannot be checked: {text}", fix)


def _said(*command: str, where: Where = HERE, seconds: float = _SECONDS) -> tuple[int, str]:
    """(exit status, output) of a command; stderr is in the output.

    Slurm's commands use the slurm.conf of `where`. The status is 127 when the command is not installed, 126 when this
    user may not start it, and 124 when it ran longer than `seconds`.
    """
    conf = f"{where.slurm_conf}/slurm.conf"
    environment = {**os.environ, "SLURM_CONF": conf} if os.path.exists(conf) else None
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
            timeout=seconds, errors="replace", env=environment,
        )  # fmt: skip
    except FileNotFoundError:
        return 127, f"{command[0]} is not installed"
    except PermissionError:
        return 126, f"{command[0]}: {os.strerror(errno.EACCES)}"
    except subprocess.TimeoutExpired:
        return 124, f"{command[0]} gave no answer within {seconds:.0f} s"
    return done.returncode, done.stdout


# The node.


# The installation.


def _installation(where: Where) -> Found:
    manifest = install.read_manifest(where.prefix)
    wrong = []
    for name, wanted in manifest["digests"].items():
        path = Path(where.prefix, name)
        if not path.exists():
            wrong.append(f"{name} is missing")
        elif name != site.NAME and os.access(path, os.R_OK) and install.digest(str(path)) != wanted:
            wrong.append(f"{name} is another file")
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        yield Finding("installation", FAILURE, f"{where.prefix}: {', '.join(wrong[:3])}{more}", _AGAIN)
    spoilt = [f"{where.prefix}/{name}" for name in install.MODES if _wrong_mode(f"{where.prefix}/{name}")]
    for program in spoilt:
        right = install.MODES[os.path.basename(program)]
        why = "users cannot start it" if right & 0o044 else "users must be able to start it, and not to read it"
        text = f"{program} has the mode {os.stat(program).st_mode & 0o7777:04o}: {why}"
        yield Finding("installation", FAILURE, text, f"chmod {right:04o} {program}")
    if not wrong and not spoilt:
        yield Finding("installation", OK, f"{len(manifest['digests'])} files in {os.path.realpath(where.prefix)}")


def _wrong_mode(path: str) -> bool:
    """Whether a program lets users do something else than its mode in the table."""
    try:
        found = os.stat(path).st_mode
    except OSError:
        return False  # it is told as missing, or this machine has no such program
    return bool((found ^ install.MODES[os.path.basename(path)]) & 0o055)


def _owners(where: Where) -> Found:
    paths = [
        where.prefix,
        *owners.tree(os.path.realpath(where.prefix)),
        *build.search_path(),
        sys.executable,
        where.command,
        where.config,
    ]
    if not installation.is_slurmds_copy(where.slurm_conf):  # slurmd makes its copies itself, with their owners
        paths += [installation.plugstack_file(where.slurm_conf), *(line.file for line in _lines(where))]
    found = owners.faults(path for path in paths if os.path.lexists(path))
    for fault in found:
        yield Finding("owners", FAILURE, fault.text, fault.fix)
    if not found:
        yield Finding("owners", OK, f"what root runs is root's alone ({len(paths)} paths with their parents)")


def _squashfuse(where: Where) -> Found:
    servers = [path for path in (f"{where.prefix}/squashfuse", f"{where.prefix}/squashfuse2") if os.path.exists(path)]
    if not servers:
        yield Finding("squashfuse", FAILURE, f"no copy in {where.prefix}", _AGAIN)
        return
    status, said = _said(servers[0])
    found = re.search(r"squashfuse\S* (\d\S*)", said)
    first = said.strip().partition("\n")[0]
    if "error while loading" in said:
        yield Finding("squashfuse", FAILURE, first, folder_check.missing_library(first, "") or _AGAIN)
        return
    if not found:
        if status == 126:
            return  # _installation() reports the mode, and folder_check.access() the directories above
        ended = f"was ended by signal {-status}" if status < 0 else f"ended with exit status {status}"
        yield Finding("squashfuse", FAILURE, f"{servers[0]} {ended}{': ' if first else ''}{first}", _AGAIN)
        return
    origin, wanted = install.read_manifest(where.prefix)["squashfuse"]
    text = f"{found[1]}, {servers[0]}, a copy of {origin}"
    if os.access(origin, os.R_OK) and install.digest(origin) != wanted:
        yield Finding("squashfuse", WARNING, f"{text}, which has changed since", _AGAIN)
    else:
        yield Finding("squashfuse", OK, text)


def _python(where: Where) -> Found:
    manifest = install.read_manifest(where.prefix)
    load = "import sys, _cffi_backend as c; c.load_library(sys.argv[1], 2)"
    program = f"import sys; sys.path.append({where.prefix + '/python'!r}); {load}"
    status, said = _said(sys.executable, "-ISc", program, f"{where.prefix}/_bollard.so")
    if status != 0:
        reason = said.strip().splitlines()[-1] if said.strip() else f"exit status {status}"
        fix = folder_check.missing_library(reason, str(manifest["library"])) or _AGAIN
        yield Finding("Python", FAILURE, f"the runtime cannot be loaded: {reason}", fix)
        return
    text = f"lib{manifest['library']}, built with {manifest['python']}"
    if host_check.numbers(manifest["python"])[:2] != sys.version_info[:2]:
        yield Finding("Python", FAILURE, f"{text}, but this is {sys.version.split()[0]}", _AGAIN)
    else:
        yield Finding("Python", OK, text)


# Modules that the administrator's commands import: name, Debian package, EL package, what needs it.
_MODULES = (
    ("cffi", "python3-cffi", "python3-cffi", "`bollard site install` and this check"),
    ("yaml", "python3-yaml", "python3-pyyaml", "bollard.yaml"),
)


def _modules(where: Where) -> Found:
    missing = [row for row in _MODULES if not _imports(row[0])]
    for name, debian, el, user in missing:
        text = f"the module {name} is missing, which {user} needs"
        yield Finding("Python modules", FAILURE, text, f"install {debian} (Debian) or {el} (EL)")
    if not missing:
        yield Finding("Python modules", OK, ", ".join(row[0] for row in _MODULES))


def _imports(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


# Programs that users' commands start: name, what does not work without it.
_PROGRAMS = (
    ("skopeo", "images of registries and of docker and OCI archives cannot be fetched"),
    ("mksquashfs", "no image can be built or saved"),
)


def _programs(where: Where) -> Found:
    found = [name for name, _ in _PROGRAMS if shutil.which(name)]
    for name, without in _PROGRAMS:
        if name not in found:
            package = "squashfs-tools" if name == "mksquashfs" else name
            yield Finding("programs", WARNING, f"{name} is missing: {without}", f"install {package}")
    if len(found) == len(_PROGRAMS):
        yield Finding("programs", OK, ", ".join(found))


def _settings(where: Where) -> Found:
    try:
        settings = site_config.load(where.config)
    except BollardError as error:
        yield Finding("bollard.yaml", FAILURE, error.message, error.hint)
        return
    site.load(where.prefix)
    followed = Path(where.prefix, site.NAME).read_bytes()
    if followed != site_config.compiled(settings, where.prefix) and not settings.digest:
        text = f"there is no {where.config}, and {where.prefix}/{site.NAME} has something else than the defaults"
        yield Finding("bollard.yaml", WARNING, text, "bollard site configure")
    elif followed != site_config.compiled(settings, where.prefix):
        yield Finding("bollard.yaml", WARNING, f"{where.config} is not what nodes follow", "bollard site configure")
    elif settings.digest:
        yield Finding("bollard.yaml", OK, f"{where.config} is compiled: {', '.join(settings.values) or 'nothing set'}")
    else:
        yield Finding("bollard.yaml", OK, f"no {where.config}: the defaults hold")


def _system_log(where: Where) -> Found:
    if not site.load(where.prefix).journal:
        return
    if journal.connect("0") is None:
        fix = "start journald or rsyslog, or take journal out of bollard.yaml"
        yield Finding("system log", WARNING, f"{journal.SOCKET} does not answer: no line is written", fix)
    else:
        yield Finding("system log", OK, f"{journal.SOCKET} answers")


def _gpus(where: Where) -> Found:
    for failure, text, fix in gpu_check.findings(where.prefix):
        yield Finding("GPUs", FAILURE if failure else OK, text, fix)


def _policy(where: Where) -> Found:
    failed = False
    for failure, text, fix in policy_check.faults(where.prefix):
        failed = True
        yield Finding("policy of images", FAILURE if failure else WARNING, text, fix)
    rules = site.load(where.prefix).trust
    if rules and not failed:
        yield Finding("policy of images", OK, f"{rules.mode}: {len(rules.rules)} rules")


# Slurm.


def _lines(where: Where) -> list[plugstack.Line]:
    try:
        return plugstack.effective(installation.plugstack_file(where.slurm_conf))
    except OSError:
        return []


def _slurm_version(where: Where) -> tuple[int, str]:
    """(exit status, the line with Slurm's release); with another status than 0, all that was said."""
    status, said = _said("srun", "--version", where=where)
    if status not in (0, 127) and "spank_bollard.so" in said:  # srun loads plugins first, and cannot load this one
        status, said = _said("sinfo", "--version", where=where)
    release = re.search(r"^slurm\S* \d.*", said, re.M)  # plugins may complain before it
    return status, release[0] if release and status == 0 else said


def _slurm(where: Where) -> Found:
    built = install.read_manifest(where.prefix)["slurm"]
    status, said = _slurm_version(where)
    if status == 127:
        yield Finding("Slurm", FAILURE, said.strip(), "install Slurm's commands on this node")
        return
    if status != 0 and not os.path.exists(f"{where.slurm_conf}/slurm.conf"):
        fix = "name its directory with --slurm-conf; where slurmd copies it from the controller, start slurmd first"
        yield Finding("Slurm", FAILURE, f"there is no {where.slurm_conf}/slurm.conf", fix)
    elif status != 0:
        first = said.strip().partition("\n")[0]
        about = "plugstack.conf" if "spank" in first or "plugstack" in first else "slurm.conf"
        yield Finding("Slurm", FAILURE, first, f"mend {about} first")
    elif host_check.numbers(said)[:2] != host_check.numbers(built)[:2]:
        package, release = install.package_of(where.prefix), ".".join(map(str, host_check.numbers(said)))
        fix = f"install the package {package} that is built for Slurm {release}" if package else _AGAIN
        yield Finding("Slurm", FAILURE, f"{said.strip()}, but the plugin is built for {built}", fix)
    else:
        yield Finding("Slurm", OK, f"{said.strip()}, the plugin is built for {built}")


def _plugstack(where: Where) -> Found:
    wrong, text, fix = plugstack_fault.fault(where)
    yield Finding("plugstack.conf", FAILURE if wrong else OK, text, fix)
    own = [line.file for line in _lines(where)]
    for file in [f"{where.slurm_conf}/slurm.conf", installation.plugstack_file(where.slurm_conf), *own]:
        if os.path.exists(file) and not os.stat(file).st_mode & 0o004:
            text = f"users cannot read {file} (mode {os.stat(file).st_mode & 0o7777:04o}): their srun does not start"
            yield Finding("plugstack.conf", FAILURE, text, f"chmod a+r {file}")
    if any(os.path.basename(line.plugin).startswith("spank_pyxis") for line in _lines(where)):
        text = "pyxis is loaded too, and has options of the same names"
        yield Finding("plugstack.conf", WARNING, text, "remove one of the two")


def _plugin(where: Where) -> Found:
    option = next(row.slurm for row in options.TABLE if row.slurm)
    status, said = _said("srun", "--help", where=where)
    if status == 127:
        return
    if re.search(rf"^ *--{re.escape(option)}\b", said, re.M):
        yield Finding("plugin", OK, "srun has loaded it")
        return
    if plugstack_fault.fault(where)[0]:
        yield Finding("plugin", FAILURE, "srun has not loaded it", "mend plugstack.conf, see above")
        return
    if "Incompatible plugin version" in said:
        text = "this Slurm does not load it: the plugin is built for another release"
        yield Finding("plugin", FAILURE, text, "see Slurm above")
        return
    # Match the beginning of a line only: Slurm's help text has the word error too.
    found = re.search(r"^srun: (?:error|fatal): .*|^bollard: .*", said, re.M)
    why = found[0] if found else f"srun, with exit status {status}, does not show --{option}"
    yield Finding("plugin", FAILURE, why, "see `srun -vvv --help`")


def _slurm_settings(where: Where) -> Found:
    status, said = _said("scontrol", "show", "config", where=where)
    if status != 0 and "munge" in said.lower():
        return  # _munge() reports that
    if status != 0:
        reason = said.strip().partition("\n")[0]
        yield Finding("Slurm's settings", WARNING, f"not known: {reason}", "is slurmctld up?")
        return
    pairs = (line.partition("=") for line in said.splitlines())
    config = {name.strip(): value.strip() for name, equals, value in pairs if equals}
    contain = "contain" in config.get("PrologFlags", "").lower()
    interactive = "use_interactive_step" in config.get("LaunchParameters", "")
    if not contain:
        text = "PrologFlags lacks Contain: every step makes its own container"
        yield Finding("Slurm's settings", WARNING, text, "PrologFlags=Contain in slurm.conf")
    if not interactive and host_check.numbers(_said("srun", "--version", where=where)[1])[:2] >= (21, 8):
        text = "LaunchParameters lacks use_interactive_step: salloc refuses --container"
        yield Finding("Slurm's settings", WARNING, text, "LaunchParameters=use_interactive_step in slurm.conf")
    tracked = config.get("ProctrackType", "").endswith("cgroup")
    if not tracked:
        text = f"ProctrackType={config.get('ProctrackType', '')}: containers are in no cgroup of their job"
        yield Finding("Slurm's settings", WARNING, text, "ProctrackType=proctrack/cgroup in slurm.conf")
    if contain and interactive and tracked:
        yield Finding("Slurm's settings", OK, "PrologFlags=Contain, LaunchParameters=use_interactive_step")


def _pmi(where: Where) -> Found:
    status, said = _said("srun", "--mpi=list", where=where)
    if status == 127 or "spank_bollard.so" in said:
        return  # _slurm() or _plugin() reports that
    found = sorted(set(re.findall(r"\b(pmix(?:_v\d+)?|pmi2|cray_shasta)\b", said)))
    if found:
        yield Finding("MPI plugins", OK, ", ".join(found))
    else:
        yield Finding("MPI plugins", WARNING, "srun --mpi=list names none", "install Slurm's mpi_pmix or mpi_pmi2")
    if not any(name.startswith("pmix") for name in found):
        return
    if not _imports("cffi"):
        return  # _modules() reports that
    places = ("libpmix.so.2", "/usr/lib/*/libpmix.so.2", "/usr/lib*/libpmix.so.2", "/usr/lib/*/pmix2/lib/libpmix.so.2")
    try:
        ffi, library = open_library("libpmix.so", "const char *PMIx_Get_version(void);", places, WireupError, "")
        text = bytes(ffi.string(library.PMIx_Get_version())).decode(errors="replace")
        yield Finding("PMIx library", OK, ".".join(map(str, host_check.numbers(text))) or text)
    except WireupError:
        yield Finding(
            "PMIx library", FAILURE, "no libpmix.so.2, which mpi/pmix needs", "install libpmix2 (Debian), pmix"
        )


def _munge(where: Where) -> Found:
    kind = installation.slurm_setting(where.slurm_conf, "AuthType") or "auth/munge"
    if kind != "auth/munge":
        yield Finding("munge", OK, f"not used: {kind}")
        return
    path = "/run/munge/munge.socket.2"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(_SECONDS)
        try:
            client.connect(path)
        except OSError as error:
            yield Finding("munge", FAILURE, f"{path}: {error.strerror}", "systemctl start munge")
            return
    yield Finding("munge", OK, f"{path} answers")


# A container.


def _container(where: Where) -> Found:
    image = f"{where.prefix}/check.sqfs"
    with tempfile.TemporaryDirectory(prefix="bollard-check-") as scratch:
        os.chmod(scratch, 0o755)
        if not os.path.exists(image):
            text = "no image to try FUSE with: squashfs-tools were missing when bollard was installed"
            yield Finding("container", WARNING, text, f"install squashfs-tools, then {_AGAIN}")
            image = f"{scratch}/image"
            for name in ("bin", "dev", "etc", "proc", "sys", "tmp"):
                os.makedirs(f"{image}/{name}")
            shutil.copy(f"{where.prefix}/bollard-enter", f"{image}/bin/probe")
        yield from _run(where, image)


def _run(where: Where, image: str) -> Found:
    """Run the only program of `image` as `bollard exec` does; the program prints its environment."""
    program = (
        f"import os, sys; sys.path.append(os.path.realpath({where.prefix!r}) + '/python'); "
        "from bollard.runtime.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [
        sys.executable,
        "-ISXutf8",
        "-c",
        program,
        "exec",
        "--no-home",
        image,
        "/bin/probe",
        "--print-environment",
    ]

    def run() -> str:
        os.chdir("/")
        environment = {"PATH": "/usr/bin:/bin", "HOME": "/"}
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, check=False,
            timeout=_SECONDS, env=environment,
        )  # fmt: skip
        if done.returncode != 0 or f"BOLLARD_CONTAINER={image}".encode() not in done.stdout.split(b"\0"):
            said = done.stderr.decode(errors="replace").strip().replace("bollard: ", "")
            lines = said.splitlines()[-1:] if said.startswith("Traceback") else said.splitlines()[:1]
            raise BollardError("".join(lines) or f"exit status {done.returncode}, no reason given")
        return f"a program ran in {os.path.basename(image)}"

    worked, text = probes.attempt(run, 2 * _SECONDS)
    fix = f"see what failed above; bollard exec {image} /bin/probe --print-environment"
    yield Finding("container", OK if worked else FAILURE, text, "" if worked else fix)


OF_INSTALLATION: tuple[Callable[[Where], Found], ...] = (
    _installation,
    _owners,
    folder_check.access,
    _squashfuse,
    _python,
    _modules,
    _programs,
    _settings,
    _system_log,
    _policy,
    _gpus,
    _slurm,
    _plugstack,
    _plugin,
    folder_check.records,
    folder_check.job_folders,
    _container,
)
CHECKS: tuple[Callable[[Where], Found], ...] = (
    *host_check.CHECKS,
    *OF_INSTALLATION[:-1],
    _slurm_settings,
    _pmi,
    _munge,
    _container,
)
