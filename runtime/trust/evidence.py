# SPDX-License-Identifier: BSD-3-Clause
"""Find out what a site's rules ask of an opened image, and apply the rules: in the client, and on the node.

Everything is read through the descriptor that is mounted later. So a file that is renamed or replaced after the check
in the client is decided on anew. Runs as the user, in the keeper without capabilities.
"""

from __future__ import annotations

import os

from bollard.runtime.errors import BollardError
from bollard.runtime.image import image_sbom, sif
from bollard.runtime.installed import GPGV
from bollard.runtime.request import trust_rule
from bollard.runtime.system import mount_table
from bollard.runtime.trust import policy, signature, site_keys, verify, witness
from bollard.runtime.trust.policy import Evidence, Verdict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bollard.runtime.image.image import Image
    from bollard.runtime.image.image_sbom import Sbom
    from bollard.runtime.request.trust_rule import Policy
    from bollard.runtime.trust.site_keys import SiteKey

_BLOCK = 1 << 20


def check_image(rules: Policy, opened: Image, name: str, connection: int = -1) -> Verdict:
    """Return the policy's verdict about an opened image.

    rules: the site's policy.
    opened: the image.
    name: what the user typed.
    connection: to the witness (`witness.owner`); -1 outside of the keeper's user namespace.

    Raises:
        BollardError: the policy is enforced and refuses the image.
    """
    # Not the table that the file has now: what is mounted lies where the table that was read first says.
    return _applied(rules, _evidence(opened.fd, name, opened.descriptors, rules, connection), name)


def check_layer(rules: Policy, fd: int, path: str, connection: int = -1) -> Verdict:
    """Return the policy's verdict about an overlay, whose files replace those of the image. It has no signature.

    rules: the site's policy.
    fd: descriptor of the overlay, perhaps O_PATH.
    path: as the user typed it.
    connection: as for `check_image`.

    Raises:
        BollardError: the policy is enforced and refuses the overlay.
    """
    return _applied(rules, _evidence(fd, path, None, rules, connection), f"overlay {path}")


def summary(rules: Policy, verdicts: list[Verdict]) -> list[tuple[str, str]]:
    """Return the verdicts about a container's image and layers for its record, as (name, value) pairs.

    The first refused one counts, else the first: that of the image.
    """
    counts = next((verdict for verdict in verdicts if not verdict.allowed), verdicts[0])
    pairs = [("trust", f"{rules.mode}:{'allowed' if counts.allowed else 'refused'}"), ("trust-rule", counts.label())]
    if counts.why:
        pairs.append(("trust-why", counts.why[:200]))
    signers = sorted({key for verdict in verdicts for key in verdict.signers})
    return pairs + ([("signers", ",".join(signers))] if signers else [])


def log(rules: Policy, verdict: Verdict, name: str) -> None:
    """Write a refusal to the system log. A node without a log daemon has none; the job's record has the same.

    rules: the policy.
    verdict: its verdict about the image.
    name: path of the image.
    """
    import syslog

    job = os.environ.get("SLURM_JOB_ID", "")
    where = f"job {job}, " if job else ""
    text = f"bollard: {where}uid {os.getuid()}: {rules.mode}: refused {name!a} by rule {verdict.label()}: {verdict.why}"
    syslog.openlog("bollard", 0, syslog.LOG_AUTH)
    syslog.syslog(syslog.LOG_WARNING, text.replace("\0", " ")[:1000])
    syslog.closelog()


def _applied(rules: Policy, found: Evidence, name: str) -> Verdict:
    verdict = policy.decide(rules, found)
    if not verdict.allowed:
        log(rules, verdict, found.path)
    if not verdict.allowed and rules.mode == trust_rule.ENFORCE:
        error = policy.refusal(rules, verdict, name)
        error.trusted = summary(rules, [verdict])
        raise error
    return verdict


def _evidence(fd: int, name: str, found: sif.Sif | None, rules: Policy, connection: int) -> Evidence:
    info = os.fstat(fd)

    def owner() -> tuple[int, int]:
        if is_served_by_user(mount_table.line_of(fd)):
            raise BollardError(
                "it lies on a filesystem that a user serves (FUSE), where owners mean nothing",
                "use a file on another filesystem",
            )
        return witness.owner(connection, fd)

    def digest() -> str:
        return _sha256(fd, name) if info.st_mode & 0o170000 == 0o100000 else ""

    def signers() -> frozenset[str]:
        return signers_of(fd, found, rules) if found else frozenset()

    def sbom() -> Sbom | None:
        text = image_sbom.text_of(fd, found) if found else None
        if found is None or text is None:
            return None
        whole = image_sbom.parse(text, name)
        if sif.overlays(found):
            whole.gaps = whole.gaps or "those of its overlay partitions"
        return whole

    return Evidence(name, mount_table.path_of(fd), owner, digest, signers, sbom)


def is_served_by_user(mount: list[bytes]) -> bool:
    """Return whether a mount is a FUSE filesystem that another user than root has mounted; True for an unknown mount.

    Such a user can show any owner and mode, and change the content at any time.

    mount: its words in /proc/self/mountinfo.
    """
    if not mount:
        return True
    kind, _, options = mount[mount.index(b"-", 6) + 1 :][:3]
    users = [option for option in options.split(b",") if option.startswith(b"user_id=")]
    return kind.startswith(b"fuse") and kind != b"fusectl" and users != [b"user_id=0"]


def _sha256(fd: int, name: str) -> str:
    """Return the SHA-256 of a file, which may be opened with O_PATH."""
    import hashlib

    total = hashlib.sha256()
    try:
        with open(os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC), "rb", buffering=0) as file:
            while data := file.read(_BLOCK):
                total.update(data)
    except OSError as error:
        raise BollardError(f"it cannot be read: {error.strerror}", "ask its owner for permission to read it") from None
    return total.hexdigest()


def signers_of(fd: int, found: sif.Sif, rules: Policy) -> frozenset[str]:
    """Return the names of the keys that have signed the whole group of the container (sif.main_group).

    fd: the image file.
    found: its header and descriptors.
    rules: the site's policy, which names the files with its public keys.

    A signature that is not valid, or covers only a part, does not count. Objects in no group count as unsigned.

    Raises:
        BollardError: the site's keys, gpgv or openssl are missing, or the file cannot be read.
    """
    here = os.uname().nodename
    if rules.keyring and not os.path.isfile(rules.keyring):
        raise BollardError(f"the site's keys in {rules.keyring} are missing on {here}", "tell the site's administrator")
    if rules.keyring and not os.access(GPGV, os.X_OK):
        raise BollardError(f"{GPGV} is missing on {here}", "the site's administrator installs gpgv, then bollard again")
    if signature.strays(found):
        return frozenset()
    group = sif.main_group(found)
    keys: tuple[SiteKey, ...] = ()
    # openssl is started only for an image that has such a signature.
    if rules.pem_keys and any(item.kind == "dsse" for item in signature.signatures(fd, found, group)):
        keys = tuple(site_keys.read(rules.pem_keys, rules.roots)[0])
    trust = verify.Trust((rules.keyring,) if rules.keyring else (), keys, GPGV)
    return verify.signers(verify.verify(fd, found, trust, groups=[group]))
