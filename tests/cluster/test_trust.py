# SPDX-License-Identifier: BSD-3-Clause
"""A site's policy of images, enforced and observed: on the submit host, on the node, and in `bollard exec`.

The rules themselves are tested without a cluster (tests/unit/test_trust_policy.py). Here the policy is decided on real
files, by srun, sbatch, named containers and overlays; on the node also where the client has not decided, or on another
file.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from cluster import CONTROLLER, Cluster, Images, Result, Work, good, until

NODES = (CONTROLLER, "n1")
FOLDER = "/opt/trust"
CONFIG = """\
trust:
  mode: {mode}
  keyring: /etc/bollard/keys
  rules:
    - {{name: owned, from: {folder}/owned, owner: root}}
    - {{name: listed, from: {folder}/listed, digests: [{digest}]}}
    - {{name: signed, from: {folder}/signed, signed-by: {key}}}
    - {{name: both, from: {folder}/both, all-signed-by: [{key}, {other}]}}
    - {{name: old, from: {folder}/old, without: ["libc6 < 1000"]}}
    - {{name: new, from: {folder}/new, without: [log4j, "libc6 < 1"]}}
    - {{name: pulled, from: "docker://registry.example/lab", signed-by: {key}}}
    - {{name: temporary, from: [/tmp, /var/tmp], refuse: yes}}
    - {{name: home, from: /home, owner: [alice, root]}}
