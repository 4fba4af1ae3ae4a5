/* SPDX-License-Identifier: BSD-3-Clause */
/* The end of a job on this node, in slurmstepd's last hook: its containers end, whatever state their user left them
 * in. First each keeper may end by itself, and leave its files clean; then everything is killed. */
#define _GNU_SOURCE
#include "job_cgroup.h"
#include "job_folder.h"
#include "privilege.h"
#include "stepd.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

/* A keeper ends within milliseconds; a file server that writes has to close its file. */
#define GRACE_MS 3000
#define KILL_MS 5000
/* How often the extern step looks whether another step still needs its container, and for stopped processes. */
#define LOOK_US 20000

/* Keepers and reapers of a site without cgroups: their handles. */
static int handles[64], handle_count;

static void take_handles(void)
{
	int fd;

	while (step.job_socket >= 0 && (fd = accept4(step.job_socket, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
		handle_count += take_senders(fd, handles + handle_count, (int) (sizeof(handles) / sizeof(*handles)) -
					     handle_count);
		close(fd);  /* the keeper sees the end of the job in that */
	}
}

static int left(const struct job_cgroups *groups)
{
	return job_cgroups_count(groups) + count_alive(handles, handle_count);
}

static void end_all(const struct job_cgroups *groups)
{
	int waited = 0;

	for (; waited < GRACE_MS && left(groups) > 0; waited++) {
		if (waited % 50 == 0)
			job_cgroups_kill(groups, 1);
		usleep(1000);
	}
	for (; waited < GRACE_MS + KILL_MS && left(groups) > 0; waited++) {
		job_cgroups_kill(groups, 0);
		kill_all(handles, handle_count);
		usleep(1000);
	}
	/* A cgroup counts as busy for a moment after its last process. */
	for (; job_cgroups_remove(groups) < 0 && waited < GRACE_MS + KILL_MS + 1000; waited++)
		usleep(1000);
	if (left(groups) > 0)
		slurm_error("bollard: %d processes of the job's containers are still there %d s after SIGKILL",
			    left(groups), KILL_MS / 1000);
}

void end_containers(uint32_t job_id, uid_t uid)
{
	struct job_cgroups groups;

	if (step.folder < 0)
		return;
	job_cgroups_find(&groups, job_id);
	if (step.lifeline >= 0)
		close(step.lifeline);
	step.lifeline = -1;
	while (!job_folder_is_last(step.folder)) {
		if (!step.is_extern) {
			job_folder_release(step.folder);
			return;
		}
		/* Tasks of other steps may still save their work. One that waits for a stopped file server cannot be
		 * killed, and its slurmstepd would give the node up. */
		job_cgroups_kill(&groups, 1);
		usleep(LOOK_US);
	}
	if (groups.count == 0)
		take_handles();
	if (step.job_socket >= 0)
		close(step.job_socket);
	step.job_socket = -1;
	for (int waited = 0; geteuid() != 0 && waited < GRACE_MS; waited++)  /* another thread's doing: job_folder.c */
		usleep(1000);
	end_all(&groups);
	drop_empty_record(RECORDS, job_id, uid);
	job_folder_remove(job_id);
	job_folder_release(step.folder);
	step.folder = -1;
}

void place_keepers(uint32_t job_id)
{
	struct job_cgroups groups;

	job_cgroups_find(&groups, job_id);
	if (job_cgroups_follow(&groups) < 0)
		slurm_error("bollard: the container's processes are not in all cgroups of the job: %m");
}
