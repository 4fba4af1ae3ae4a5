# SPDX-License-Identifier: BSD-3-Clause
"""Runs every ```console block of the documentation and compares the output.

    alice@ctl$ srun hostname          a command: bash's, as that user on that node, in ~/demo, which all nodes share
    you@laptop$ bollard build ...     the same on the machine below the cluster, which reaches a mirror
    > ...                             goes on with the command above
    n...                              a line of its output, on stdout or stderr; "..." stands for any text
    ...                               any number of further lines

Ranks print in any order, so the order of lines does not count. ~/demo is new for each page and holds `img.sif`, a
small Debian 11, and `mpi.sif`, a Debian 12 with Open MPI, MPICH, Python and Slurm's commands. A block of ```sh is
for the machine below the cluster and is not run: it may hold the commands of `BELOW` only.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import dev_tree
import pytest
from building import USER, Builder, machine_binds, write_command
from cluster import PREFIX, TOP, Cluster, Images, good

PAGES = [TOP / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")] + sorted((TOP / "docs").rglob("*.md"))
# The page whose commands on the laptop make the image `python.sif` of the others.
PYTHON_PAGE = TOP / "docs/tasks/python.md"
DEMO = "/home/alice/demo"
PROMPT = re.compile(r"^(\w+)@(\w+)[$#] (.*)$")
FENCES = {"console", "sh", "text", "c", "yaml"}
# Told when a step has to wait for the CPUs of the one before, which a busy machine decides.
WAITING = re.compile(r"srun: (Job (\d+ )?step creation temp|Step created for|job \d+ (queued|has been)).*")
# Set-up, tests and benchmarks would run themselves; the others need an administrator's hand on a real site.
BELOW = (
    "git clone ",
    "cd bollard",
    "make ",
    "sudo slurm-test-cluster/",
    "sudo python3 spank_plugin",
    ".venv/bin/",
)

# The pages show Debian 12's cluster. Where another suite prints something else, it is this, and nothing else.
ELSEWHERE = {
    "bookworm": {},
    "trixie": {
        "12 (bookworm)": "13 (trixie)",
        "12...": "13...",
        "v4.1.4": "v5.0.7",
        "(Open MPI) 4.1.4": "(Open MPI) 5.0.7",
        "Version:...4.0.2": "Version:...4.2.1",
        "pmix 4.2.2": "pmix 5.0.7",
    },
}

# Packages that the commands of a page need on the controller.
NEEDS = {"trust.md": ("gpg", "gpg-agent", "openssl", "python3-cryptography")}

Block = tuple[str, list[str]]


def blocks(page: Path) -> Iterator[Block]:
    """Yield (label, lines) of every fenced block."""
    label, fenced = "", False
    lines: list[str] = []
    for line in page.read_text().splitlines():
        if line.startswith("```"):
            if fenced:
                yield label, lines
            label, lines = line[3:].strip(), []
            fenced = not fenced
        elif fenced:
            lines.append(line)
    assert not fenced, f"{page.name}: a block does not end"


def commands(lines: list[str]) -> Iterator[tuple[str, str, str, list[str]]]:
    """(user, node, command, expected lines) of a console block."""
    user = node = command = ""
    expected: list[str] = []
    for line in lines:
        prompt = PROMPT.match(line)
        if prompt:
            if command:
                yield user, node, command, expected
            (user, node, command), expected = prompt.groups(), []
        elif line.startswith("> ") or line == ">":
            command += "\n" + line[2:]
        else:
            assert command, f"{line!r} comes before any command"
            expected.append(line)
    if command:
        yield user, node, command, expected


def difference(expected: list[str], seen: list[str]) -> list[str]:
    """The lines that were expected but not seen, and those seen but not expected."""
    wanted = [line for line in expected if line != "..."]
    left = [line for line in seen if not WAITING.fullmatch(line)]
    missing = []
    for line in wanted:
        pattern = re.compile(".*".join(re.escape(part) for part in line.split("...")))
        found = next((at for at, text in enumerate(left) if pattern.fullmatch(text.rstrip())), None)
        if found is None:
            missing.append(f"- {line}")
        else:
            del left[found]
    return missing + ([] if "..." in expected else [f"+ {line}" for line in left])


def shown(line: str, suite: str) -> str:
    """A line of a page, changed to what the cluster of this suite prints."""
    for here, there in ELSEWHERE[suite].items():
        if here.endswith("...") and line == here:
            return there
        line = line if here.endswith("...") else line.replace(here, there)
    return line


@pytest.fixture(scope="module")
def laptop() -> Iterator[Path]:
    """Run the commands of a laptop, as a user without privileges. Yields their directory."""
    top = Path(tempfile.mkdtemp(prefix="bollard-test-docs-"))
    try:
        for name in ("bin", "work", "temporary"):
            (top / name).mkdir()
        shutil.copytree(dev_tree.make(), top / "lib", symlinks=False)
        builder = Builder(top / "work", top / "temporary", machine_binds(top))
        write_command(builder, top / "bin/bollard")
        subprocess.run(["chmod", "-R", "a+rX", str(top)], check=True)
        subprocess.run(["chown", "-R", str(USER), str(top / "work"), str(top / "temporary")], check=True)
        path = f"{top}/bin:/usr/bin:/bin:/usr/sbin:/sbin"
        for label, lines in blocks(PYTHON_PAGE):
            for _, node, command, expected in commands(lines) if label == "console" else ():
                if node == "laptop":
                    done = builder.start_program(["bash", "-c", f"exec 2>&1\n{command}"], PATH=path)
                    seen, _ = done.communicate(timeout=900)
                    assert done.returncode == 0 and not difference(expected, seen.splitlines()), (command, seen)
        yield top / "work"
    finally:
        subprocess.run(["rm", "-rf", str(top)], check=True)


@pytest.fixture
def demo(cluster: Cluster, images: Images) -> Iterator[None]:
    """Make ~/demo with its two images."""
    fresh = f"rm -rf {DEMO} ~/.apptainer/keys && mkdir {DEMO} && cd {DEMO}"
    good(cluster.exec(f"{fresh} && cp {images.small} img.sif && chmod 755 img.sif && ln -s {images.mpi} mpi.sif"))
    yield
    left = f"{DEMO} ~alice/.apptainer/keys ~alice/.local/state/bollard"
    empty = "~alice/.local/state ~alice/.local ~alice/.apptainer"
    cluster.exec(f"chmod -R u+rwX {DEMO}; rm -rf {left}; rmdir {empty}", user="root")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(TOP)))
def test_console_blocks(cluster: Cluster, demo: None, request: pytest.FixtureRequest, page: Path) -> None:
    if cluster.suite not in ELSEWHERE:
        pytest.skip("the pages show Debian 12's cluster")
    if "python.sif" in page.read_text():
        shutil.copy(request.getfixturevalue("laptop") / "python.sif", cluster.path("ctl", DEMO))
    if page.name in NEEDS:
        cluster.front("add", *NEEDS[page.name])
        cluster.add_gocryptfs("ctl")
    wrong = []
    for label, lines in blocks(page):
        if label != "console":
            continue
        for user, node, command, expected in commands(lines):
            if node == "laptop":
                continue
            done = cluster.exec(f"exec 2>&1\n{command}", node, user, cwd=DEMO)
            differs = difference([shown(line, cluster.suite) for line in expected], done.out.splitlines())
            if differs:
                wrong.append("\n".join([f"{user}@{node}: {command}", *differs]))
    if page.name in NEEDS:
        good(cluster.exec(f"rm {PREFIX}/gocryptfs", user="root"))
    assert not wrong, f"{page.name}:\n" + "\n\n".join(wrong)


def test_every_block_is_run_or_excused() -> None:
    for page in PAGES:
        for label, lines in blocks(page):
            assert label in FENCES, f"{page.name}: a block labelled {label!r}"
            for line in lines if label == "sh" else []:
                assert not line or line.startswith((*BELOW, "#")), f"{page.name}: {line}"


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"
