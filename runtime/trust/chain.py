# SPDX-License-Identifier: BSD-3-Clause
"""Whether a certificate and its issuers vouch for signatures of code: openssl decides.

openssl before 3.2 has no purpose for signing code. So it checks the chain for any purpose, and the usages that each
certificate is limited to are compared here. Go's library, and with it Apptainer, compares those of the issuers too.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    # Arguments of openssl, and files by their names in them -> exit status, and what it prints.
    Openssl = Callable[..., tuple[int, bytes]]

CERTIFICATE = b"CERTIFICATE"
_BEGIN = b"-----BEGIN "
# RSA keys from 2048 bits, hashes from SHA-224. Without it, openssl takes SHA-1 and RSA keys of any size.
_LEVEL = ("-auth_level", "2")
_ISSUER = "one of its issuers is not for signing code"


def blocks(text: bytes) -> list[tuple[bytes, bytes]]:
    """Return (kind, text) of each block in PEM form."""
    found = []
    for part in text.replace(b"\r\n", b"\n").split(_BEGIN)[1:]:
        kind, _, rest = part.partition(b"-----")
        end = b"-----END " + kind + b"-----"
        if end in rest:
            found.append((kind, _BEGIN + kind + b"-----" + rest.partition(end)[0] + end + b"\n"))
    return found


def fault(openssl: Openssl, leaf: bytes, others: bytes, roots: bytes | None) -> str:
    """Return why signatures by the key of a certificate do not count; "" if they do.

    openssl: runs openssl; "{NAME}" in its arguments stands for the path of the file that is given as NAME.
    leaf: the certificate in PEM form.
    others: certificates in PEM form between it and a root.
    roots: trusted certificates in PEM form; None for those of this machine.
    """
    why = _unlinked(openssl, leaf, others, roots)
    if why:
        return f": {why}"
    usages, signs = _usages(openssl, leaf)
    if not usages:
        return " is not for signing code"
    if not signs:
        return " is not for signatures"
    # The issuers again, without those that are limited to something else: is there still a chain?
    fit = _fit(openssl, others), None if roots is None else _fit(openssl, roots)
    if fit != (others, roots) and _unlinked(openssl, leaf, *fit):
        return f": {_ISSUER}"
    return ""


def is_issuer(openssl: Openssl, certificate: bytes) -> bool:
    """Return whether a certificate in PEM form may issue others. Parameters as for `fault`."""
    words = ["x509", "-noout", "-ext", "basicConstraints", "-in", "{certificate}"]
    return b"CA:TRUE" in openssl(words, certificate=certificate)[1]


def _unlinked(openssl: Openssl, leaf: bytes, others: bytes, roots: bytes | None) -> str:
    """Return why no good chain leads from the certificate to a root; "" if one does."""
    # openssl fails for a file without any certificate; the leaf is no issuer of its own unless it is a root.
    files = {"leaf": leaf, "others": others + b"\n" + leaf}
    words = ["verify", "-purpose", "any", *_LEVEL, "-untrusted", "{others}"]
    if roots is not None:
        words += ["-no-CApath", "-no-CAstore", "-CAfile", "{roots}"]
        files["roots"] = roots
    status, said = openssl([*words, "{leaf}"], **files)
    if not status:
        return ""
    lines = said.decode("utf-8", "replace").splitlines()
    return next((line.partition(": ")[2] for line in lines if "depth lookup" in line), "its issuers are not trusted")


def _usages(openssl: Openssl, certificate: bytes) -> tuple[bool, bool]:
    """Return whether a certificate allows to sign code, and whether its key may make signatures at all."""
    words = ["x509", "-noout", "-ext", "extendedKeyUsage,keyUsage", "-in", "{certificate}"]
    _, said = openssl(words, certificate=certificate)
    code = b"Code Signing" in said or b"Any Extended Key Usage" in said
    signs = b"Digital Signature" in said or b"Non Repudiation" in said
    return code or b"X509v3 Extended Key Usage" not in said, signs or b"X509v3 Key Usage" not in said


def _fit(openssl: Openssl, text: bytes) -> bytes:
    """Return the certificates that are not limited to another use than signing code; `text` itself if all are so."""
    found = [block for kind, block in blocks(text) if kind.endswith(CERTIFICATE)]
    fit = [block for block in found if _usages(openssl, block)[0]]
    return text if len(fit) == len(found) else b"".join(fit)
