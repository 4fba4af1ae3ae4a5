# SPDX-License-Identifier: BSD-3-Clause
"""System calls, processes, users and file trees. These modules do not know the options of containers.

linux.py: system calls; the only module that makes them.
linux_build.py: their declarations for cffi.
identity.py: user namespaces, /etc/passwd and /etc/group.
processes.py: finds processes in /proc and waits for their end.
tree.py: reads and changes the file tree of an image; no symlink leads out of it.
wildcards.py: wildcards and braces in paths, as bash has them.
fuse_device.py: mounts a FUSE filesystem for a server that gets the descriptor.
mount_table.py: where an opened file lies among the mounts of this process.
openssl.py: runs openssl, with keys in memory.
owners.py: checks that only root can change a path.
private_directory.py: makes and checks directories that only their user may change.
rootless.py: makes a user without root uid 0 for a build.
workspace.py: the private directory of a build.
"""
