# SPDX-License-Identifier: BSD-3-Clause
"""The paths of this installation. `spank_plugin/build.py` lists its files."""

import os

_PACKAGE = os.path.abspath(__file__).rsplit("/", 2)[0]
# pip installs the programs into the package. Else this file is PREFIX/python/bollard/runtime/installed.py.
BY_PIP = os.path.exists(f"{_PACKAGE}/programs")
PREFIX = f"{_PACKAGE}/programs" if BY_PIP else _PACKAGE.rsplit("/", 2)[0]
# In PREFIX of an installation for Slurm: its files and versions. spank_plugin/install.py writes it.
MANIFEST = "manifest.json"
LAUNCHER = f"{PREFIX}/bollard-enter"
# The mount point of the session tmpfs. Each keeper mounts its own there, in its own mount namespace.
SESSION = f"{PREFIX}/session"
# A copy of the FUSE server of squashfs images: built with libfuse 3, or with libfuse 2.
SERVER = f"{PREFIX}/squashfuse"
SERVER_2 = f"{PREFIX}/squashfuse2"
# The error where neither is there.
NO_SERVER = (f"{SERVER} is missing on this node", "the site's administrator should install bollard again")
# A copy of the program squashfuse, if SERVER is another program. It can show every file as the user's.
SERVER_OWNER = f"{PREFIX}/squashfuse-owner"
# An empty file. It is there if SERVER can show every file as the user's; then all files are shown so.
SHOWS_OWNER = f"{PREFIX}/squashfuse-owner-is-known"
# Copies of fuse2fs, the server of ext3 files: built with libfuse 3, or with libfuse 2. Only if the machine has it.
EXT = f"{PREFIX}/fuse2fs"
EXT_2 = f"{PREFIX}/fuse2fs2"
# An empty file. It is there if fuse2fs has no option offset= (before 1.47); the offset is then in the file's name.
EXT_OFFSET_IN_NAME = f"{PREFIX}/fuse2fs-offset-in-name"
# A copy of fuse-overlayfs, for layers that the kernel's overlayfs cannot write to. Only if the machine has it.
OVERLAY = f"{PREFIX}/fuse-overlayfs"
# For --container-save: a copy of mksquashfs, if the machine has it, and the program in the place of its shell.
MKSQUASHFS = f"{PREFIX}/mksquashfs"
# For a site's policy of images: a copy of gpgv, if the machine has it.
GPGV = f"{PREFIX}/gpgv"
CAT = f"{PREFIX}/bollard-cat"
# For encrypted images: copies of gocryptfs and openssl, if the machine has them.
GOCRYPTFS = f"{PREFIX}/gocryptfs"
OPENSSL = f"{PREFIX}/openssl"

# Names by which callers of Apptainer start the command `bollard` (cli/names.py). The last one is the program in the
# first line of every SIF file: it makes an image a program.
PEERS = ("apptainer", "singularity")
IMAGE_LAUNCHER = "run-singularity"
OTHER_NAMES = (*PEERS, IMAGE_LAUNCHER)
