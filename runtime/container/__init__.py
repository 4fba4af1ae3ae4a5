# SPDX-License-Identifier: BSD-3-Clause
"""The keeper: namespaces, mounts and processes of one container on one node.

keeper.py: makes the container, in order.
container.py: a container that is ready for tasks.
mounts.py: attaches the plan's mounts.
layers.py: a root filesystem that can be written to.
environment.py: which variables a task gets, in Apptainer's order.
locales.py: the locales that an image has.
image_shell.py: the image's own shell, for environment scripts.
fuse.py: file servers.
idle.py: ends containers of the job that wait for a next step, where there are many.
gpu.py: the host's GPU drivers, as binds.
admission.py: the loop: who is in the container, and how long it stays.
entry.py: lets one task in.
wire.py: frames between keeper, launcher and slurmstepd.
task_reaper.py: ends tasks when the keeper ends.
readahead.py: reads what the first task will need.
enroot.py: images in enroot's layout.
pytorch.py: variables for images that have PyTorch.
save.py: writes a container to an image file.
record.py: which image ran, and how many tasks.
imports.py: what is imported before the keeper goes in; nothing is afterwards.
loader_cache.py: the libraries that the host's loader knows.
clock.py: how long each phase took.
"""
