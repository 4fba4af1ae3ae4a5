# SPDX-License-Identifier: BSD-3-Clause
"""Containers that are started by hand, and the containers and instances that run on this machine.

execution.py: starts a keeper for `bollard exec`.
rank_namespace.py: one user namespace for ranks that each start a container.
instance.py: finds, joins and stops instances.
instance_init.py: the init process of an instance.
running.py: containers on this node: `bollard ps`, `bollard attach`.
job.py: the records of a job.
pyslurm_jobs.py: a job of the accounting, through pyslurm.
stats.py: counts the containers of this node, for `bollard site stats`.
exposition.py: these numbers for Prometheus, and as JSON.
metadata.py: labels, scripts and definition of an image.
host_programs.py: the host's FUSE servers, for an installation of pip's.
submission.py: the check in srun, sbatch and salloc.
"""
