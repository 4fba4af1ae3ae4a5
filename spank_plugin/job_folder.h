/* SPDX-License-Identifier: BSD-3-Clause */
/* The directory of a job on this node. It belongs to root and holds the sockets of the job's keepers. Locks on it
 * tell which of the job's slurmstepds still run. Everything here runs as root, in slurmstepd. */
#ifndef BOLLARD_JOB_FOLDER_H
#define BOLLARD_JOB_FOLDER_H

#include "constants.h"  /* rendered from runtime/constants.py by build.py */

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Makes the directory of `job` when it is missing, and takes a shared lock on it. Returns a descriptor that the
 * caller keeps open until the step ends, then passes to job_folder_release(); -1 with errno. */
int job_folder_hold(uint32_t job);

/* Returns 1 when no other process holds the directory, and takes the exclusive lock: nobody can hold it from now on.
 * Returns 0 when another holds it, or -1 with errno when that is unknown. The shared lock is lost then, because flock(2)
 * removes it before it tries: of several processes that ask, one is the last. */
int job_folder_is_last(int holders);

/* Takes the shared lock again after job_folder_is_last() has returned 0, unless the last process has the exclusive one.
 * While it is held, no other process is the last. */
void job_folder_hold_again(int holders);

/* Unlocks and closes a descriptor of job_folder_hold() or job_folder_lock(). */
void job_folder_release(int lock);

/* Removes the directory and its files. Reports no failure. For the last process that holds it. */
void job_folder_remove(uint32_t job);

/* Takes the lock of the container at `address`: only one step of the job at a time finds or starts that container.
 * There are 256 locks, named by the address's first two digits: a user can make any number of addresses. Waits at
 * most `ms` milliseconds. Returns a descriptor for job_folder_release(); -1 with errno, ETIMEDOUT when the lock was
 * not had. */
int job_folder_lock(const char *address, int ms);

/* Removes sockets of keepers that have ended from the directory of `address`, when there are many. The caller holds the
 * lock of `address`. Reports no failure. */
void job_folder_tidy(const char *address);

/* Returns a listening socket at the path `address`, which the caller closes; -1 with errno. Replaces an older socket
 * there. Only processes of `uid` and root can connect. */
int job_folder_listen(const char *address, uid_t uid);

#endif
