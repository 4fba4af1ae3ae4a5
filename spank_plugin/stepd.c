/* SPDX-License-Identifier: BSD-3-Clause */
/* The hooks in slurmstepd: start the keeper, and put the launcher before each task. */
#define _GNU_SOURCE
#include "stepd.h"
#include "account.h"
#include "job_folder.h"
#include "slurmctld.h"
#include "privilege.h"
#include "shim.h"
#include "site_settings.h"
#include "wire.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* How long to wait for the helper's answer: longer than privilege.c lets the keeper take to give root up (HELP_MS). */
#define HELPER_MS 10000
/* How long the keeper may take to tell that its file server has ended. */
#define BUS_MS 300
/* How long to wait for its end after SIGKILL. */
#define KILLED_MS 1000

/* Returns the words, each followed by a space, for the caller to free; NULL when out of memory. */
static char *joined(int argc, char **argv)
{
	size_t size = 1;
	char *text;

	for (int i = 0; i < argc; i++)
		size += strlen(argv[i]) + 1;
	text = calloc(1, size);
	for (int i = 0; text && i < argc; i++)
		strcat(strcat(text, argv[i]), " ");
	return text;
}

/* Opens the descriptor GATE_FD on the root directory. The client has put its path, GATE, before the path of the
 * script's standard input (guard_script() in client.c); Slurm opens that after this hook. */
static void open_gate(void)
{
	int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC), gate = root < 0 ? -1 : fcntl(root, F_DUPFD_CLOEXEC, GATE_FD);

	if (gate >= 0 && gate != GATE_FD)
		close(gate);
	if (root >= 0)
		close(root);
}

/* Returns 1 when Slurm ignores --container, else 0: the client had no plugin, so the option stayed Slurm's, and
 * there is no oci.conf. */
static int slurm_ignored_container(spank_t spank)
{
	char container[2];  /* the value does not matter */

	return spank_getenv(spank, "SLURM_CONTAINER", container, sizeof(container)) != ESPANK_ENV_NOEXIST &&
	       !slurm_has_oci_conf();
}

/* Returns 1 when a batch job has Slurm's field `container` but no variable for it, else 0: slurmrestd and scrontab
 * load no plugin. Asks slurmctld only about jobs without SLURM_PRIO_PROCESS, which sbatch always sets. Returns 1
 * after refuse() when slurmctld does not answer. */
static int controller_ignored_container(spank_t spank, uint32_t job_id)
{
	char priority[16];
	int known;

	if (spank_getenv(spank, "SLURM_PRIO_PROCESS", priority, sizeof(priority)) != ESPANK_ENV_NOEXIST ||
	    slurm_has_oci_conf())
		return 0;
	known = job_record_has_container(job_id);
	if (known < 0)
		refuse("slurmctld does not tell whether this job asks for a container; submit it again");
	return known != 0;
}

