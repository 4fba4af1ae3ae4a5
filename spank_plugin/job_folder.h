/* SPDX-License-Identifier: BSD-3-Clause */
/* The folder of a job on this node, root's: the sockets of its keepers, and who of its slurmstepds is still there. */
#ifndef BOLLARD_JOB_FOLDER_H
#define BOLLARD_JOB_FOLDER_H

#include "constants.h"  /* rendered from runtime/constants.py by build.py */

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Makes the folder of `job` where it is missing, and holds it: a descriptor, to be kept open until the step ends.
 * -1 with errno. */
int job_folder_hold(uint32_t job);

/* Whether nobody but this process holds the folder; if so, nobody else can hold it from now on. */
int job_folder_is_last(int holders);

/* Let go of the folder, or of what job_folder_lock has given. */
void job_folder_release(int lock);

/* Removes the folder and what is in it; for the last one that holds it. */
void job_folder_remove(uint32_t job);

/* The lock of the container at `address` among the steps of the job that find or start it; a descriptor, -1 with errno.
 * Waits at most `ms` milliseconds. */
int job_folder_lock(const char *address, int ms);

/* A listening socket at the path `address`, in place of an older one, for the processes of `uid` and root alone. -1
 * with errno. */
int job_folder_listen(const char *address, uid_t uid);

#endif
