# SPDX-License-Identifier: BSD-3-Clause
"""Encrypted images under Slurm: who gets the key, and where it never is.

The images are made by `bollard build` on the cluster. tests/peers compares them with Apptainer's.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import CONTROLLER, Cluster, Work, good

NODES = (CONTROLLER, "n1")
PASSPHRASE = "wherefore-art-thou-7391"
PREPARE = rf"""
set -e
cd $1
umask 077
echo {PASSPHRASE} > pass
echo other > wrong
openssl genrsa -traditional -out rsa.pem 2048 2>/dev/null
openssl rsa -in rsa.pem -RSAPublicKey_out -out rsa.pub 2>/dev/null
openssl genrsa -traditional -out other.pem 2048 2>/dev/null
umask 022
mkdir -p sb/bin sb/etc sb/tmp sb/proc sb/home sb/lib64 sb/.singularity.d/env
for program in /bin/dash /bin/cat /bin/sleep /bin/true /usr/bin/env /usr/bin/id; do
    cp $program sb/bin
    for library in $(ldd $program | grep -o '/[^ ]*'); do
        mkdir -p sb$(dirname $library); cp -L $library sb$library
    done
done
ln -s dash sb/bin/sh
echo 'export MADE=here' > sb/.singularity.d/env/90-environment.sh
bollard build --passphrase-file pass phrase.sif sb
bollard build --pem-path rsa.pub rsa.sif sb
bollard build plain.sif sb
"""


@pytest.fixture(scope="module")
def place(cluster: Cluster) -> Iterator[Work]:
    """A shared directory of alice's with encrypted images and their keys; gocryptfs is on the controller and on n1."""
    for node in NODES:
        cluster.add_gocryptfs(node)
    with cluster.work() as work:
        good(cluster.exec(["sh", "-c", PREPARE, "sh", work.path]))
        yield work


def refused(cluster: Cluster, place: Work, line: str, *texts: str) -> None:
    done = cluster.exec(f"cd {place.path}; {line}")
    assert done.rc != 0 and len(done.complaints()) == 1, done
    assert all(text in done.err for text in texts), done


def test_each_way_to_start_one(place: Work, cluster: Cluster) -> None:
    phrase, rsa = "--container-passphrase-file=pass", "--container-pem-path=rsa.pem"

    def out(line: str) -> list[str]:
        return good(cluster.exec(f"cd {place.path}; {line}")).split()

    assert out(f"srun -w n1 --container=phrase.sif {phrase} sh -c 'echo $MADE'") == ["here"]
    assert out(f"srun -n2 -w n1 --container=rsa.sif {rsa} id -un") == ["alice", "alice"]
    assert out("BOLLARD_ENCRYPTION_PEM_PATH=rsa.pem srun -w n1 --container=rsa.sif id -un") == ["alice"]
    assert out("APPTAINER_ENCRYPTION_PEM_PATH=rsa.pem srun -w n1 --container=rsa.sif id -un") == ["alice"]
    assert out("bollard exec --pem-path rsa.pem rsa.sif id -un") == ["alice"]
    assert out(f"APPTAINER_ENCRYPTION_PASSPHRASE={PASSPHRASE} bollard exec phrase.sif id -un") == ["alice"]
    assert out('APPTAINER_ENCRYPTION_PEM_DATA="$(cat rsa.pem)" bollard exec rsa.sif id -un') == ["alice"]
    assert out(f"(echo {PASSPHRASE}; echo rest) | bollard exec --passphrase phrase.sif cat") == ["rest"]
    assert out("bollard inspect --deffile phrase.sif")[:2] == ["bootstrap:", "localimage"]
    script = f"#!/bin/sh\n#SBATCH -w n1 --container=phrase.sif {phrase}\nid -un; test -e /.singularity.d && echo in\n"
    place.write("job.sh", script)
    assert out("sbatch -Q --wait -o job.out job.sh >/dev/null; cat job.out") == ["alice", "in"]
    steps = f"srun --container=rsa.sif --container-name=c {rsa} true; srun --container-name=c id -un"
    assert out(f'salloc -Q -w n1 sh -c "{steps}"') == ["alice"]
    assert out(f"srun -w n1 --container=rsa.sif {rsa} --container-writable sh -c 'echo x > /new; cat /new'") == ["x"]


def test_one_line_for_each_mistake(place: Work, cluster: Cluster) -> None:
    step, no_key = "srun -Q -w n1 --container", "is encrypted, and no key was given"

    def no(line: str, *texts: str) -> None:
        refused(cluster, place, line, *texts)

    no(f"{step}=phrase.sif true", "phrase.sif", no_key, "--container-passphrase-file FILE")
    no(f"{step}=rsa.sif true", "rsa.sif", no_key, "--container-pem-path FILE")
    no(f"{step}=rsa.sif --container-passphrase-file=pass true", "is encrypted for an RSA key, not with a passphrase")
    no(f"{step}=phrase.sif --container-pem-path=rsa.pem true", "is encrypted with a passphrase, not for an RSA key")
    no(f"{step}=rsa.sif --container-pem-path=rsa.pub true", "the given key is a public key")
    no(f"{step}=rsa.sif --container-pem-path=none.pem true", "none.pem: cannot be read: No such file")
    no(f"{step}=plain.sif --container-pem-path=rsa.pem true", "is not encrypted, so --container-pem-path has no effect")
    no("bollard exec --passphrase-file pass plain.sif true", "is not encrypted, so --passphrase-file has no effect")
    for form in ("APPTAINER_ENCRYPTION_PASSPHRASE=x", "SINGULARITY_ENCRYPTION_PEM_DATA=x"):
        no(f"{form} {step}=phrase.sif --container-passphrase-file=pass true", "which Slurm stores; unset it")
    no(f"{step}=rsa.sif --container-pem-path=rsa.pem --container-save=s.sif true", "container-save: ", "is encrypted")
    no("bollard build new.sif rsa.sif", "rsa.sif: is encrypted; its files can be read in a container alone")
    no("bollard build --pem-path rsa.pem new.sif plain.sif", "the given RSA key is a private key")
    assert not place.exists("new.sif") and not place.exists("s.sif")