void stepd_init(spank_t spank, int argc, char **argv)
{
	uint32_t job_id = 0, step_id = 0;
	spank_err_t rc;

	if (spank_get_item(spank, S_JOB_ID, &job_id) != ESPANK_SUCCESS ||
	    spank_get_item(spank, S_JOB_STEPID, &step_id) != ESPANK_SUCCESS) {
		step.asked = 1;
		refuse("Slurm does not tell this job's number; submit again");
		return;
	}
	if (step_id == EXTERN_STEP) {
		char path[100];

		step.is_extern = 1;
		know_cgroups(job_id);
		step.folder = job_folder_hold(job_id);
		snprintf(path, sizeof(path), JOB_FOLDERS "/%u/job", job_id);
		if (step.folder >= 0)
			hold_job_socket(path);
		if (step.job_socket < 0)
			slurm_error("bollard: cannot listen at %s: %m; containers of the job end with their steps", path);
		return;
	}
	rc = spank_getenv(spank, ENV_SPEC, step.spec, sizeof(step.spec));
	step.asked = rc != ESPANK_ENV_NOEXIST || slurm_ignored_container(spank) ||
		     (step_id == BATCH_STEP && controller_ignored_container(spank, job_id));
	if (!step.asked)
		return;
	/* Steps inside this one do not inherit the container. */
	if (rc != ESPANK_ENV_NOEXIST && spank_unsetenv(spank, ENV_SPEC) != ESPANK_SUCCESS)
		refuse("Slurm does not take " ENV_SPEC " out of the step's environment; tell the site's administrator");
	step.site = joined(argc, argv);
	for (int i = 0; i < argc; i++) {
		step.no_record |= strcmp(argv[i], "record=no") == 0;
		step.account |= strcmp(argv[i], "account=yes") == 0;
	}
	look_at_argv(spank);
	if (step_id == BATCH_STEP)
		open_gate();
	if (step.why[0])
		return;
	if (rc == ESPANK_ENV_NOEXIST && step_id == BATCH_STEP)
		refuse("this job's script asks for a container, but slurmrestd, scrontab and hosts without bollard do not "
		       "start one; submit it without a container, and write srun --container=IMAGE PROGRAM in the script");
	else if (rc == ESPANK_ENV_NOEXIST)
		refuse("this job asks for a container, but was submitted where Slurm did not load bollard's plugin; "
		       "is bollard installed there? a very low `ulimit -n` also keeps it out");
	else if (rc != ESPANK_SUCCESS)
		refuse("Slurm cannot hand over what was asked of the container: %s; ask for less", spank_strerror(rc));
	else if (!(step.options = read_header(step.spec, &step.header)))
		refuse("the container's spec cannot be read: was SLURM_BOLLARD_SPEC changed by hand, or is bollard on the "
		       "submit host of another release?");
	else if (!step.site)
		refuse("out of memory");
	else {
		know_cgroups(job_id);
		find_keeper(spank, job_id, step_id);
	}
}

/* Refuses the step because no keeper has started. `reason` is an enum no_start (privilege.h). */
static void refuse_start(int reason)
{
	if (reason == NO_CGROUP)
		refuse("the keeper cannot join the job's control groups on this node; "
		       "the site's administrator should see cgroup.conf, and /sys/fs/cgroup there");
	else if (reason == NO_PLACE)
		refuse("the keeper cannot join the job's own /tmp on this node; "
		       "the site's administrator should see job_container.conf, and slurmd's log");
	else if (reason == NO_NAMESPACE)
		refuse("the keeper gets no user namespace on this node; the site's administrator should see "
		       "/proc/sys/user/max_user_namespaces and kernel.unprivileged_userns_clone");
	else
		refuse("the keeper could not give up root on this node; submit again, and tell the site's administrator "
		       "if it comes back");
}

/* Waits at most HELPER_MS for the helper's answer. Returns 0, an enum no_start, or -1 when there is none yet. */
static int take_answer(void)
{
	struct pollfd answered = { .fd = step.answer, .events = POLLIN };
	unsigned char reason;
	ssize_t count;
	int rc;

	do
		rc = poll(&answered, 1, HELPER_MS);
	while (rc < 0 && errno == EINTR);
	if (rc <= 0)
		return -1;
	do
		count = read(step.answer, &reason, 1);
	while (count < 0 && errno == EINTR);
	return count == 1 ? reason : NO_HELP;
}

/* Reaps the helper, which has answered or was killed. With contain_spank this process may not be its parent: then
 * slurmstepd reaps it with its tasks. */
static void reap_helper(void)
{
	int ms = KILLED_MS;
	pid_t pid;

	while ((pid = waitpid(step.helper, NULL, WNOHANG)) == 0 || (pid < 0 && errno == EINTR)) {
		if (ms-- <= 0) {
			slurm_error("bollard: the helper that starts the keeper, process %d, does not end", (int) step.helper);
			return;
		}
		usleep(1000);
	}
}

