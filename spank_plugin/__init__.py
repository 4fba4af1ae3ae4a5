# SPDX-License-Identifier: BSD-3-Clause
"""The part of bollard that Slurm loads and starts.

spank_bollard.so  C, loaded into Slurm's processes
_bollard.so       embeds Python; loaded only in processes of the user
bollard-enter     static launcher before every task

| file | what it does |
|---|---|
| shim.c | the hooks, sorted by where Slurm calls them |
| site_settings.c | what the hooks ask of the site's settings |
| client.c, slurm_options.c, components.c, multiprog.c | in srun, sbatch, salloc: take --container over from Slurm |
| client_options.c, spec.c, header.c, image_probe.c, fail.c | there too: read options, make the spec, or end |
| image_program.c | there too: an image as the program |
| preflight.c, first_look.c, verdict.c | there too: warn of an MPI that does not fit --mpi |
| stepd.c, step.c, keeper.c, argv.c, refusal.c | in slurmstepd: start the keeper and the launcher |
| privilege.c, root_owned.c, account.c, slurmctld.c | in slurmstepd: what needs root |
| job_cgroup.c, job_folder.c, job_place.c, job_end.c | there too: a job's cgroups, folder and /tmp; its end |
| keeper_main.c, witness.c | the program that becomes the keeper; the process that looks at owners for it |
| cat.c | the shell of mksquashfs in the saver |
| enter.c, entry.c, script.c, become.c, supervise.c | the launcher: lets a task enter the container |
| scratch.c, ranks.c, fail_once.c | there too: $TMPDIR; ranks that would not find each other; one message for all |
| inside.c, mpirun.c, placement.c, srun_line.c, program.c, paths.c | the host's Slurm in a container, and mpirun |
| ownership.h | the seccomp filter of root in a container |
| wire.c | sockets and frames, in slurmstepd and in the launcher |
| python.c, start.c, callbacks.py | calls from C to Python |
| build.py, build_inside.py, toolchain.py | compile all of it |
| install.py, installation.py, plugstack.py | install it, name it in plugstack.conf |
| removal.py | go back to the tree before, and uninstall |
| packaged.py, version.py | what a package's scripts call; the version |
| check.py, host_check.py, folder_check.py, policy_check.py, gpu_check.py | check whether containers work on a node |
| finding.py, plugstack_fault.py, probes.py | findings of these checks, and how they are made |
| cluster_check.py | the same on many nodes |
"""
