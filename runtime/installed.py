# SPDX-License-Identifier: BSD-3-Clause
"""Where this installation lies; what is in it, `spank_plugin/build.py` tells."""

import os

# PREFIX/python/bollard/runtime/installed.py
PREFIX = os.path.abspath(__file__).rsplit("/", 4)[0]
LAUNCHER = f"{PREFIX}/bollard-enter"
# Covered by each keeper, in its own mount namespace.
SESSION = f"{PREFIX}/session"
# A copy of the FUSE server: built with libfuse 3, or with libfuse 2.
SERVER = f"{PREFIX}/squashfuse"
SERVER_2 = f"{PREFIX}/squashfuse2"
# One that can show every file as the user's own, where the first cannot.
SERVER_OWNER = f"{PREFIX}/squashfuse-owner"
# There when the first can: then every file is shown so.
SHOWS_OWNER = f"{PREFIX}/squashfuse-owner-is-known"
# Servers of ext3 files (built with libfuse 3, or with libfuse 2), and of layers on what the kernel's overlay does not
# write to; where the machine has them.
EXT = f"{PREFIX}/fuse2fs"
EXT_2 = f"{PREFIX}/fuse2fs2"
# There when it has no option for where in its file the filesystem begins.
EXT_OFFSET_IN_NAME = f"{PREFIX}/fuse2fs-offset-in-name"
OVERLAY = f"{PREFIX}/fuse-overlayfs"
# What --container-save writes with, where the machine has it, and what that has for a shell.
MKSQUASHFS = f"{PREFIX}/mksquashfs"
CAT = f"{PREFIX}/bollard-cat"
