# SPDX-License-Identifier: BSD-3-Clause
"""What the author of a flow file may have meant: hints for unknown keys, and faults that editors put into texts."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping
from typing import Any

from bollard.runtime.flow import fields, sbatch_options
from bollard.runtime.flow.fields import Field

# Words of other tools, and where a job has them.
_HABITS = {
    "environment": "env", "envs": "env", "variables": "env", "workdir": "cwd", "working-dir": "cwd",
    "working-directory": "cwd", "container": "image", "after": "needs", "dependencies": "needs", "dependency": "needs",
    "array": "task-array", "mpi": "multinode", "volumes": "mounts", "binds": "mounts", "run": "command",
    "cmd": "command", "entrypoint": "command", "shell": "script", "gpu": "resource.devices",
    "gpus": "resource.devices", "cpus": "resource.cpu.cores", "mem": "resource.memory.size",
    "time": "policy.timeout.execute", "walltime": "policy.timeout.execute", "retries": "policy.retry.attempts",
}  # fmt: skip
_QUOTES, _DASHES = "“”„‟‘’‚‛«»", "–—−"


def of_key(name: str, key: str, value: Any, known: Mapping[str, Field]) -> str:
    """Return the hint for a key that the table does not have in this place.

    name: the key in the file.
    key: the place in the table; "" for the top of the file.
    value: the node of its value.
    known: the keys of that place.
    """
    names = [word for word in known if word not in ("*", "[]")]
    plain = _plain(name)
    same = next((word for word in names if _plain(word) == plain), "")
    if same:
        return f"did you mean {same}?"
    inner = [item.value for item, _ in value.value] if value.id == "mapping" else []
    if not key and any(word in inner for word in ("image", "command", "script")):
        return "indent a job below `jobs:`"
    inside = _inside(plain, key) if key else ""
    if inside:
        return f"write {inside}"
    if not key and f"jobs.*.{name}" in fields.BY_KEY:
        every = ", or below `defaults: {job: ...}` for all" if f"defaults.job.{name}" in fields.BY_KEY else ""
        return f"write it in a job{every}"
    close = difflib.get_close_matches(name, names, 1)
    if close:
        return f"did you mean {close[0]}?"
    if key in ("", "jobs.*", "defaults.job") and sbatch_options.is_known(plain):
        return "write an option of sbatch below `slurm:`"
    return f"known are {', '.join(names)}"


def _plain(name: str) -> str:
    """Return a key as the table writes keys: jobArray and job_array are job-array."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower().replace("_", "-")


def _inside(name: str, key: str) -> str:
    """Return how a key is written that belongs deeper below this place; "" for none."""
    start = f"{key}."
    paths = [field.key for field in fields.TABLE if field.key.startswith(start) and field.key.endswith(f".{name}")]
    paths += [f"{job}.{_HABITS[name]}" for job in ("jobs.*", "defaults.job") if name in _HABITS]
    rest = [path[len(start) :] for path in paths if path.startswith(start) and path in fields.BY_KEY]
    rest = [path for path in rest if "*" not in path and "[]" not in path]
    if not rest:
        return ""
    path = min(rest, key=len)
    below = fields.children(start + path)
    if len(below) == 1:  # policy.timeout has execute alone
        path += f".{next(iter(below))}"
    words = path.split(".")
    return f"{': {'.join(words)}: ...{'}' * (len(words) - 1)}"


def of_name(name: str, known: Collection[str]) -> str:
    """Return the hint for a name that the file does not have."""
    if "," in name:
        return "write a list: [one, two]"
    close = difflib.get_close_matches(name, known, 1) or difflib.get_close_matches(name.lower(), known, 1)
    return f"did you mean {close[0]}?" if close else f"known are {', '.join(known) or 'none'}"


def fault(node: Any, lines: list[bytes]) -> tuple[str, str]:
    """Return what is wrong with a text without quotes, and what to do; two empty texts if nothing is.

    node: the scalar.
    lines: those of the file.
    """
    text = node.value
    if node.style or not text:
        return "", ""
    if text[0] in _QUOTES:
        return f"begins with the typographic quote {text[0]}", "write ' or \""
    if text[0] in _DASHES:
        return f"begins with the long dash {text[0]}", "write - or --"
    first, last = node.start_mark.line, node.end_mark.line
    for number in range(first + 1, min(last + 1, len(lines))):
        if lines[number].lstrip().startswith(b"- "):
            what = f"line {number + 1} continues this text"
            return what, "indent the items of a list alike, or put the text into quotes"
    return "", ""


def foreign(text: str, values: Collection[str]) -> tuple[str, str]:
    """Return what is wrong with a text that asks for a value in the form of another tool, and what to do.

    text: the text. No shell reads it.
    values: the names of the flow's values.
    """
    for form, name in re.findall(r"(\{\{ *|(?<!\$)\$)([A-Za-z_][A-Za-z0-9_]*)", text, re.ASCII):
        if name in values:
            return f"{form.strip()}{name} is not replaced", f"write ${{{name}}}"
    return "", ""
