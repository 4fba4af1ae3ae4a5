# SPDX-License-Identifier: BSD-3-Clause
"""The full check in srun, sbatch and salloc before a job is submitted.

The client's C code skips it if the only option is the image and its own check accepts this image
(spank_plugin/image_probe.c).
"""

from __future__ import annotations

import os
import stat
import time

from bollard.runtime.errors import BollardError
from bollard.runtime.image import image
from bollard.runtime.installed import PREFIX
from bollard.runtime.request import forms, site, spec, spec_text
from bollard.runtime.request.options import PREFIXES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bollard.runtime.request.trust_rule import Policy

# Directories that are local to each node: an image there can exist on the compute nodes only.
NODE_LOCAL = ("/tmp", "/var/tmp", "/dev/shm")


def check(text: bytes, out: int) -> None:
    """Check a spec and write its final form, with all values resolved.

    text: the spec from the client.
    out: the file descriptor to write to.

    Raises:
        BollardError: the spec or the image cannot be used.
    """
    here = site.load(PREFIX)
    given = spec_text.pairs(text)
    values = _fetched(forms.resolve_for_job(given), here)
    asked = spec.make(values)
    site.refuse_overlays(here, asked.overlays)
    if here.trust:
        _check_overlays(here.trust, asked)
    if asked.save:
        _look_at_saved(asked)
    options = {name for name, _ in given}
    if any(name == "id" for name, _ in values):
        _refuse_idle_key(asked, options)  # the client's own probe (image_probe.c) accepts no encrypted image
    elif asked.image and not _on_nodes_only(asked.image):
        opened = image.open_image(asked.image, os.uname().machine, encrypted=True)
        site.refuse_image(here, opened.fd, asked.asked)
        if here.trust:
            from bollard.runtime.trust import evidence

            evidence.check_image(here.trust, opened, asked.asked)
        _check_key(opened, asked, options)
        values.append(("id", ".".join(map(str, opened.identity))))
    values = [(name, asked.image if name == "image" else value) for name, value in values]
    # Options without effect here are removed: they would change the hash of the spec and so make another container.
    idle: tuple[str, ...] = ("once",) if not spec.is_of_one_step(spec.make(site.completed(values, here))) else ()
    idle += ("pty",) if not asked.contain else ()
    values = [pair for pair in values if pair[0] not in idle]
    multi_prog = any(name == "multi-prog" for name, _ in values)
    header = spec_text.header_of(asked, str(time.time_ns()) if asked.verbose else "", multi_prog)
    settled = spec_text.canonical(values, header)
    while settled:
        settled = settled[os.write(out, settled) :]


def _check_key(opened: image.Image, asked: spec.Spec, given: set[str]) -> None:
    """Raise unless the node can get the key of an encrypted image from a file of the user's.

    A key in a variable is refused: Slurm keeps the environment of a job in the controller's files and on the nodes.
    """
    if not opened.encrypted:
        _refuse_idle_key(asked, given)
        return
    from bollard.runtime.image import encryption

    secret = [prefix + name for name in encryption.VARIABLES for prefix in PREFIXES if os.environ.get(prefix + name)]
    if secret:
        option = "passphrase-file" if secret[0].endswith("PASSPHRASE") else "pem-path"
        raise BollardError(
            f"{asked.asked}: is encrypted, and {secret[0]} would be in the job's environment, which Slurm stores",
            f"unset it, write the key to a file that only you can read, and give --container-{option} FILE",
        )
    if asked.save:
        raise BollardError(f"container-save: {asked.asked} is encrypted, and its copy would not be", "leave it out")
    passphrase = pem = b""
    if asked.passphrase_file and not _on_nodes_only(asked.passphrase_file):
        passphrase = encryption.read_passphrase(asked.passphrase_file)
    if asked.pem_path and not _on_nodes_only(asked.pem_path):
        pem = encryption.read_pem(asked.pem_path)
    if passphrase or pem or not (asked.passphrase_file or asked.pem_path):
        encryption.check_kind(asked.asked, opened.wrapped_key(), encryption.Key(passphrase, pem))


