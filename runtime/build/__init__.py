# SPDX-License-Identifier: BSD-3-Clause
"""New images: from definition files, and from images that were fetched.

definition.py: parses definition files.
builder.py: the steps of a build, in order.
bootstrap.py: where a build's tree comes from.
build_root.py: runs %post and %test.
image_files.py: writes scripts, labels and apps into the tree.
scif.py: apps of a definition.
conversion.py: makes an image file of a docker:// or other name.
"""
