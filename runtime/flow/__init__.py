# SPDX-License-Identifier: BSD-3-Clause
"""Flows: a file of jobs, compiled to batch jobs that Slurm's own dependencies hold together.

FILE ──document──► flow (plain data) ──batch──► scripts and edges ──submission──► Slurm, and a directory
                                                                     state ◄── the jobs' own files, squeue

fields.py: the table of the keys of a flow file.
composition.py: the YAML of a flow file as nodes, or what is wrong with it.
suggestion.py: what the author of a flow file may have meant.
document.py: a flow file as plain data, checked against the table.
schema.py: the table for people, and as a JSON Schema.
units.py: durations and sizes.
flow.py: a flow as records, checked as a whole.
sbatch_options.py: which of sbatch's options a flow file may give.
graph.py: order, circles, levels; the picture.
secret.py: files of the user alone.
volume.py: directories that jobs share.
batch.py: a flow as batch jobs: sbatch's options, scripts, edges.
bundle.py: jobs of equal shape as arrays.
script.py: the text of batch scripts.
content.py: keys by which a finished job is known again.
slurm.py: sbatch, squeue, scancel, scontrol.
folder.py: the directory of a flow.
submission.py: check, submit, resume, cancel.
state.py: how a flow stands.
copying.py: copies files without following links that others made.
known_hosts.py: the host keys of sftp servers.
transfer.py: moves data, on a node.
ending.py: the last job: the verdict.
"""
