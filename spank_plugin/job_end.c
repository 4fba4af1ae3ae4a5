/* SPDX-License-Identifier: BSD-3-Clause */
/* The end of a job on this node, in slurmstepd's last hook, as root. All containers of the job end, whatever the
 * user did to their processes. First each keeper has time to end by itself and to leave its files clean; then
 * everything is killed. */
#define _GNU_SOURCE
#include "job_cgroup.h"
#include "job_folder.h"
#include "privilege.h"
#include "stepd.h"

#include <errno.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* Time to end by itself. A keeper needs milliseconds; a file server that writes has to close its file. */
#define GRACE_MS 3000
#define KILL_MS 5000
/* Interval at which the extern step looks for other steps of the job, and for stopped processes. */
#define LOOK_US 20000

/* How long the extern step waits for other steps of the job. After SIGTERM Slurm lets tasks run on for KillWait, which
 * is at most 65533 s, and tries to kill them for UnkillableStepTimeout. */
#define OTHERS_S (24 * 3600)
/* The same, when the lock does not tell whether there are other steps. */
#define UNKNOWN_S 300

/* The cgroups of the job, as this slurmstepd has found them. */
static struct job_cgroups known;

/* What a round of `handles` counts at least, of GRACE_MS and KILL_MS: so there are at most 80. */
#define ROUND_MS 100
/* Handles of keepers and task reapers, on a site without cgroups; those of one round. */
#define HANDLES_MAX 64
static int handles[HANDLES_MAX], handle_count;
/* A connection whose senders are not all in `handles`, or -1. */
static int unread = -1;

/* Returns the next connection of a keeper, which the caller closes; -1 when there is none. */
static int next_connection(void)
{
	int fd = -1;

	if (step.job_socket < 0)
		return -1;
	do
		fd = accept4(step.job_socket, NULL, NULL, SOCK_CLOEXEC);
	while (fd < 0 && (errno == EINTR || errno == ECONNABORTED));
	if (fd < 0 && errno != EAGAIN && errno != EWOULDBLOCK)
		slurm_error("bollard: cannot accept the connections of the job's keepers, so they are told to end, but not "
			    "killed: %m");
	return fd;
}

/* Takes the handles of keepers that are connected to the job socket. Returns 1 when `handles` is full: there may be
 * more, for the next round. */
static int take_handles(void)
{
	int fd, lost = 0;

	while ((fd = unread >= 0 ? unread : next_connection()) >= 0) {
		handle_count += take_senders(fd, handles + handle_count, HANDLES_MAX - handle_count, &lost);
		unread = handle_count == HANDLES_MAX ? fd : -1;
		if (unread >= 0)
			break;
		close(fd);  /* this tells the keeper that the job has ended */
	}
	if (lost > 0)
		slurm_error("bollard: %d processes of the job's containers are told to end, but cannot be killed", lost);
	return unread >= 0;
}

static void close_handles(void)
{
	while (handle_count > 0)
		close(handles[--handle_count]);
}

/* Returns how many processes of the containers are left; at least 1 when that is not known. */
static int left(const struct job_cgroups *groups)
{
	int inside = job_cgroups_count(groups);

	return (inside < 0 ? 1 : inside) + count_alive(handles, handle_count);
}

/* Ends the processes in `groups` and `handles`. Adds the time to *waited, in milliseconds. */
static void end_round(const struct job_cgroups *groups, int *waited)
{
	for (; *waited < GRACE_MS && left(groups) > 0; ++*waited) {
		if (*waited % 50 == 0)
			job_cgroups_kill(groups, STOPPED);
		usleep(1000);
	}
	for (; *waited < GRACE_MS + KILL_MS && left(groups) > 0; ++*waited) {
		job_cgroups_kill(groups, ALL);
		kill_all(handles, handle_count);
		usleep(1000);
	}
}

/* Tells all keepers that are still connected that the job has ended. */
static void close_job_socket(void)
{
	if (unread >= 0)
		close(unread);
	if (step.job_socket >= 0)
		close(step.job_socket);
	unread = step.job_socket = -1;
}

