# SPDX-License-Identifier: BSD-3-Clause
"""The keeper: namespaces, mounts and processes of one container on one node.

step.py: the keeper of a job step, from the text of the spec to the end of the container.
keeper.py: makes the container, in order.
container.py: a container that is ready for tasks.
image_scripts.py: reads the image's environment scripts, locales and enroot's files.
mounts.py: attaches the plan's mounts.
covers.py: makes the mount points that an image lacks.
layers.py: layers above the image, read-only or writable.
oci_layers.py: the layers of an OCI-SIF image, merged.
environment.py: which variables a task gets, in Apptainer's order.
locales.py: the locales that an image has.
image_shell.py: the image's own shell, for environment scripts.
fuse.py: file servers.
decrypted.py: mounts an encrypted image.
idle.py: ends idle containers of a job when there are too many.
memory_limit.py: whether the kernel has ended a process for want of memory in its control group.
gpu.py: the host's GPU drivers, as binds.
cdi.py: devices by their CDI names, as binds and variables.
driver_libraries.py: which libraries of a GPU driver an image can load, or brings itself.
image_libraries.py: the libraries of an image, as its own loader finds them.
host_mpi.py: the host's MPI libraries, as binds.
fabrics.py: the site's fabrics on this node.
mpi_choice.py: which libraries of the host's MPI an image gets.
elf.py: what a library says of itself.
admission.py: the keeper's loop: lets tasks in and decides when the container ends.
entry.py: answers the request of one task.
action.py: the command that exec, run, shell and test start.
wire.py: frames between keeper, launcher and slurmstepd.
task_reaper.py: ends tasks when the keeper ends.
readahead.py: reads the files that the first task will need into the page cache.
enroot.py: images in enroot's layout.
pytorch.py: variables for images that have PyTorch.
renewal.py: makes a named container anew with other options.
save.py: writes a container to an image file.
record.py: writes which image ran, and how many tasks entered.
journal.py: lines in the node's system log.
imports.py: imports everything before the keeper enters the container, and refuses imports after that.
loader_cache.py: the libraries that the host's loader knows.
clock.py: measures how long each phase of a start takes.
"""