def _refuse_idle_key(asked: spec.Spec, given: set[str]) -> None:
    """Raise if an option gives a key for an image that is not encrypted. A variable is for all images of a script."""
    for name in ("passphrase-file", "pem-path"):
        if name in given:
            text = f"{asked.asked}: is not encrypted, so --container-{name} has no effect"
            raise BollardError(text, "leave it out")


def _check_overlays(rules: Policy, asked: spec.Spec) -> None:
    """Apply the site's policy to the overlays. Skips those that this host cannot open: the node checks them."""
    from bollard.runtime.trust import evidence

    for path, _ in asked.overlays:
        try:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue  # on the nodes alone: they check it
        try:
            evidence.check_layer(rules, fd, path)
        finally:
            os.close(fd)


def _look_at_saved(asked: spec.Spec) -> None:
    """Print that --container-save will replace a file. The image itself is replaced only if both have the same path."""
    try:
        there = os.stat(asked.save)
    except OSError:
        return  # there is no such file, or the node cannot write there and says so
    if not stat.S_ISREG(there.st_mode):
        return  # the node reports the error
    try:
        is_image = bool(asked.image) and os.path.samestat(os.stat(asked.image), there)
    except OSError:
        is_image = False  # on the nodes alone: they open it, and say so
    if is_image and asked.save != asked.image:
        raise BollardError(
            f"container-save {asked.save}: is the image itself", f"to replace it, name both as {asked.asked}"
        )
    what = "the image" if is_image else "the file that is there"
    os.write(2, f"bollard: container-save {image.shown(asked.save)}: replaces {what}\n".encode("utf-8", "replace"))


def _fetched(values: list[tuple[str, str]], here: site.Site) -> list[tuple[str, str]]:
    """Return the values with the path of the cached image if it is a URI. It is fetched here once, not on each node."""
    given = dict(values)
    uri = given.get("asked", "")
    if "#" in uri and not image.is_uri(uri) and not os.path.lexists(given["image"]):
        uri = f"docker://{uri}"  # the form of pyxis, REGISTRY#NAME, has no scheme
    elif not image.is_uri(uri) and _is_registrys(uri) and not os.path.lexists(given["image"]):
        if not here.registry:
            hint = f"check the name with `ls`; an image of a registry is docker://{uri}"
            if "/" not in uri:  # sbatch takes # and what follows it for a comment
                hint += "; in an #SBATCH line, put a value with # in quotes"
            raise BollardError(f"{uri}: no such file", hint)
        uri = f"docker://{uri}"
    if not image.is_uri(uri):
        return values
    from bollard.runtime.build import conversion
    from bollard.runtime.fetch import pins, sources

    settings = sources.settings([], os.environ)
    if settings.disable_cache:
        raise BollardError(f"{uri}: the cache is disabled, where a job's image is kept", "use `bollard pull`")
    # srun in a job makes a step of it. sbatch and salloc make another job.
    step = os.path.basename(os.readlink("/proc/self/exe")) == "srun"
    found = conversion.image_in_job(uri, settings, pins.job(os.environ) if step else "")
    found.close()
    values = [(name, found.path if name == "image" else value) for name, value in values]
    return [*values, ("source", found.source)] if found.source else values


# NAME, SERVER/PATH/NAME, each with :TAG or @DIGEST (the grammar of distribution's references).
_REFERENCE = r"[a-z0-9]+([._:/-]+[a-z0-9]+)*(:[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,127})?(@sha256:[0-9a-f]{64})?"
_FILE_ENDS = (".sif", ".sqsh", ".sqfs", ".squashfs", ".simg", ".img", ".tar")


def _is_registrys(name: str) -> bool:
    """Return whether the name can be that of an image in a registry. A path that begins with / or . cannot."""
    from re import fullmatch

    if name.endswith(_FILE_ENDS) or not fullmatch(_REFERENCE, name):
        return False
    return ":" in name or "/" not in name or "." in name.split("/")[0]


def _on_nodes_only(path: str) -> bool:
    return not os.path.lexists(path) and any(path.startswith(place + "/") for place in NODE_LOCAL)
