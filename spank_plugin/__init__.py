# SPDX-License-Identifier: BSD-3-Clause
"""The thin end in Slurm: `spank_bollard.so` (C, loaded everywhere), `_bollard.so` (embeds Python, loaded in a
forked child that is the user already), `bollard-enter` (static launcher in front of every task).

| file | room of |
|---|---|
| shim.c | the hooks, sorted by where Slurm calls them |
| client.c, slurm_options.c, components.c, multiprog.c | srun, sbatch, salloc: takeover of --container |
| client_options.c, spec.c, header.c, image_probe.c | there too: what is asked, the spec of it, refusal of mistakes |
| stepd.c, keeper.c, argv.c, refusal.c | slurmstepd: keeper and launcher |
| privilege.c, job_cgroup.c, job_folder.c, job_end.c, account.c, job_record.c | there too: all that root does |
| keeper_start.c | the program that becomes the keeper |
| enter.c, entry.c, script.c, become.c, supervise.c | the launcher: a task's way into the container |
| wire.c | sockets and frames, for both |
| python.c, start.c, callbacks.py | from C to Python |
| build.py, install.py, plugstack.py | compile all of it, put it in place, tell Slurm |
| check.py, plugstack_fault.py, probes.py | whether it can work on a node |
"""
