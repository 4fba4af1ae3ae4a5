# SPDX-License-Identifier: BSD-3-Clause
"""The part of bollard that Slurm loads and starts.

spank_bollard.so  C, loaded into Slurm's processes
_bollard.so       embeds Python; loaded only in processes of the user
bollard-enter     static launcher before every task

| file | what it does |
|---|---|
| shim.c | the hooks, sorted by where Slurm calls them |
| client.c, slurm_options.c, components.c, multiprog.c | in srun, sbatch, salloc: take --container over from Slurm |
| client_options.c, spec.c, header.c, image_probe.c | in srun, sbatch, salloc: read options, make the spec |
| preflight.c, verdict.c | in srun: warn of an MPI that does not fit --mpi |
| stepd.c, keeper.c, argv.c, refusal.c | in slurmstepd: start the keeper and the launcher |
| privilege.c, root_owned.c, account.c, slurmctld.c | in slurmstepd: what needs root |
| job_cgroup.c, job_folder.c, job_place.c, job_end.c | there too: a job's cgroups, folder and /tmp; its end |
| keeper_main.c | the program that becomes the keeper |
| enter.c, entry.c, script.c, become.c, supervise.c | the launcher: lets a task enter the container |
| wire.c | sockets and frames, in slurmstepd and in the launcher |
| python.c, start.c, callbacks.py | calls from C to Python |
| build.py, toolchain.py | compile all of it |
| install.py, installation.py, plugstack.py | install it, name it in plugstack.conf |
| removal.py | go back to the tree before, and uninstall |
| packaged.py, version.py | what a package's scripts call; the version |
| check.py, finding.py, probes.py | check whether containers work on a node |
| host_check.py, folder_check.py, plugstack_fault.py | parts of it |
| cluster_check.py | the same on many nodes |
"""
