# SPDX-License-Identifier: BSD-3-Clause
"""One container, from the words a user typed to the program in it.

Data flows one way; each room imports only rooms below it in this table (`make lint` checks it).

cli/: The `bollard` command: one module for each group of commands.
flow/: workflows of containers: a file, compiled to Slurm's own dependencies.
local/: containers without a job step of their own, and what runs on this machine.
preflight/: what an image's MPI needs of Slurm, told before a job queues.
container/: the keeper: namespaces, mounts and processes of one container on one node.
build/: new images: from definition files, and from images that were fetched.
fetch/: images that lie elsewhere: their names, their servers, the cache.
trust/: who signed an image: signatures and keys.
image/: image files: open, read, make and change them.
request/: what a user and a site ask for: options, the spec made of them, the plan for a node.
shell/: the part of sh that environment scripts use, read as data.
system/: system calls, processes, users and file trees. Knows nothing of containers' options.

constants.py: what C and Python must agree on; rendered as C.
errors.py: the one exception that a user reads.
causes.py: a failed system call in a user's words: the full place, the limit, who can mend it.
frozen.py: records that cannot be changed, without the imports of dataclasses.
installed.py: where the installation lies.
progress.py: progress lines of long commands.
live_line.py: the text of the line that shows a running step on a terminal.
host_slurm.py: this node's Slurm commands; written at install.
archive.py: imports the keeper's modules from one file.

This package and its rooms hold no code: the node path would pay for it.
"""
