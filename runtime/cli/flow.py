# SPDX-License-Identifier: BSD-3-Clause
"""The commands `bollard flow check, submit, status, logs, graph, cancel, resume, list, schema`."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from bollard.runtime.cli import terminal
from bollard.runtime.errors import BollardError
from bollard.runtime.flow import batch, bundle, ending, folder, graph, state, submission, transfer, units
from bollard.runtime.flow import flow as flows
from bollard.runtime.flow.state import Status

_PAUSE = 1.0  # seconds between two looks of --wait
_ROWS = 40  # of a live table


def run(verb: str, given: list[tuple[str, str]], words: list[str]) -> int:
    """Run `bollard flow VERB`; return the exit status.

    verb: one of the commands.
    given: the parsed options, name and value.
    words: the arguments.

    Raises:
        BollardError: the arguments are invalid, or the command fails.
    """
    asked = {name: value for name, value in given if name != "set"}
    for name, value in given:
        if not value and name != "set":
            raise BollardError(f"--{name}: its value is empty", "give one, or leave the option out")
    least, most = _WORDS[verb]
    if not least <= len(words) <= most:
        wanted = f"{least}" if least == most else f"{least} to {most}"
        raise BollardError(f"flow {verb} takes {wanted} words, not {len(words)}", f"see `bollard flow {verb} --help`")
    sets = _sets([value for name, value in given if name == "set"])
    return int(_RUN[verb](asked, words, sets))


def _sets(values: list[str]) -> dict[str, str]:
    found = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not equals or not name:
            raise BollardError(f"--set {value}: is not NAME=VALUE", "write --set NAME=VALUE")
        found[name] = text
    return found


def _on(asked: Mapping[str, str], name: str) -> bool:
    return asked.get(name, "0") == "1"


def _check(asked: Mapping[str, str], words: list[str], sets: Mapping[str, str]) -> int:
    found, mistakes = flows.check(words[0], sets)
    if _on(asked, "json"):
        items = [{"line": line, "text": text, "hint": hint} for line, text, hint in mistakes]
        jobs = [flows.plain(job) for job in found.jobs] if found else []
        print(json.dumps({"mistakes": items, "jobs": jobs}, indent=2))
    else:
        for line, text, hint in mistakes:
            print(f"{words[0]}:{line}: {text}; {hint}", file=sys.stderr)
    return 1 if mistakes else 0


def _submit(asked: Mapping[str, str], words: list[str], sets: Mapping[str, str]) -> int:
    if _on(asked, "dry-run"):
        return _dry(words[0], sets)
    place = submission.submit(words[0], sets)
    if _on(asked, "json"):
        plan = folder.plan(place)
        jobs = {
            name: ref.job if ref.element < 0 else str(ref)
            for name, ref in folder.ids(place, plan["generation"]).items()
        }
        print(json.dumps({"id": place.name, "path": str(place), "jobs": jobs}, indent=2))
    else:
        print(place.name)
    return _wait(place, asked) if _on(asked, "wait") else 0


def _dry(source: str, sets: Mapping[str, str]) -> int:
    found = flows.load(source, sets)
    place = folder.base() / f"{found.name}-ID"
    jobs, _ = submission.prepare(found, place, 1, os.getcwd(), dry=True)
    for call in submission.bundles(jobs):
        array = [f"--array={call.array}"] if call.array else []
        if call.elements:
            print(f"# {call.name}: an array of {len(call.jobs)} jobs of equal shape")
            print("sbatch", shlex.join([*call.options, *array]), "<<'END_OF_SCRIPT'")
            print(f"{bundle.script(call, str(place), [*call.options, *array])}END_OF_SCRIPT\n")
        for job in call.jobs:
            needs = ",".join(("each:" if need.each else "") + need.name for need in job.needs)
            if job.name == batch.END:
                needs = "the end of all"
            print(f"# {job.name}{f'  after {needs}' if needs else ''}")
            print(
                "# the script" if call.elements else shlex.join(["sbatch", *job.options, *array]), "<<'END_OF_SCRIPT'"
            )
            print(f"{job.script}END_OF_SCRIPT\n")
            for name, text in job.files:
                print(f"# file {name}\n{text}\n")
    return 0


def _status(asked: Mapping[str, str], words: list[str], sets: Mapping[str, str]) -> int:
    place = folder.find(words[0])
    if _on(asked, "wait"):
        return _wait(place, asked)
    _show(state.of(place), asked)
    return 0


def _wait(place: Path, asked: Mapping[str, str]) -> int:
    live = sys.stdout.isatty() and not _on(asked, "json")
    shown = 0
    while True:
        found = state.of(place)
        cut_off = found.word in ("held", "unfinished") and submission.is_cut_off(place)
        over = cut_off or found.word in ("ok", "cancelled", "failed", "timeout", "lost")
        if live:
            lines = _lines(found, _ROWS)
            terminal.own(f"\033[{shown}A\033[J" if shown else "")
            print("\n".join(lines), flush=True)
            shown = len(lines)
        if over:
            if not live:
                _show(found, asked)
            if cut_off:
                text = f"{place.name}: its submission was cut off, so it does not start"
                raise BollardError(text, f"bollard flow cancel {place.name}")
            return found.code
        time.sleep(_PAUSE)


def _show(found: Status, asked: Mapping[str, str]) -> None:
    if _on(asked, "json"):
        print(json.dumps(state.plain(found), indent=2))
    else:
        print("\n".join(_lines(found, 1 << 30)))


def _lines(found: Status, most: int) -> list[str]:
    """Return the table of `flow status`. Elements of an array in the same state are one row."""
    rows: list[tuple[str, ...]] = [("JOB", "STATE", "SLURM", "NODE", "TIME", "EXIT", "")]
    groups: dict[tuple[str, str, str], list[state.Part]] = {}
    for part in found.parts:
        name, _, index = part.name.rpartition(".")
        array = part.kind == "job" and index.isdigit()
        groups.setdefault(
            (name if array else part.name, part.state if array else "", part.reason if array else ""), []
        ).append(part)
    for (name, _, _), parts in groups.items():
        part = parts[0]
        index = part.name.rpartition(".")[2] if name != part.name else ""
        label = (
            name if name == part.name else f"{name}[{index}]" if len(parts) == 1 else f"{name}[{len(parts)} elements]"
        )
        end = max((item.end for item in parts), default=0) or (time.time() if part.state == "running" else 0)
        start = min((item.start for item in parts if item.start), default=0)
        took = units.clock(end - start) if start and end else ""
        code = str(part.status) if part.end and part.state != "ok" else ""
        reason = part.reason + (f" (attempt {part.attempt})" if part.attempt > 1 else "")
        number = part.slurm if len(parts) == 1 else str(part.job or "")
        rows.append((label, part.state, number or str(part.job or ""), part.node, took, code, reason.strip()))
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths)).rstrip() for row in rows]
    if len(lines) > most:
        lines = [*lines[: most - 1], f"... and {len(lines) - most + 1} more"]
    if found.complaint:
        lines.append(f"Slurm does not answer: {found.complaint}")
    return [*lines, f"flow {found.id}: {found.word}"]


def _logs(asked: Mapping[str, str], words: list[str], sets: Mapping[str, str]) -> int:
    place = folder.find(words[0])
    names = sorted(path for path in (place / "logs").iterdir() if path.suffix == ".out")
    names = [path for path in names if not path.name.startswith(".") or path.stat().st_size]  # that of the last job
    if len(words) == 2:
        wanted = words[1].replace(".", "_") if words[1].rpartition(".")[2].isdigit() else words[1]
        names = [path for path in names if path.stem == wanted or path.stem.rpartition("_")[0] == wanted]
        if not names:
            known = [job["name"] for job in folder.plan(place).get("jobs", []) if not job["name"].startswith(".")]
            if words[1].partition(".")[0] not in {name.partition(".")[0] for name in known}:
                raise BollardError(f"{words[1]}: is no job of {place.name}", f"its jobs are {', '.join(known)}")
            text = f"{words[1]}: has no log: it has not started, or its output could not be written"
            raise BollardError(text, f"bollard flow status {place.name}")
    for path in names:
        if len(names) > 1:
            print(f"==> {path.stem} <==", flush=True)
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                sys.stdout.write(line)
    return 0


def _graph(asked: Mapping[str, str], words: list[str], sets: Mapping[str, str]) -> int:
    states: dict[str, str] = {}
    if os.path.exists(words[0]) or words[0].endswith((".yaml", ".yml", ".fz")):
        edges = batch.edges(flows.load(words[0], sets))
    else:
        place = folder.find(words[0])
        edges = folder.plan(place).get("edges", {})
        for part in state.of(place).parts:
            name = part.name.rpartition(".")[0] if part.name not in edges else part.name
            worse = [*state.FINAL, "held", "waiting", "running"]
            states[name] = max(states.get(name, "ok"), part.state, key=worse.index)
    if asked.get("format", "text") not in ("text", "svg"):
        raise BollardError(f"--format {asked['format']}: is not known", "write text or svg")
    if asked.get("format") == "svg":
        sys.stdout.write(graph.svg(edges, states))
    else:
        print("\n".join(graph.text(edges, states)))
    return 0


def _cancel(asked: Mapping[str, str], words: list[str], sets: Mapping[str, str]) -> int:
    place = folder.find(words[0])
    try:
        cut_off = state.of(place).word in ("held", "unfinished") and folder.plan(place).get("generation", 1) == 1
    except folder.Damaged:
        if not _on(asked, "remove"):
            raise
        submission.cancel_damaged(place)
    else:
        submission.cancel(place)
    if _on(asked, "remove") or cut_off:  # a submission that was cut off has nothing to resume
        submission.wait_for_end(place)
        submission.discard(place)
    return 0


def _resume(asked: Mapping[str, str], words: list[str], sets: Mapping[str, str]) -> int:
    place = folder.find(words[0])
    names = submission.resume(place, words[1] if len(words) == 2 else "", sets)
    print(" ".join([place.name, *names]) if not _on(asked, "json") else json.dumps({"id": place.name, "jobs": names}))
    return _wait(place, asked) if _on(asked, "wait") else 0


def _list(asked: Mapping[str, str], words: list[str], sets: Mapping[str, str]) -> int:
    found = [(path, _state_or_word(path)) for path in folder.every()]
    if _on(asked, "json"):
        print(
            json.dumps([{"id": path.name, "state": status.word, "path": str(path)} for path, status in found], indent=2)
        )
        return 0
    width = max((len(path.name) for path, _ in found), default=0)
    for path, status in found:
        done = sum(part.state == "ok" for part in status.parts)
        print(f"{path.name:<{width}}  {status.word:<10}  {done}/{len(status.parts)} done")
    return 0


def _state_or_word(path: Path) -> Status:
    """Return how a flow stands; if its plan cannot be read, the word is "damaged" or "unreadable"."""
    try:
        return state.of(path)
    except folder.Damaged:
        return Status(path.name, "damaged", [], "")
    except BollardError:
        return Status(path.name, "unreadable", [], "")


def _schema(asked: Mapping[str, str], words: list[str], sets: Mapping[str, str]) -> int:
    from bollard.runtime.flow import schema

    print(json.dumps(schema.json_schema(), indent=2))
    return 0


def _part(asked: Mapping[str, str], words: list[str], sets: Mapping[str, str]) -> int:
    """Run what a batch job of a flow runs on its node."""
    path = folder.checked(Path(words[0]))
    if words[1] == batch.END:
        ending.end(path)
    else:
        transfer.run(path, words[1])
    return 0


_WORDS = {
    "check": (1, 1), "submit": (1, 1), "status": (1, 1), "logs": (1, 2), "graph": (1, 1), "cancel": (1, 1),
    "resume": (1, 2), "list": (0, 0), "schema": (0, 0), "part": (2, 2),
}  # fmt: skip
_RUN = {
    "check": _check, "submit": _submit, "status": _status, "logs": _logs, "graph": _graph, "cancel": _cancel,
    "resume": _resume, "list": _list, "schema": _schema, "part": _part,
}  # fmt: skip
