# SPDX-License-Identifier: BSD-3-Clause
"""bollard and Apptainer make the same environment of the same scripts: each of environments.py under both."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from environment_differences import DIFFERENT
from environments import FILES, SCRIPTS
from tree import HOME, IMAGES, ROOT, Machine

DOCS = Path(__file__).resolve().parent.parent.parent / "docs/from-apptainer.md"
PLACE = f"{HOME}/environments"

# One container for each script, two at a time. The shell's own names are in none of the results.
_RUN = f"""
cd {PLACE}
one() {{
    BOX exec --bind {PLACE}/x:/opt/x --bind {PLACE}/$1.sh:/.singularity.d/env/90-environment.sh {IMAGES}/sandbox \\
        sh -c 'env -0 >&9' 9>BOX/$1.env >BOX/$1.out 2>BOX/$1.err
    echo $? >BOX/$1.status
}}
half() {{
    for (( number = $1; number < {len(SCRIPTS)}; number += 2 )); do one $number; done
}}
half 0 & half 1; wait
"""
_OURS = re.compile(r"(USER_PATH|APPTAINER_APPNAME|BOLLARD_[A-Z]*|PS1|PROMPT_COMMAND|_)=")


def outcomes(machine: Machine, program: str) -> list[dict[str, object]]:
    """Of each script what it printed, the status, and the environment of the container's program."""
    machine.run(f"mkdir -p {PLACE}/{program}")
    done = machine.run(_RUN.replace("BOX", program), timeout=900)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, object]] = []
    for number in range(len(SCRIPTS)):
        path = f"{ROOT}{PLACE}/{program}/{number}"
        entries = Path(path + ".env").read_bytes().decode("utf-8", "replace").split("\0")
        found.append({
            "status": Path(path + ".status").read_text().strip(),
            "environment": sorted(entry for entry in entries if entry and not _OURS.match(entry)),
            "stdout": Path(path + ".out").read_text(errors="replace"),
        })  # fmt: skip
    return found


@pytest.fixture(scope="module")
def both(machine: Machine) -> Iterator[tuple[list[dict[str, object]], list[dict[str, object]]]]:
    place = Path(f"{ROOT}{PLACE}")
    for name, text in FILES.items():
        path = place / "x" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    for number, script in enumerate(SCRIPTS):
        (place / f"{number}.sh").write_text(script)
    machine.run(f"chown -R --from=0:0 4242:4242 {PLACE}", root=True)
    yield outcomes(machine, "bollard"), outcomes(machine, "apptainer")
    machine.run(f"rm -rf {PLACE}", root=True)


@pytest.mark.parametrize(
    "number", range(len(SCRIPTS)), ids=lambda number: re.sub(r"[^\w$=]+", " ", SCRIPTS[number])[:60]
)
def test_same_environment(both: tuple[list[dict[str, object]], ...], number: int) -> None:
    ours, theirs = (found[number] for found in both)
    reason = DIFFERENT.get(SCRIPTS[number])
    if reason:
        assert f"**{reason}**" in DOCS.read_text(), "the page lacks this reason"
        assert ours != theirs, "no difference is left: take the reason away"
    else:
        assert ours == theirs, SCRIPTS[number]
