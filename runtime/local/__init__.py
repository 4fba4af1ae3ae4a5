# SPDX-License-Identifier: BSD-3-Clause
"""Containers without a job step of their own, and what runs on this machine.

execution.py: starts a keeper for `bollard exec`.
action.py: what exec, run, shell and test start.
instance.py: instances, seen from outside.
instance_init.py: the process that is an instance.
running.py: containers on this node: `bollard ps`, `bollard attach`.
job.py: what is on record of a job.
metadata.py: labels, scripts and definition of an image.
submission.py: the check in srun, sbatch and salloc.
"""
