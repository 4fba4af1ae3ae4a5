# SPDX-License-Identifier: BSD-3-Clause
"""Who signed an image: make and verify signatures, keep keys.

signature.py: what a signature in a SIF file covers.
pgp.py: PGP signatures and keys, by gpgv and gpg.
keyring.py: keyring files, as Apptainer writes them.
dsse.py: signatures by PEM keys, and certificates.
verify.py: verifies all signatures of an image.
sign.py: adds signatures to an image.
"""
