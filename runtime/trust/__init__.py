# SPDX-License-Identifier: BSD-3-Clause
"""Who signed an image: make and verify signatures, keep keys. Which images a site lets run.

signature.py: what a signature in a SIF file covers.
pgp.py: PGP signatures and keys, by gpgv and gpg.
keyring.py: keyring files, as Apptainer writes them.
dsse.py: signatures by PEM keys, and certificates.
chain.py: the issuers of certificates.
site_keys.py: a site's own PEM keys and certificates, for its policy.
cosign.py: what cosign signs with a plain key.
verify.py: verifies all signatures of an image.
sign.py: adds signatures to an image.
policy.py: decides by the site's rules whether an image may run.
evidence.py: finds out what the rules ask of an opened image, and applies them.
versions.py: compares versions of packages.
witness.py: who owns a file, for a process in a user namespace.
"""
