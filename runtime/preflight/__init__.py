# SPDX-License-Identifier: BSD-3-Clause
"""The pre-flight: what an image needs of Slurm and of the nodes, read before a job queues.

contents.py: reads an image's C library, CPU level, MPI libraries, PMI libraries and fabrics.
image_root.py: opens the root of an image file or a directory for reading, in a child.
wireup.py: which `--mpi=` connects the ranks of which MPI library; the rules and their table.
client.py: what srun's plugin calls where the cache has no verdict.
verdict.py: the text that srun's plugin reads, and its cache.
"""
