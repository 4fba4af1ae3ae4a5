# SPDX-License-Identifier: BSD-3-Clause
"""Build new images from definition files and from fetched images.

definition.py: parses definition files.
builder.py: the steps of a build, in order.
target.py: whether a build may write its target.
bootstrap.py: fills the tree of a build, one function per bootstrap agent.
transfers.py: copies the files of %files.
build_root.py: runs %post and %test.
trace.py: which command of these failed, and in which line.
image_files.py: writes scripts, labels and apps into the tree.
scif.py: the SCIF apps of a definition file.
oci_layout.py: writes an OCI layout, from which an image is pushed.
packages.py: lists the packages in a file tree.
rpm_database.py: reads the databases of rpm.
sbom.py: the list of packages of a new image, in SPDX.
provenance.py: the statement of how a new image was made.
recipes.py: definitions made from requirements.txt, environment.yml and Python scripts.
dockerfile.py: Dockerfiles, by buildah.
conversion.py: makes an image file from a URI such as docker://NAME.
summary.py: the last line of a build and of a pull.
"""
