# SPDX-License-Identifier: BSD-3-Clause
"""One container, from the words a user typed to the program in it. Nothing flows back on this road:

| step | what it makes | files |
|---|---|---|
| option | (name, value) pairs: from srun, variables, the command line | options.py, client.py, cli_options.py |
| spec | what was asked, as plain data and as text for the nodes | spec.py |
| image | one checked descriptor | image.py, sif.py |
| plan | (source, target, flags) in order; up to here nothing is touched | plan.py |
| keeper | namespaces, server, mounts; once per container and node | keeper.py, fuse.py, mounts.py, linux.py |
| entry | the way in of each task, and its environment | entry.py, wire.py, environment.py |

Beside the road:

| what | files |
|---|---|
| the other front door: ``bollard exec`` and its like | cli.py, cli_plan.py, byhand.py, action.py |
| instances: as others see them, their init | instance.py, cli_instance.py, instance_init.py, processes.py |
| the keeper's: end tasks, read ahead, time phases, passwd and group | guard.py, warm.py, clock.py, identity.py |
| the image's environment scripts, without a shell | shellenv.py, shellsyntax.py |
| ``bollard build``: an image of a directory tree | build.py, sif_write.py |
| what an image says of itself | metadata.py, cli_inspect.py |
| changes to an image: its objects, its overlay | sif_edit.py, cli_sif.py, overlay_create.py |
| completion and manual pages, files of variables | completion.py, manual.py, cli_tables.py, envfile.py |
| what the site has decided, and ``bollard site`` | site.py, site_config.py, cli_site.py, owners.py |
| what this node's Slurm needs in containers | host_slurm.py |
| where the installation lies; what users read; the system calls, in C | installed.py, errors.py, linux_build.py |

No code here: the node path would pay for it.
"""