"""


class Signer:
    """A GnuPG home on this machine with two keys."""

    def __init__(self, home: str) -> None:
        self.home = home
        self.keys = [self._made("one"), self._made("two")]

    def gpg(self, *words: str, data: bytes = b"") -> bytes:
        base = ["gpg", "--homedir", self.home, "--batch", "--yes", "--passphrase", "", "--pinentry-mode", "loopback"]
        return subprocess.run([*base, *words], input=data, capture_output=True, check=True).stdout

    def _made(self, name: str) -> str:
        self.gpg("--quick-generate-key", f"{name}@example.org", "ed25519", "sign", "never")
        lines = self.gpg("--list-keys", "--with-colons", f"{name}@example.org").decode().splitlines()
        return next(line.split(":")[9] for line in lines if line.startswith("fpr:"))

    def sign(self, path: Path, key: str) -> None:
        from bollard.runtime.image import image
        from bollard.runtime.trust import sign

        fd, found = image.open_sif(str(path))
        try:
            made = []
            for group, text in sign.texts(fd, found, (), ()):
                words = ("--local-user", f"{key}!", "--digest-algo", "SHA256", "--clearsign")
                made.append((group, self.gpg(*words, data=text).rstrip(b"\n"), "SHA256"))
        finally:
            os.close(fd)
        sign.add(str(path), made, key)


class Policy(NamedTuple):
    """The policy on the controller and on n1. `mode` changes it there; `image` is the path of an image on the nodes."""

    cluster: Cluster
    signer: Signer
    digest: str

    def mode(self, mode: str, *nodes: str) -> None:
        text = CONFIG.format(
            mode=mode, folder=FOLDER, digest=self.digest, key=self.signer.keys[0], other=self.signer.keys[1]
        )
        ring = self.signer.gpg("--export")
        for node in nodes or NODES:
            place = self.cluster.path(node, "/etc/bollard")
            place.mkdir(exist_ok=True)
            (place / "keys").write_bytes(ring)
            (place / "bollard.yaml").write_text(text)
            good(self.cluster.exec(["bollard", "site", "configure"], node=node, user="root"))

    def off(self, *nodes: str) -> None:
        for node in nodes or NODES:
            undo = "rm -rf /etc/bollard; bollard site configure"
            good(self.cluster.exec(undo, node=node, user="root"))

    def put(self, folder: str, source: Path) -> str:
        """Copy an image to a folder on all nodes; return its path there."""
        for node in NODES:
            place = self.cluster.path(node, FOLDER) / folder
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, place / "img.sif")
            (place / "img.sif").chmod(0o644)
        return f"{FOLDER}/{folder}/img.sif"

    def owner(self, path: str, uid: int, *nodes: str) -> None:
        for node in nodes or NODES:
            os.chown(self.cluster.path(node, path), uid, uid)


@pytest.fixture(scope="module")
def made(images: Images, cluster: Cluster) -> Iterator[tuple[Policy, dict[str, str]]]:
    """The policy, and images by the name of the folder that they are in: signed by nobody, by one key, by two keys."""
    from bollard.runtime.build import builder

    with tempfile.TemporaryDirectory(prefix="trust-", dir="/tmp") as home:
        os.chmod(home, 0o700)
        signer = Signer(home)
        plain, one, two = (Path(home, f"{name}.sif") for name in ("plain", "one", "two"))
        tree = Path(home, "tree")
        source = cluster.path(CONTROLLER, images.small)
        subprocess.run(["unsquashfs", "-q", "-n", "-d", tree, "-o", str(offset(source)), source], check=True)
        builder.make(builder.Request(str(plain), str(tree)))
        shutil.copy(plain, one)
        signer.sign(one, signer.keys[0])
        shutil.copy(one, two)
        signer.sign(two, signer.keys[1])
        policy = Policy(cluster, signer, hashlib.sha256(plain.read_bytes()).hexdigest())
        paths = {name: policy.put(name, plain) for name in ("owned", "listed", "old", "new")}
        paths |= {"signed": policy.put("signed", one), "both": policy.put("both", two)}
        paths |= {"unsigned": policy.put("signed/none", plain), "single": policy.put("both/one", one)}
        paths |= {"other": policy.put("elsewhere", plain)}
        changed = bytearray(one.read_bytes())
        changed[-4096] ^= 1
        Path(home, "changed.sif").write_bytes(changed)
        paths |= {"changed": policy.put("signed/changed", Path(home, "changed.sif"))}
        paths |= {"unlisted": policy.put("listed/one", one)}
        try:
            yield policy, paths
        finally:
            policy.off()
            for node in NODES:
                shutil.rmtree(cluster.path(node, FOLDER), ignore_errors=True)
            subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], capture_output=True)


def offset(path: Path) -> int:
    from bollard.runtime.image import image

    opened = image.open_image(str(path))
    opened.close()
    return opened.offset


def refused(done: Result, rule: str, why: str) -> None:
    assert done.rc != 0 and len(done.complaints()) == 1, done
    assert f'refused by this site, by rule "{rule}" in /etc/bollard/bollard.yaml:' in done.err and why in done.err, done


ALLOWED = ("owned", "listed", "signed", "both", "new")
REFUSED = (
    ("unlisted", "listed", "its SHA-256"),
    ("unsigned", "signed", "it is not signed by"),
    ("changed", "signed", "it is not signed by"),
    ("single", "both", "it is not signed by"),
    ("old", "old", "which `libc6 < 1000` excludes; update that package"),
)


def each(command: str, paths: Iterable[str]) -> str:
    """A shell line that runs `command` for each image, which is $i in it, and prints its exit status."""
    return f"for i in {' '.join(paths)}; do {command} 2>&1; echo $?; done"


def test_the_same_verdict_in_the_client_on_the_node_and_by_hand(
    made: tuple[Policy, dict[str, str]], cluster: Cluster, work: Work
) -> None:
    policy, paths = made
    policy.mode("enforce")
    step, by_hand = 'srun -Q -w n1 --container="$i" id -un', 'bollard exec "$i" id -un'
    good_ones, bad_ones = [paths[name] for name in ALLOWED], [paths[name] for name, _, _ in REFUSED]

    def verdicts(command: str, node: str = CONTROLLER) -> None:
        out = good(cluster.exec(each(command, good_ones + bad_ones), node=node)).splitlines()
        out = [line for line in out if not line.startswith("srun: error: ")]  # of a task that the node has refused
        assert out[: 2 * len(ALLOWED)] == ["alice", "0"] * len(ALLOWED), out
        for (name, rule, why), line in zip(REFUSED, out[2 * len(ALLOWED) :: 2]):
            start = f'bollard: {paths[name]}: refused by this site, by rule "{rule}" in /etc/bollard/bollard.yaml:'
            assert line.startswith(start) and why in line, line
        assert out[2 * len(ALLOWED) + 1 :: 2] == ["255"] * len(REFUSED), out

    verdicts(step)
    verdicts(by_hand, "n1")
    done = cluster.srun("-w", "n1", f"--container={paths['other']}", "true")
    assert "no rule names the place where it is; use an image from /opt/trust/owned or " in done.err, done
    policy.off(CONTROLLER)  # a client that decides nothing: the node decides
    verdicts(step)
    policy.owner(paths["owned"], 1001, "n1")
    try:
        refused(cluster.srun("-w", "n1", f"--container={paths['owned']}", "true"), "owned", "not to root")
        refused(cluster.exec(["bollard", "exec", paths["owned"], "true"], node="n1"), "owned", "not to root")
    finally:
        policy.owner(paths["owned"], 0, "n1")


PEM_CONFIG = """\
trust:
  mode: enforce
  pem-keys: /etc/bollard/keys.pem
  roots: /etc/bollard/roots.pem
  rules:
    - {{name: key, from: {folder}/key, signed-by: "{rsa}"}}
    - {{name: certified, from: {folder}/certified, signed-by: "{ec}"}}