static void end_all(const struct job_cgroups *groups)
{
	int waited = 0, more = groups->count == 0;
	unsigned int ours = 0;

	do {
		close_handles();
		more = more && take_handles();
		if (!more)
			close_job_socket();
		end_round(groups, &waited);
		waited += more ? ROUND_MS : 0;
	} while (more && left(groups) == 0 && waited < GRACE_MS + KILL_MS);
	close_job_socket();
	if (more)
		slurm_error("bollard: the job has more processes of containers than could be killed in %d s",
			    (GRACE_MS + KILL_MS) / 1000);
	/* A cgroup counts as busy for a moment after its last process. */
	for (; job_cgroups_remove(groups, step.is_extern, &ours) < 0 && waited < GRACE_MS + KILL_MS + 1000; waited++)
		usleep(1000);
	if (job_cgroups_count(groups) < 0)
		slurm_error("bollard: cannot read whether processes of the job's containers are left: %m");
	else if (left(groups) > 0)
		slurm_error("bollard: %d processes of the job's containers are still there %d s after SIGKILL",
			    left(groups), KILL_MS / 1000);
	close_handles();
}

static long long seconds(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec;
}

/* Returns 1 when this slurmstepd ends the containers. Then no other step of the job runs on this node, or this is
 * the extern step and has waited too long. Else 0. */
static int is_last(const struct job_cgroups *groups, uint32_t job_id)
{
	long long start = seconds();
	int last, told = 0;

	while ((last = job_folder_is_last(step.folder)) != 1) {
		if (last < 0 && !told++)
			slurm_error("bollard: the lock of " JOB_FOLDERS "/%u does not tell whether other steps of the job "
				    "run: %m", job_id);
		if (!step.is_extern)
			return 0;
		if (seconds() - start >= (last < 0 ? UNKNOWN_S : OTHERS_S)) {
			slurm_error("bollard: ends the containers of job %u now: other steps of it may still run, but this "
				    "one has waited %d s for their end", job_id, last < 0 ? UNKNOWN_S : OTHERS_S);
			return 1;
		}
		/* Only this process can tell the keepers: the job socket is its own. No other step may be the last. */
		job_folder_hold_again(step.folder);
		/* Tasks of other steps may still save their work. A task that waits for a stopped file server cannot be
		 * killed, and its slurmstepd would drain the node. So stopped processes are killed now. */
		job_cgroups_kill(groups, STOPPED);
		usleep(LOOK_US);
	}
	return 1;
}

void know_cgroups(uint32_t job_id)
{
	struct job_cgroups found;
	int rc = job_cgroups_find(&found, job_id);

	if (rc == 0 && found.count == 0) {  /* Slurm 20.11 has moved this process out of them, before its last hook */
		found = known;
		rc = job_cgroups_look(&found);
	}
	/* ENOENT: the job's cgroups are gone, and so are all processes in them. */
	if (rc < 0 && errno != ENOENT)
		slurm_error("bollard: cannot tell the job's cgroups, so processes of its containers may be left, or outside "
			    "of them: %m");
	if (found.count >= known.count)
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
	if (!is_last(&known, job_id)) {
		/* A job without an extern step may have any number of steps. */
		if (step.job_socket >= 0 && unlink(step.job_socket_path) < 0 && errno != ENOENT)
			slurm_error("bollard: cannot remove %s: %m", step.job_socket_path);
		job_folder_release(step.folder);
		return;
	}
	for (int waited = 0; geteuid() != 0 && waited < GRACE_MS; waited++)  /* another thread's doing: job_folder.c */
		usleep(1000);
	end_all(&known);
	drop_empty_record(RECORDS, job_id, uid);
	job_folder_remove(job_id);
	job_folder_release(step.folder);
	step.folder = -1;
}

void end_stopped_servers(void)
{
	job_cgroups_kill(&known, STOPPED_SERVERS);
}

void place_keepers(uint32_t job_id)
{
	know_cgroups(job_id);
	if (job_cgroups_follow(&known) < 0)
		slurm_error("bollard: the container's processes are not in all cgroups of the job: %m");
}