def test_a_wrong_key_is_told_by_the_node(place: Work, cluster: Cluster) -> None:
    phrase, wrong = "--container=phrase.sif", "the given key does not open it"
    for line, text in (
        (f"srun -Q -w n1 {phrase} --container-passphrase-file=wrong true", wrong),
        ("srun -Q -w n1 --container=rsa.sif --container-pem-path=other.pem true", "the given RSA key does not open it"),
        ("bollard exec --passphrase-file wrong phrase.sif true", wrong),
        (f"srun -Q -w n2 {phrase} --container-passphrase-file=pass true", "gocryptfs 2.0 or newer is missing"),
    ):
        done = cluster.exec(f"cd {place.path}; {line}")
        assert done.rc != 0 and text in done.err and len(done.complaints()) == 1, (line, done)


def test_a_changed_image_gives_no_wrong_data(place: Work, cluster: Cluster) -> None:
    """gocryptfs authenticates each block: a task gets an error and never another content."""
    raw = bytearray((place.here / "phrase.sif").read_bytes())
    for at in range(len(raw) // 2, len(raw) - 8192, 65536):
        raw[at] ^= 1
    place.write("changed.sif", bytes(raw))
    done = cluster.exec(f"cd {place.path}; srun -Q -w n1 --container=changed.sif --container-passphrase-file=pass true")
    assert done.rc != 0, done


def secrets(work: Work) -> list[bytes]:
    """What must be nowhere: the passphrase, and lines of the private key."""
    lines = (work.here / "rsa.pem").read_bytes().splitlines()
    return [PASSPHRASE.encode(), lines[3], lines[8]]


def holds(data: bytes, wanted: list[bytes]) -> bool:
    return any(secret in data for secret in wanted)


def test_the_key_is_nowhere_but_in_the_keeper(place: Work, cluster: Cluster) -> None:
    """Not in any environment or argument on the node, nor in files of Slurm, records or logs."""
    wanted = secrets(place)
    for image, option in (("phrase.sif", "passphrase-file=pass"), ("rsa.sif", "pem-path=rsa.pem")):
        name = f"wait-{image}"
        command = f"cd {place.path}; exec srun -Q -w n1 --container={image} --container-{option} sh -c {{}}"
        with cluster.start(command.format(f"'env; {place.pause(name)}'")) as step:
            place.wait_for(name)
            seen = 0
            for node in NODES:
                for process in cluster.processes(node):
                    for file in ("environ", "cmdline"):
                        try:
                            data = Path(f"/proc/{process.pid}/{file}").read_bytes()
                        except OSError:
                            continue  # it has ended
                        seen += 1
                        assert not holds(data, wanted), (process, file)
            assert seen > 20 and cluster.named("n1", "gocryptfs")
            place.go_on(name)
            done = step.result()
        assert done.rc == 0 and not holds(done.out.encode(), wanted), done
    for node in NODES:
        for folder in ("/var/log", "/var/spool", "/run", "/tmp", "/var/lib/slurm"):
            root = cluster.path(node, folder)
            found = subprocess.run(
                ["grep", "-rlaF", *(f"-e{secret.decode()}" for secret in wanted), root], capture_output=True, text=True
            )
            assert not found.stdout, found.stdout


def test_by_hand_no_program_is_started_with_the_key(place: Work, cluster: Cluster) -> None:
    """strace shows each program that is started, with all of its arguments and variables."""
    tracer = f"strace -f --seccomp-bpf -v -s 65536 -e trace=execve,openat -o {place.path}/trace"
    for how, image in (
        (f"APPTAINER_ENCRYPTION_PASSPHRASE={PASSPHRASE}", "phrase.sif"),
        ('APPTAINER_ENCRYPTION_PEM_DATA="$(cat rsa.pem)"', "rsa.sif"),
    ):
        # The first program, and the start of the command again without the variable, are the user's own.
        good(cluster.exec(f"cd {place.path}; {how} sh -c '{tracer} bollard exec {image} id -un'", seconds=120))
        lines = [line for line in place.read("trace").splitlines() if "execve(" in line]
        assert len(lines) > 4 and sum("gocryptfs" in line for line in lines) == 1, lines
        again = next(number for number, line in enumerate(lines) if "BOLLARD_ENCRYPTION_FD=" in line)
        for line in lines[again:]:
            assert not holds(line.encode(), [PASSPHRASE.encode()]) and "PRIVATE KEY" not in line, line
        opened = re.findall(r'openat\([^"]*"(/[^"]*)", O_(?:W\w+|RDWR)', place.read("trace"))
        assert not [path for path in opened if not path.startswith(("/dev/", "/proc/", "/usr/lib/bollard"))], opened
