# SPDX-License-Identifier: BSD-3-Clause
"""Registries, logins and endpoints: both programs do the same, and each reads what the other has written.

The servers are on 127.0.0.1: Debian's docker-registry, and the endpoint with a library of tests/builds.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from tree import IMAGES, ROOT, Machine

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "builds"))
import endpoint
import servers
import test_cosign

PROGRAMS = ("bollard", "apptainer")
HERE = "127.0.0.1,127.0.0.77"
DIRECT = {"NO_PROXY": HERE, "no_proxy": HERE, "APPTAINER_NOHTTPS": "true", "PYTHONWARNINGS": "ignore"}
LOGIN = f"registry login -u {servers.USER} --password-stdin"


class Place(NamedTuple):
    """A home directory in the tree for each program, and the servers."""

    machine: Machine
    open: str
    closed: str
    site: endpoint.Endpoint

    def run(self, program: str, script: str, home: str = "") -> tuple[int, str]:
        """Status and stdout of a script in which BOX is the program; OPEN, CLOSED and SITE are the servers."""
        done = self._run(program, script, home)
        return done.returncode, done.stdout.decode()

    def _run(self, program: str, script: str, home: str) -> subprocess.CompletedProcess[bytes]:
        home = home or f"/home/peer/registries/{program}"
        for word, text in {"BOX": program, "OPEN": self.open, "CLOSED": self.closed, "SITE": self.site.host}.items():
            script = script.replace(word, text)
        return self.machine.run(f"cd {home} && {script}", env={**DIRECT, "HOME": home}, timeout=120)

    def good(self, program: str, script: str) -> None:
        """Run it as `run` does, and fail with what it wrote unless its status is 0."""
        done = self._run(program, script, "")
        assert done.returncode == 0, (script, done.stdout.decode(), done.stderr.decode())

    def file(self, program: str, name: str) -> Any:
        path = ROOT / f"home/peer/registries/{program}" / name
        read = json.loads if name.endswith(".json") else yaml.safe_load
        return read(path.read_text()) if path.exists() else None


@pytest.fixture(scope="module")
def running(machine: Machine) -> Iterator[tuple[str, str, endpoint.Endpoint]]:
    folder = Path(tempfile.mkdtemp(prefix="bollard-peers-registry-"))
    program = servers.program(folder)
    try:
        opened = servers.registry(program, folder / "open")
        closed = servers.registry(program, folder / "closed", login=True)
        # Apptainer takes no port in the address of an endpoint.
        with opened as one, closed as two, endpoint.endpoint(address=("127.0.0.77", 80)) as site:
            yield one.host, two.host, site
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def place(machine: Machine, running: tuple[str, str, endpoint.Endpoint]) -> Place:
    # As root: a test writes there from outside, and the tree outlives this run.
    assert machine.run("rm -r -f ~peer/registries", root=True).returncode == 0
    done = machine.run("mkdir -p ~/registries/bollard ~/registries/apptainer")
    assert done.returncode == 0, done.stderr
    running[2].faults.clear()
    return Place(machine, *running)


ADD = "BOX remote add --no-login one https://cloud.example.org/x && "
OWN = "BOX remote add -i --no-login own http://SITE && "
TOKEN = f"echo {endpoint.TOKEN} > token && "
# What both do to ~/.apptainer/remote.yaml, with the status and the output.
REMOTE = (
    "BOX remote add --no-login one https://cloud.example.org",
    "BOX remote add --no-login one cloud.example.org/x",
    "BOX remote add -i --no-login one http://cloud.example.org",
    "BOX remote add --no-login one http://cloud.example.org",
    ADD + "BOX remote add --no-login one other.example.org",
    ADD + "BOX remote add --no-login -n two other.example.org",
    ADD + "BOX remote add --no-login two other.example.org && BOX remote use one",
    ADD + "BOX remote use none",
    ADD + "BOX remote remove one",
    ADD + "BOX remote remove none",
    ADD + "BOX remote list",
    ADD + "BOX remote add -i --no-login two http://other.example.org && BOX remote use one && BOX remote list",
    "BOX remote remove DefaultRemote",
    "BOX remote use --exclusive DefaultRemote",
    OWN + TOKEN + "BOX remote login --tokenfile token own",
    OWN + "echo wrong > token; BOX remote login --tokenfile token own",
    OWN + TOKEN + "BOX remote login --tokenfile none own",
    OWN + TOKEN + "BOX remote login --tokenfile token && BOX remote logout",
    OWN + TOKEN + "BOX remote login --tokenfile token && BOX remote status",
    OWN + TOKEN + "BOX remote login --tokenfile token && BOX remote get-login-password",
    OWN + "BOX remote status own",
    "BOX remote login none",
    "printf 'Active: a\\nRemotes: {}\\nColour: red\\n' > .apptainer/remote.yaml; BOX remote list",
)


@pytest.mark.parametrize("line", REMOTE)
def test_remote(place: Place, line: str) -> None:
    results = []
    for program in PROGRAMS:
        place.run(program, "mkdir -p .apptainer")
        status, out = place.run(program, line)
        results.append((status, out, place.file(program, ".apptainer/remote.yaml")))
    assert results[0] == results[1]


@pytest.mark.parametrize(
    "line",
    [
        f"echo {servers.PASSWORD} | BOX {LOGIN} docker://CLOSED",
        f"echo {servers.PASSWORD} | BOX {LOGIN} oras://CLOSED",
        f"printf '{servers.PASSWORD}\\r\\n' | BOX {LOGIN} docker://CLOSED",
        f"echo {servers.PASSWORD} | BOX registry login --password-stdin docker://CLOSED",
        f"echo {servers.PASSWORD} | BOX {LOGIN} docker://CLOSED && BOX registry logout docker://CLOSED",
        "mkdir .apptainer; echo '{}' > .apptainer/docker-config.json; "
        f"echo {servers.PASSWORD} | BOX {LOGIN} docker://CLOSED",
        f"echo {servers.PASSWORD} | BOX {LOGIN} --authfile own.json docker://CLOSED",
    ],
)
def test_registry(place: Place, line: str) -> None:
    """Without the column SECURE?: for Apptainer plain HTTP on this machine is secure."""
    results = []
    for program in PROGRAMS:
        status, _ = place.run(program, line)
        listed = [row.split()[0] for row in place.run(program, "BOX registry list")[1].splitlines()[1:]]
        names = (".apptainer/docker-config.json", ".docker/config.json", "own.json")
        files = [place.file(program, name) for name in names]
        known = [item["URI"] for item in (place.file(program, ".apptainer/remote.yaml") or {}).get("Credentials") or []]
        results.append((status, listed, [(found or {}).get("auths") or {} for found in files], known))
    assert results[0] == results[1]


def test_a_wrong_password(place: Place) -> None:
    """docs/registries.md has this difference: Apptainer keeps it."""
    line = f"echo wrong | BOX {LOGIN} docker://CLOSED"
    assert [place.run(program, line)[0] for program in PROGRAMS] == [255, 0]
    assert place.file("bollard", ".docker/config.json") is None


BOTH_WAYS = [("bollard", "apptainer"), ("apptainer", "bollard")]


@pytest.mark.parametrize(("pusher", "puller"), BOTH_WAYS)
def test_oras_there_and_back(place: Place, pusher: str, puller: str) -> None:
    uri = f"oras://OPEN/{pusher}/img:v1"
    place.good(pusher, f"BOX push {IMAGES}/plain.sif {uri}")
    place.good(puller, f"BOX pull got.sif {uri} && cmp got.sif {IMAGES}/plain.sif")
    place.good(puller, f"BOX push got.sif {uri}-back")
    place.good(pusher, f"BOX pull back.sif {uri}-back && cmp back.sif {IMAGES}/plain.sif")


@pytest.mark.parametrize(("one", "other"), BOTH_WAYS)
def test_logins_of_the_other(place: Place, one: str, other: str) -> None:
    home = f"/home/peer/registries/{one}"
    assert place.run(one, f"echo {servers.PASSWORD} | BOX {LOGIN} docker://CLOSED")[0] == 0
    uri = f"oras://CLOSED/{one}/img:v1"
    assert place.run(other, f"BOX push {IMAGES}/plain.sif {uri} && BOX pull got.sif {uri}", home)[0] == 0
    listed = {place.run(program, "BOX registry list", home)[1].split()[2] for program in PROGRAMS}
    assert len(listed) == 1
    assert place.run(other, "BOX registry logout docker://CLOSED", home)[0] == 0
    assert place.run(one, f"BOX pull -F got.sif {uri}", home)[0] == 255


@pytest.mark.parametrize(("one", "other"), BOTH_WAYS)
def test_endpoints_of_the_other(place: Place, one: str, other: str) -> None:
    """A token of one is used by the other, for a push to the library and a pull; a search finds the image."""
    home = f"/home/peer/registries/{one}"
    assert place.run(one, OWN + TOKEN + "BOX remote login --tokenfile token own")[0] == 0
    assert len({place.run(program, "BOX remote list", home)[1] for program in PROGRAMS}) == 1
    uri = f"library://peers/{one}/thing:v1"
    assert place.run(other, f"BOX push {IMAGES}/plain.sif {uri}", home)[0] == 255, "it has no signature"
    assert place.run(other, f"BOX push -U {IMAGES}/plain.sif {uri}", home)[0] == 0
    assert place.run(one, f"BOX pull -U got.sif {uri} && cmp got.sif {IMAGES}/plain.sif")[0] == 0
    found = {re.sub(r"\s+", " ", place.run(program, "BOX search thing", home)[1]) for program in PROGRAMS}
    assert len(found) == 1
    assert place.run(other, f"BOX delete --force {uri}", home)[0] == 0
    assert place.run(one, f"BOX pull -U -F got.sif {uri}")[0] == 255
    assert json.dumps(place.file(one, ".apptainer/remote.yaml")).count(endpoint.TOKEN) == 1


def test_a_policy_that_asks_for_signatures_of_cosign(place: Place, tmp_path: Path) -> None:
    """The skopeo of this tree knows sigstore: it verifies the digest, and bollard converts that digest."""
    registry = servers.Registry(place.open, subprocess.Popen(["true"]))
    registry.process.wait()
    signer = test_cosign.Signer(tmp_path / "signer", *test_cosign.KIND)
    home = ROOT / "home/peer/registries/bollard"
    shutil.copy(signer.public, home / "cosign.pub")
    for name, signed in (("one", True), ("two", False)):
        digest = registry.push(servers.layout(tmp_path / name, name), f"cosigned/{name}:v1")
        if signed:
            text = test_cosign.simple(digest, repository=f"{place.open}/cosigned/{name}")
            test_cosign.attach(registry, digest, [(text, signer.sign(text))], f"cosigned/{name}")
    rule = {"type": "sigstoreSigned", "keyPath": "/home/peer/registries/bollard/cosign.pub",
            "signedIdentity": {"type": "matchRepository"}}  # fmt: skip
    files = {
        "policy.json": {"default": [{"type": "reject"}], "transports": {"docker": {place.open: [rule]}}},
        "registries.d/lab.yaml": {"docker": {place.open: {"use-sigstore-attachments": True}}},
    }
    for name, content in files.items():
        path = home / ".config/containers" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    show = "BOX exec got.sif cat /opt/words"
    assert place.run("bollard", f"BOX pull got.sif docker://OPEN/cosigned/one:v1 && {show}") == (0, "one")
    status, said = place.run("bollard", "BOX pull none.sif docker://OPEN/cosigned/two:v1 2>&1")
    assert status == 255 and "refused by the policy in" in said and "no signature exists" in said, said
    assert place.run("bollard", "BOX pull -F got.sif docker://OPEN/cosigned/one:v1")[0] == 0
    stranger = test_cosign.Signer(tmp_path / "stranger", *test_cosign.KIND)
    shutil.copy(stranger.public, home / "cosign.pub")  # the image is in the cache, which another key has filled
    status, said = place.run("bollard", "BOX pull -F got.sif docker://OPEN/cosigned/one:v1 2>&1")
    assert status == 255 and "refused by the policy in" in said, said


def test_a_container_image_of_bollards_runs_under_apptainer(place: Place) -> None:
    """Environment, labels and runscript of the pushed image are those of the SIF file."""
    uri = "docker://OPEN/full:v1"
    assert place.run("bollard", f"BOX push {IMAGES}/plain.sif {uri}")[0] == 0
    assert place.run("apptainer", f"BOX pull got.sif {uri}")[0] == 0
    # Apptainer puts a backslash before a new line in a value of an OCI image: LINES_OF.
    names = "LINES_OF|PATH|HOME|PWD|SHLVL|LD_LIBRARY_PATH|_|PS1|PROMPT_COMMAND|USER_PATH"
    script = f"env | grep -vE '^({names}|(APPTAINER|SINGULARITY)_.*)=' | grep -v ^two | sort"
    both = (f"{IMAGES}/plain.sif", "got.sif")
    said = {place.run("apptainer", f'BOX exec -e {image} sh -c "{script}"') for image in both}
    assert len(said) == 1, said
    ran = {place.run("apptainer", f"BOX run {image} one two") for image in both}
    assert len(ran) == 1, ran
    assert os.path.exists(ROOT)