"""


def test_pem_keys_and_certificates(
    made: tuple[Policy, dict[str, str]], cluster: Cluster, work: Work, tmp_path: Path
) -> None:
    """A key by itself, and one that counts by its certificate; by srun, where each place decides, and by sbatch."""
    from bollard.runtime.trust import dsse, sign

    policy, _ = made

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=tmp_path, check=True, capture_output=True)

    elliptic = ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
    for name in ("ec", "root", "rsa"):
        kind = ("-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048") if name == "rsa" else elliptic
        openssl("genpkey", *kind, "-out", f"{name}.pem")
    openssl("pkey", "-in", "rsa.pem", "-pubout", "-out", "rsa.pub")
    (tmp_path / "ca").write_text("basicConstraints=critical,CA:TRUE\nkeyUsage=keyCertSign\n")
    (tmp_path / "code").write_text("extendedKeyUsage=codeSigning\n")
    by_root = ("-CA", "root.crt", "-CAkey", "root.pem", "-set_serial", "7")
    for name, usage, issuer in (("root", "ca", ("-signkey", "root.pem")), ("ec", "code", by_root)):
        openssl("req", "-new", "-key", f"{name}.pem", "-subj", f"/CN={name}", "-out", "req")
        openssl("x509", "-req", "-in", "req", "-days", "30", "-extfile", usage, *issuer, "-out", f"{name}.crt")
    private = {name: dsse.private_key(str(tmp_path / f"{name}.pem")) for name in ("rsa", "ec")}
    ids = {name: dsse.key_id(key.public_key()) for name, key in private.items()}
    paths = {}
    for folder, key in (("key", "rsa"), ("certified", "ec"), ("key/other", "ec"), ("certified/other", "rsa")):
        img = tmp_path / "img.sif"
        shutil.copy(cluster.path(CONTROLLER, made[1]["other"]), img)
        sign.with_pem(str(img), private[key], (), ())
        paths[folder] = policy.put(folder, img)
    pem = (tmp_path / "rsa.pub").read_bytes() + (tmp_path / "ec.crt").read_bytes()

    def place(node: str) -> None:
        folder = cluster.path(node, "/etc/bollard")
        folder.mkdir(exist_ok=True)
        (folder / "keys.pem").write_bytes(pem)
        shutil.copy(tmp_path / "root.crt", folder / "roots.pem")
        (folder / "bollard.yaml").write_text(PEM_CONFIG.format(folder=FOLDER, **ids))
        good(cluster.exec(["bollard", "site", "configure"], node=node, user="root"))

    def verdicts() -> None:
        out = good(cluster.exec(each('srun -Q -w n1 --container="$i" id -un', paths.values()))).splitlines()
        out = [line for line in out if not line.startswith("srun: error: ")]  # of a task that the node has refused
        assert out[:4] == ["alice", "0"] * 2 and out[5::2] == ["255"] * 2, out
        for rule, line, key in (("key", out[4], "rsa"), ("certified", out[6], "ec")):
            assert f'by rule "{rule}" in' in line and f"it is not signed by {ids[key]}" in line, line

    for node in NODES:
        place(node)
    verdicts()
    script = work.write(
        "job.sh",
        f"#!/bin/sh\n#SBATCH -w n1 -o {work.path}/out\nsrun --container={paths['certified']} id -un\n"
        f"srun --container={paths['certified/other']} true\necho $?\nbollard job $SLURM_JOB_ID\n",
    )
    good(cluster.exec(["sbatch", "-W", script]))
    out = work.read("out")
    assert out.startswith("alice\n") and "\n255\n" in out, out
    assert f"policy (enforce): allowed by certified@7, signed by {ids['ec']}" in out, out
    policy.off(CONTROLLER)  # a client that decides nothing: the node decides
    verdicts()
    done = cluster.exec(["sbatch", "-W", "-w", "n1", "-o", f"{work.path}/whole", f"--container={paths['key/other']}",
                         work.write("whole.sh", "#!/bin/sh\necho ran\n")])  # fmt: skip
    said = work.read("whole")
    assert done.rc != 0 and 'refused by this site, by rule "key"' in said and "ran" not in said, said
    cluster.path("n1", "/etc/bollard/roots.pem").unlink()  # without its root a certificate counts for nothing
    done = cluster.srun("-w", "n1", f"--container={paths['certified']}", "true")
    refused(done, "certified", "the site's keys in /etc/bollard/roots.pem cannot be read on n1")


def test_a_batch_job_a_named_container_and_what_is_on_record(
    made: tuple[Policy, dict[str, str]], cluster: Cluster, work: Work
) -> None:
    policy, paths = made
    policy.mode("enforce")
    script = work.write(
        "job.sh",
        f"""\