void stepd_user_init(void)
{
	int reason;

	if (step.helper <= 0)
		return;
	/* The answer comes within milliseconds, unless the user stops the child whose ids the helper maps. */
	reason = take_answer();
	if (reason < 0) {
		if (kill(step.helper, SIGKILL) < 0)
			slurm_error("bollard: cannot kill the helper that starts the keeper: %m");
		refuse("the keeper did not start within %d s; submit again", HELPER_MS / 1000);
	} else if (reason > 0) {
		refuse_start(reason);
	}
	reap_helper();
	close(step.answer);
	step.helper = 0;
}

void stepd_exit(spank_t spank)
{
	uint32_t job_id;
	uid_t uid;

	if (spank_get_item(spank, S_JOB_ID, &job_id) != ESPANK_SUCCESS ||
	    spank_get_item(spank, S_JOB_UID, &uid) != ESPANK_SUCCESS) {
		if (step.folder >= 0)
			slurm_error("bollard: Slurm does not tell this job's number and user at its end, so processes of its "
				    "containers may be left");
		return;
	}
	if (step.record >= 0)
		tell_accounting(job_id, step.record, step.container);
	end_containers(job_id, uid);
}

void stepd_task_post_fork(spank_t spank)
{
	uint32_t job_id;

	/* Only without an extern step: with one, the job has all its cgroups before another step starts. */
	if (step.job_socket < 0 || step.is_extern)
		return;
	if (spank_get_item(spank, S_JOB_ID, &job_id) == ESPANK_SUCCESS)
		place_keepers(job_id);
	else
		slurm_error("bollard: Slurm does not tell this job's number, so its containers may be outside of some of "
			    "its cgroups");
}

void stepd_task_exit(spank_t spank)
{
	struct pollfd reason = { .fd = step.lifeline, .events = POLLIN };
	int status = 0, rc;
	char byte = 0;

	if (!step.asked || spank_get_item(spank, S_TASK_EXIT_STATUS, &status) != ESPANK_SUCCESS)
		return;
	/* A step may be ended while the job goes on. If other processes of it wait for a file server that their user has
	 * stopped, Slurm cannot kill them, and would drain the node. */
	if (status != 0)
		end_stopped_servers();
	/* When a file server has ended, a task that reads a mapped page of its files ends by SIGBUS. The reason is
	 * looked for once a step: all tasks have the same one, and a SIGBUS of the program's own has none. */
	if (step.lifeline < 0 || step.bus_error || !WIFSIGNALED(status) || WTERMSIG(status) != SIGBUS)
		return;
	step.bus_error = 1;
	do {  /* the step that made the container has not read the keeper's first answer, WIRE_OK */
		rc = poll(&reason, 1, BUS_MS);
		if (rc > 0 && recv(step.lifeline, &byte, 1, MSG_DONTWAIT) != 1)
			return;  /* the keeper has told a task */
	} while ((rc < 0 && errno == EINTR) || (rc > 0 && byte == WIRE_OK));
	if (rc <= 0)
		return;  /* the keeper is there */
	if (byte == WIRE_MEMORY_LIMIT)
		slurm_error("bollard: the container's file server was ended by the job's memory limit, and the tasks with it; "
			    "ask for more memory (--mem, --mem-per-cpu)");
	else if (byte == WIRE_SERVER_ENDED)
		slurm_error("bollard: the container's file server has ended, and the tasks with it; submit again, and tell the "
			    "site's administrator if it comes back");
}

int stepd_task_init(spank_t spank)
{
	int task = 0;

	if (!step.asked)
		return 0;
	if (!step.why[0] && put_launcher_first(spank) < 0 && !step.why[0])
		refuse("Slurm refused to start the task through bollard-enter; tell the site's administrator");
	if (!step.why[0])
		return 0;
	/* All tasks of the node have the same reason, so only task 0 prints it. */
	if (spank_get_item(spank, S_TASK_ID, &task) != ESPANK_SUCCESS || task == 0)
		fprintf(stderr, "bollard: %s\n", step.why);
	_exit(EXIT_BOLLARD);  /* returning would start the program on the host */
}
