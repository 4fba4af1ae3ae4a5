/* SPDX-License-Identifier: BSD-3-Clause */
/* The end of a job on this node, in slurmstepd's last hook, as root. All containers of the job end, whatever the
 * user did to their processes. First each keeper has time to end by itself and to leave its files clean; then
 * everything is killed. */
#define _GNU_SOURCE
#include "job_cgroup.h"
#include "job_folder.h"
#include "privilege.h"
#include "stepd.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

/* Time to end by itself. A keeper needs milliseconds; a file server that writes has to close its file. */
#define GRACE_MS 3000
#define KILL_MS 5000
/* Interval at which the extern step looks for other steps of the job, and for stopped processes. */
#define LOOK_US 20000

/* The cgroups of the job, as this slurmstepd has found them. */
static struct job_cgroups known;

/* Handles of keepers and task reapers, on a site without cgroups. */
static int handles[64], handle_count;

/* Takes the handles of all keepers that are connected to the job socket. */
static void take_handles(void)
{
	int fd;

	while (step.job_socket >= 0 && (fd = accept4(step.job_socket, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
		handle_count += take_senders(fd, handles + handle_count, (int) (sizeof(handles) / sizeof(*handles)) -
					     handle_count);
		close(fd);  /* this tells the keeper that the job has ended */
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

void know_cgroups(uint32_t job_id)
{
	struct job_cgroups found;

	job_cgroups_find(&found, job_id);
	if (found.count > known.count)
		known = found;
}

void end_containers(uint32_t job_id, uid_t uid)
{
	if (step.folder < 0)
		return;
	/* Slurm 20.11 has moved this slurmstepd out of the job's cgroups by now. */
	know_cgroups(job_id);
	if (step.lifeline >= 0)
		close(step.lifeline);
	step.lifeline = -1;
	while (!job_folder_is_last(step.folder)) {
		if (!step.is_extern) {
			job_folder_release(step.folder);
			return;
		}
		/* Only this process can tell the keepers: the job socket is its own. No other step may be the last. */
		job_folder_hold_again(step.folder);
		/* Tasks of other steps may still save their work. A task that waits for a stopped file server cannot be
		 * killed, and its slurmstepd would drain the node. So stopped processes are killed now. */
		job_cgroups_kill(&known, 1);
		usleep(LOOK_US);
	}
	if (known.count == 0)
		take_handles();
	if (step.job_socket >= 0)
		close(step.job_socket);
	step.job_socket = -1;
	end_all(&known);
	drop_empty_record(RECORDS, job_id, uid);
	job_folder_remove(job_id);
	job_folder_release(step.folder);
	step.folder = -1;
}

void place_keepers(uint32_t job_id)
{
	know_cgroups(job_id);
	if (job_cgroups_follow(&known) < 0)
		slurm_error("bollard: the container's processes are not in all cgroups of the job: %m");
}
