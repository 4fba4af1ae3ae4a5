# SPDX-License-Identifier: BSD-3-Clause
"""Image files: open, read, write and change them.

image.py: opens and checks an image; one descriptor.
image_sbom.py: reads the SBOM and the provenance statement of an image.
sif.py: reads SIF files.
oci_sif.py: reads OCI-SIF files.
oci_config.py: scripts and labels of the configuration of an OCI image.
sif_write.py: writes SIF files.
sif_edit.py: changes SIF files in place.
layout.py: /.singularity.d and the directories that every image has.
pack.py: makes an image of a directory tree.
source_tree.py: what that tree holds: files that are read first, architecture, labels.
encryption.py: keys of encrypted images.
seal.py: writes the encrypted partition of an image.
overlay_create.py: makes a writable ext3 overlay.
"""