#!/bin/sh
#SBATCH -w n1 -o {work.path}/out
srun --container={paths["signed"]} --container-name=kept sh -c 'echo first'
srun --container-name=kept sh -c 'echo second'
srun --container={paths["unsigned"]} --container-name=never true
echo $?
bollard job $SLURM_JOB_ID
""",
    )
    good(cluster.exec(["sbatch", "-W", script]))
    out = work.read("out")
    assert out.startswith("first\nsecond\n") and "\n255\n" in out, out
    assert f"policy (enforce): allowed by signed@7, signed by {policy.signer.keys[0]}" in out, out
    policy.off(CONTROLLER)  # a client that decides nothing: the node refuses
    steps = f"srun --container={paths['unsigned']} true; srun bollard job $SLURM_JOB_ID"
    out = cluster.exec(["salloc", "-Q", "-w", "n1", "sh", "-c", steps]).out
    assert "policy (enforce): refused by signed@7: it is not signed by" in out and "0 tasks entered" in out, out


def test_layers_directories_and_plain_squashfs(
    made: tuple[Policy, dict[str, str]], cluster: Cluster, work: Work
) -> None:
    policy, paths = made
    policy.mode("enforce")
    good(cluster.exec("mkdir /tmp/ov /tmp/tree /tmp/tree/bin", node="n1"))
    try:
        options = "--container-opts=--overlay /tmp/ov"
        for node in (CONTROLLER, "n1"):  # the client knows no such directory: the node decides
            done = cluster.exec(["srun", "-w", "n1", f"--container={paths['signed']}", options, "true"], node=node)
            assert done.rc != 0 and 'overlay /tmp/ov: refused by this site, by rule "temporary"' in done.err, done
        done = cluster.exec(["bollard", "exec", "--overlay", "/tmp/ov", paths["signed"], "true"], node="n1")
        assert done.rc == 255 and "overlay /tmp/ov: refused by this site" in done.err, done
        refused(cluster.exec(["bollard", "exec", "/tmp/tree", "true"], node="n1"), "temporary", "allows no image")
        good(cluster.exec(["mkdir", f"{work.path}/ov"]))
        own = f"--container-opts=--overlay {work.path}/ov"  # rule "home" allows it: alice's own directory
        if work.path.startswith("/home/"):
            good(cluster.srun("-w", "n1", f"--container={paths['signed']}", own, "true"))
        squashfs = cluster.path("n1", FOLDER) / "signed/plain.sqfs"
        image = cluster.path("n1", paths["signed"])
        with open(image, "rb") as file, open(squashfs, "wb") as out:
            file.seek(offset(image))
            shutil.copyfileobj(file, out)
        done = cluster.exec(["bollard", "exec", f"{FOLDER}/signed/plain.sqfs", "true"], node="n1")
        refused(done, "signed", "it is not signed by")
    finally:
        good(cluster.exec(["rm", "-r", "/tmp/ov", "/tmp/tree"], node="n1"))


def test_a_file_that_is_replaced_or_renamed_after_the_submit_is_decided_on_anew(
    made: tuple[Policy, dict[str, str]], cluster: Cluster, work: Work
) -> None:
    policy, paths = made
    policy.mode("enforce")
    place = cluster.path("n1", FOLDER)
    for kind in ("replaced", "renamed"):
        path = policy.put("signed/now", place / "signed/img.sif")
        script = work.write("later.sh", f"#!/bin/sh\nsrun --container={path} echo ran\n")
        words = ["sbatch", "--parsable", "-H", "-w", "n1", "-o", f"{work.path}/{kind}", f"--container={path}", script]
        job = good(cluster.exec(words)).strip()
        target = place / "signed/now/img.sif"
        if kind == "replaced":
            shutil.copy(place / "signed/none/img.sif", target)
        else:
            target.unlink()
            shutil.copy(place / "signed/none/img.sif", f"{target}.new")
            os.rename(f"{target}.new", target)
        good(cluster.exec(["scontrol", "release", job]))
        until(lambda kind=kind: work.exists(kind) and "refused" in work.read(kind), "a refusal")  # type: ignore[misc]
        assert 'by rule "signed"' in work.read(kind) and "ran" not in work.read(kind), work.read(kind)


def test_an_observed_policy_gives_the_same_verdicts_and_stops_nobody(
    made: tuple[Policy, dict[str, str]], cluster: Cluster, work: Work
) -> None:
    policy, paths = made
    policy.mode("observe")
    script = [f"#!/bin/sh\n#SBATCH -w n1 -o {work.path}/observed\n"]
    script += [
        f"srun --container={paths[name]} true || echo failed\n" for name in (*ALLOWED, *(row[0] for row in REFUSED))
    ]
    script += ["srun -n1 true\nbollard job $SLURM_JOB_ID\n"]
    good(cluster.exec(["sbatch", "-W", work.write("observe.sh", "".join(script))]))
    out = work.read("observed")
    assert "failed" not in out and "refused by this site" not in out, out
    assert out.count("policy (observe): allowed by") == len(ALLOWED), out
    for _, rule, why in REFUSED:
        assert any(f"policy (observe): refused by {rule}@" in line and why[:12] in line for line in out.splitlines()), (
            out
        )


def test_owners_on_a_filesystem_of_the_users_own_do_not_count(
    made: tuple[Policy, dict[str, str]], cluster: Cluster, work: Work
) -> None:
    """Alice serves a squashfs in which root owns the image; she could show any content at any time."""
    policy, paths = made
    policy.mode("enforce")
    source, outer = cluster.path("n1", paths["other"]), work.here / "outer.sqfs"
    subprocess.run(["mksquashfs", source, outer, "-all-root", "-noI", "-noD", "-noF", "-quiet"], check=True)
    outer.chmod(0o644)
    place = os.path.dirname(policy.put("owned/served", source))  # the controller has root's file there
    os.chown(cluster.path("n1", place), work.here.stat().st_uid, -1)
    # The directory has a file. fusermount of FUSE 2 wants to hear that; FUSE 3 does not know the word.
    mount = f"{work.path}/outer.sqfs {place}"
    good(cluster.exec(f"squashfuse {mount} 2> /dev/null || squashfuse -o nonempty {mount}", node="n1"))
    try:
        why = "it lies on a filesystem that a user serves (FUSE)"
        done = cluster.exec(f"stat -c %U {place}/img.sif; bollard exec {place}/img.sif true", node="n1")
        assert done.out == "root\n" and why in done.err, done
        refused(cluster.srun("-w", "n1", f"--container={place}/img.sif", "true"), "owned", why)  # the node decides
    finally:
        good(cluster.exec(["fusermount", "-u", place], node="n1"))


def test_a_missing_keyring_refuses(made: tuple[Policy, dict[str, str]], cluster: Cluster) -> None:
    policy, paths = made
    policy.mode("enforce")
    cluster.path("n1", "/etc/bollard/keys").unlink()
    done = cluster.srun("-w", "n1", f"--container={paths['signed']}", "true")
    refused(done, "signed", "the site's keys in /etc/bollard/keys are missing on n1; tell the site's administrator")
