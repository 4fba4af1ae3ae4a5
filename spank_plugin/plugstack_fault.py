# SPDX-License-Identifier: BSD-3-Clause
"""Faults in plugstack.conf because of which srun and slurmstepd do not load the plugin, or not from the right path."""

from __future__ import annotations

import os
from pathlib import Path

from bollard.spank_plugin import installation, plugstack
from bollard.spank_plugin.installation import Where

AGAIN = "bollard site install"


def fault(where: Where) -> tuple[bool, str, str]:
    """(whether plugstack.conf has a fault, the finding's text, its fix)."""
    file = installation.plugstack_file(where.slurm_conf)
    wanted = f"{where.prefix}/spank_bollard.so"
    try:
        lines = plugstack.effective(file)
        text = Path(file).read_text(errors="replace")
    except PermissionError as error:
        return True, f"{error.filename}: {error.strerror}", f"chmod a+r {error.filename}"
    except OSError as error:
        if not os.path.exists(f"{where.slurm_conf}/slurm.conf"):
            said = f"{where.slurm_conf} has neither slurm.conf nor plugstack.conf"
            return True, said, "name the directory of slurm.conf with --slurm-conf"
        return True, f"{error.filename}: {error.strerror}", _name_it(where, AGAIN)
    own = [line for line in lines if os.path.basename(line.plugin) == "spank_bollard.so"]
    places = ", ".join(f"{line.file}:{line.number}" for line in own)
    if len(own) > 1:
        rest = [line for line in own if line.file != where.line_file]
        fix = ", ".join(f"{line.file}:{line.number}" for line in rest) if len(rest) == len(own) - 1 else ""
        return True, f"the plugin is named more than once: {places}", f"remove {fix}" if fix else "keep one line"
    if own and own[0].plugin != wanted:
        return True, f"{places} names {own[0].plugin}", f"name {wanted}"
    if own and not own[0].required:
        said = f"{places} says optional: where it cannot be loaded, jobs would run on the host"
        return True, said, "write required instead"
    if own:
        fine = f"{places}: required, {' '.join(own[0].arguments) or 'no arguments'}"
        return _spool_fault(where, own[0]) or (False, fine, "")
    for place, number, word in plugstack.unknown(file):
        return True, f"{place}:{number}: {word!r} is none of required, optional and include", "mend that line"
    if installation.is_slurmds_copy(where.slurm_conf):
        said = f"{file}, which slurmd has copied from the controller, does not name the plugin"
        return True, said, _name_it(where, AGAIN)
    folder = os.path.dirname(where.line_file)
    if os.path.exists(folder) and not os.access(folder, os.R_OK | os.X_OK):
        return True, f"{folder}: Permission denied", f"chmod a+rx {folder}"
    if not os.path.exists(where.line_file):
        said = f"{file} does not name the plugin, and there is no {where.line_file}"
    elif not plugstack.includes_file(text, file, where.line_file):
        said = f"{file} does not include {where.line_file}, which names the plugin"
        return True, said, _name_it(where, f"add to {file}: include {where.include}")
    else:
        said = f"{where.line_file} does not name the plugin"
    return True, said, _name_it(where, AGAIN)


def _name_it(where: Where, fix: str) -> str:
    """`fix`, or the line for the controller's plugstack.conf when slurmd copies that file from the controller."""
    if not installation.is_slurmds_copy(where.slurm_conf):
        return fix
    line = installation.plugstack_line(where).strip()
    return f"write into the controller's plugstack.conf itself: {line}; then: scontrol reconfigure"


def _spool_fault(where: Where, line: plugstack.Line) -> tuple[bool, str, str] | None:
    """The fault when `spool=` differs from SlurmdSpoolDir: containers would lack Slurm's files there; else None."""
    told = next((word[6:] for word in line.arguments if word.startswith("spool=")), "")
    slurms = installation.slurm_setting(where.slurm_conf, "SlurmdSpoolDir") or installation.SPOOL
    if not os.path.exists(f"{where.slurm_conf}/slurm.conf") or told == slurms or _same_file(told, slurms):
        return None
    said = f"{line.file}:{line.number} says spool={told}" if told else f"{line.file}:{line.number} has no spool="
    return True, f"{said}, but SlurmdSpoolDir is {slurms}", f"write spool={slurms} there"


def _same_file(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False
