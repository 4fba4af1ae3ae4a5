# SPDX-License-Identifier: BSD-3-Clause
"""System calls, processes, users and file trees. Knows nothing of containers' options.

linux.py: system calls; the only module that makes them.
linux_build.py: their declarations for cffi.
identity.py: user namespaces, /etc/passwd and /etc/group.
processes.py: processes in /proc, and waiting for their end.
tree.py: the file tree of an image, touched from outside without leaving it.
owners.py: whether a path belongs to root alone.
rootless.py: being root for a build without root.
workspace.py: the private directory of a build.
"""
