/* SPDX-License-Identifier: BSD-3-Clause */
/* slurmstepd's side: start the keeper, put the launcher in front of each task. */
#define _GNU_SOURCE
#include "account.h"
#include "privilege.h"
#include "shim.h"
#include "wire.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define EXTERN_STEP 0xfffffffcu  /* SLURM_EXTERN_CONT, slurm.h */
#define BATCH_STEP 0xfffffffbu   /* SLURM_BATCH_SCRIPT */
#define RECORDS "/var/log/bollard"  /* runtime/record.py */
#define LAUNCHER BOLLARD_PREFIX "/bollard-enter"

/* Longer than privilege.c gives the keeper to give root up. */
#define HELPER_MS 10000

/* How long a keeper that may be starting can take to answer. Of an unnamed container a second one does no harm. */
#define WARM_MS 1000
#define NAMED_MS 10000

/* What this step knows; a task forked by slurmstepd inherits it. */
static struct {
	int asked;              /* for a container; the rest counts only then */
	int named;              /* steps of the job share it by its name */
	char spec[SPEC_MAX];
	char *verbose;          /* when the client began, for --container-verbose; or NULL */
	char *site;
	const char *program;    /* argument 0 of the tasks */
	int launched;           /* srun has put the launcher first already */
	char address[100];      /* of the keeper's socket */
	char why[512];          /* not empty: no keeper, and the reason */
	int listener, job;      /* descriptors for the keeper to be */
	int leash;              /* keepers send a byte to it; at exit they are ended; or -1 */
	int record;             /* of the keeper that this step has started, for the accounting; or -1 */
	int lifeline;           /* held open until slurmstepd ends */
	pid_t helper;           /* to be reaped, or 0 */
	long long times[2];     /* of the fork, and of the end of root in the child: CLOCK_MONOTONIC, ns */
} step = { .listener = -1, .job = -1, .leash = -1, .record = -1, .lifeline = -1 };

__attribute__((format(printf, 1, 2)))
static void refuse(const char *format, ...)
{
	va_list list;

	va_start(list, format);
	vsnprintf(step.why, sizeof(step.why), format, list);
	va_end(list);
}

static long long now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000LL + time.tv_nsec;
}

/* Whether the keeper at step.address promises to stay for as long as this process lives. */
static int take_lifeline(uid_t uid, int wait_ms)
{
	struct pollfd answer = { .events = POLLIN };
	char byte = WIRE_LIFELINE;
	int fd = wire_connect(step.address, uid, connect_as);  /* the keeper knows its own user alone */

	if (fd < 0)
		return 0;
	answer.fd = fd;
	if (wire_write(fd, &byte, 1) == 0 && poll(&answer, 1, wait_ms) == 1 &&
	    recv(fd, &byte, 1, MSG_DONTWAIT) == 1 && byte == WIRE_OK) {
		step.lifeline = fd;
		return 1;
	}
	close(fd);
	return 0;
}

/* One task hears why there is no container. 1 when the peer was slurmstepd's lifeline instead. */
static int tell(int fd, const char *why)
{
	struct timeval patience = { .tv_sec = 1 };
	struct ucred peer = { .uid = (uid_t) -1 };
	socklen_t peer_size = sizeof(peer);
	uint32_t size = (uint32_t) strlen(why) + 1;
	char byte, rest[4096];
	ssize_t n;

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &peer_size) < 0 || peer.uid != getuid() ||
	    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) < 0 ||
	    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)) < 0 ||
	    wire_read(fd, &byte, 1) < 0)
		return 0;
	if (byte == WIRE_LIFELINE) {
		shutdown(fd, SHUT_WR);  /* a later step shall not wait for an answer, but start its own keeper */
		return 1;
	}
	byte = WIRE_ERROR;
	if (wire_write(fd, &byte, 1) == 0 && wire_write(fd, &size, sizeof(size)) == 0)
		(void) wire_write(fd, why, size);
	/* The request stands unread: say goodbye by shutdown, for close() alone would reset. */
	shutdown(fd, SHUT_WR);
	for (size = 0; size < WIRE_FRAME_MAX && (n = recv(fd, rest, sizeof(rest), 0)) > 0; size += (uint32_t) n)
		;
	return 0;
}

/* Tell every task that comes why there is no container, until slurmstepd has gone. */
static void serve_refusal(int listener, const char *why)
{
	struct pollfd watch[2] = { { .fd = listener, .events = POLLIN }, { .fd = -1, .events = POLLIN } };

	while (poll(watch, 2, -1) >= 0) {
		if (watch[1].revents || (watch[0].revents & (POLLERR | POLLNVAL)))
			return;
		int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

		if (fd < 0 && errno != EINTR && errno != ECONNABORTED && errno != EAGAIN)
			return;
		if (fd >= 0 && tell(fd, why) && watch[1].fd < 0)
			watch[1].fd = fd;
		else if (fd >= 0)
			close(fd);
	}
}

/* In the keeper's process, which is the user by now. */
static int keep(void *unused)
{
	char why[1024] = "";

	(void) unused;
	prctl(PR_SET_NAME, "bollard-keeper");
	signal(SIGPIPE, SIG_IGN);  /* a task that goes away while it is answered takes nobody with it */
	step.times[1] = now();
	if (python_keep(step.spec, step.site, step.program, step.listener, step.job, step.times, why, sizeof(why)) == 0)
		return 0;
	serve_refusal(step.listener, why[0] ? why : "the runtime ended without a reason; this is a defect");
	return 1;
}

static unsigned long long hash(const char *text)
{
	unsigned long long sum = 0xcbf29ce484222325u;  /* FNV-1a, 64 bit */

	for (; *text; text++)
		sum = (sum ^ (unsigned char) *text) * 0x100000001b3u;
	return sum;
}

/* Keepers hang on to this socket: it is there for as long as the job, or the step, is. `name` becomes
 * the address it has, which is another one where somebody took that. */
static void hold_leash(char *name, size_t size)
{
	int on = 1;

	step.leash = wire_listen(name, name, size);
	if (step.leash >= 0 && (setsockopt(step.leash, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) < 0 ||
				fcntl(step.leash, F_SETFL, O_NONBLOCK) < 0)) {
		close(step.leash);
		step.leash = -1;
	}
}

/* The keeper's to write to; it learns the number among the words of the site. Without one, on a full disk for
 * example, containers go on. */
static int hold_record(const struct identity *id, uint32_t job_id)
{
	int fd = strstr(step.site, "record=no ") ? -1 : open_record(RECORDS, job_id, id, hash(step.spec));
	char *words = NULL;

	if (fd >= 0 && asprintf(&words, "%srecord-fd=%d ", step.site, fd) >= 0)
		step.site = words;  /* until slurmstepd ends */
	return fd;
}

static int first_node(spank_t spank)
{
	uint32_t node = 1;

	return spank_get_item(spank, S_JOB_NODEID, &node) == ESPANK_SUCCESS && node == 0;
}

/* "name=NAME" of the spec for a container that has one; whether it has. */
static int name_in(const char *spec, char *name, size_t size)
{
	const char *at = strstr(spec, " name=");
	size_t length = at ? strcspn(at + 1, " :") : 0;

	step.named = at && length < size;
	if (step.named)
		snprintf(name, size, "%.*s", (int) length, at + 1);
	return step.named;
}

/* Whether an earlier step of the job left this container; refuses where a named one should, or should not, be there. */
static int found_running(uid_t uid)
{
	const char *name = step.named ? strstr(step.spec, " name=") + strlen(" name=") : "";
	const char *mode = name + strcspn(name, " :");
	int length = (int) (mode - name), here = take_lifeline(uid, step.named ? NAMED_MS : WARM_MS);
	int has_image = strncmp(step.spec, "image=", strlen("image=")) == 0;  /* the client's first word */

	if (step.named && here && strncmp(mode, ":create", strlen(":create")) == 0)
		refuse("this job has a container %.*s on this node already; use %.*s:exec, or another name", length, name,
		       length, name);
	else if (step.named && !here && (strncmp(mode, ":exec", strlen(":exec")) == 0 || !has_image))
		refuse("this job has no container %.*s on this node; make it first with --container=IMAGE "
		       "--container-name=%.*s", length, name, length, name);
	return here || step.why[0];
}

static void start_keeper(spank_t spank, uint32_t job_id, uint32_t step_id, const char *program)
{
	struct identity id = { .place = -1 };
	gid_t *groups = NULL;
	char name[100];
	int keep_open[3], record;

	if (spank_get_item(spank, S_JOB_UID, &id.uid) != ESPANK_SUCCESS ||
	    spank_get_item(spank, S_JOB_GID, &id.gid) != ESPANK_SUCCESS ||
	    spank_get_item(spank, S_JOB_SUPPLEMENTARY_GIDS, &groups, &id.ngroups) != ESPANK_SUCCESS) {
		refuse("Slurm did not tell this step's user and groups; submit again");
		return;
	}
	id.groups = groups;
	id.as_root = strstr(step.spec, " fakeroot=1") != NULL;
	step.program = program;
	snprintf(step.address, sizeof(step.address), "bollard/%u/%u/%016llx", id.uid, job_id,
		 name_in(step.spec, name, sizeof(name)) ? hash(name) : hash(step.spec));
	if (found_running(id.uid))
		return;
	if (owned_by_root(BOLLARD_PREFIX "/_bollard.so") < 0 || owned_by_root(LAUNCHER) < 0 ||
	    owned_by_root(BOLLARD_PREFIX "/python/bollard/runtime") < 0 || owned_by_root(BOLLARD_STDLIB) < 0) {
		refuse("the installation in " BOLLARD_PREFIX " or " BOLLARD_STDLIB " is not root's alone (%s); "
		       "the site's administrator should install it again", strerror(errno));
		return;
	}
	memcpy(name, step.address, sizeof(name));
	step.listener = wire_listen(name, step.address, sizeof(step.address));
	if (step.listener >= 0 && step.named && strcmp(name, step.address) != 0) {
		close(step.listener);  /* another step of the job makes this very container */
		memcpy(step.address, name, sizeof(name));
		if (!found_running(id.uid) && !step.why[0])
			refuse("somebody else holds the address of the container on this node; use another name");
		return;
	}
	if (step.listener < 0) {
		refuse("cannot open the keeper's socket: %s; submit again", strerror(errno));
		return;
	}
	/* The extern step's, where the site has one (PrologFlags=Contain): the next step of the job then finds
	 * this container warm. Else it ends with this step. */
	snprintf(name, sizeof(name), "bollard-job/%u", job_id);
	step.job = wire_connect(name, 0, NULL);
	if (step.job < 0) {
		snprintf(name, sizeof(name), "bollard-job/%u/%u", job_id, step_id);
		hold_leash(name, sizeof(name));
		step.job = step.leash < 0 ? -1 : wire_connect(name, 0, NULL);
	}
	if (step.job < 0) {
		refuse("cannot open the socket by which the keeper is ended: %s; submit again", strerror(errno));
		close(step.listener);
		return;
	}
	keep_open[0] = step.listener;
	keep_open[1] = step.job;
	keep_open[2] = record = hold_record(&id, job_id);
	step.times[0] = now();
	id.place = open_job_place(job_id);
	if (become_and_run(&id, keep_open, record < 0 ? 2 : 3, step.job, keep, NULL, &step.helper) < 0)
		refuse("cannot start the keeper: %s; submit again", strerror(errno));
	/* Connects to the backlog at once; the keeper answers when it is there to read it. */
	else if ((step.lifeline = wire_connect(step.address, id.uid, connect_as)) < 0 ||
		 wire_write(step.lifeline, &(char){ WIRE_LIFELINE }, 1) < 0)
		refuse("cannot reach the keeper: %s; submit again", strerror(errno));
	close(step.listener);
	close(step.job);
	if (id.place >= 0)
		close(id.place);
	/* One node speaks for the job: the comment is one text, and the last to set it wins. */
	if (record >= 0 && strstr(step.site, "account=yes ") && first_node(spank))
		step.record = record;
	else if (record >= 0)
		close(record);
}

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

/* What the tasks start, as far as one can tell; it is read ahead. */
static const char *program_of(spank_t spank)
{
	static char first[4096];
	char **argv = NULL;
	int argc = 0;

	if (spank_get_item(spank, S_JOB_ARGV, &argc, &argv) != ESPANK_SUCCESS || argc < 1)
		return "";
	if (strncmp(argv[0], LAUNCHER "/", strlen(LAUNCHER "/")) == 0 && strlen(argv[0]) < sizeof(first)) {
		strcpy(first, argv[0] + strlen(LAUNCHER "/"));
		argv[0][strlen(LAUNCHER)] = '\0';  /* in place, for Slurm frees it */
		step.launched = 1;
		return first;
	}
	step.launched = strcmp(argv[0], LAUNCHER) == 0;
	if (!step.launched)
		spank_unsetenv(spank, ENV_ARGV0);  /* another component's */
	else if (spank_getenv(spank, ENV_ARGV0, first, sizeof(first)) != ESPANK_SUCCESS)
		step.launched = 0;  /* longer than a path can be; the task will say so */
	return step.launched ? first : argv[0];
}

/* The path by which the client has named the script's standard input; Slurm opens it after this hook. */
static void open_gate(void)
{
	int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC), gate = root < 0 ? -1 : fcntl(root, F_DUPFD_CLOEXEC, GATE_FD);

	if (gate >= 0 && gate != GATE_FD)
		close(gate);
	if (root >= 0)
		close(root);
}

/* A client without this plugin leaves --container to Slurm, which without oci.conf ignores it. */
static int slurm_ignored_container(spank_t spank)
{
	char container[2];  /* what it is does not matter */

	return spank_getenv(spank, "SLURM_CONTAINER", container, sizeof(container)) != ESPANK_ENV_NOEXIST &&
	       !slurm_has_oci_conf();
}

void stepd_init(spank_t spank, int argc, char **argv)
{
	uint32_t job_id = 0, step_id = 0;
	const char *program;
	spank_err_t rc;

	if (spank_get_item(spank, S_JOB_ID, &job_id) != ESPANK_SUCCESS ||
	    spank_get_item(spank, S_JOB_STEPID, &step_id) != ESPANK_SUCCESS) {
		step.asked = 1;
		refuse("Slurm does not tell this job's number; submit again");
		return;
	}
	if (step_id == EXTERN_STEP) {
		char name[100];

		snprintf(name, sizeof(name), "bollard-job/%u", job_id);
		hold_leash(name, sizeof(name));
		return;
	}
	rc = spank_getenv(spank, ENV_SPEC, step.spec, sizeof(step.spec));
	step.asked = rc != ESPANK_ENV_NOEXIST || slurm_ignored_container(spank);
	if (!step.asked)
		return;
	spank_unsetenv(spank, ENV_SPEC);  /* not for steps inside this one: a container is asked for, not inherited */
	step.verbose = strstr(step.spec, " verbose=");
	if (step.verbose) {  /* stands last, and makes no other container */
		*step.verbose = '\0';
		step.verbose += strlen(" verbose=");
	}
	step.site = joined(argc, argv);
	program = program_of(spank);
	if (step_id == BATCH_STEP)
		open_gate();
	if (rc == ESPANK_ENV_NOEXIST)
		refuse("this job asks for a container, but was submitted where bollard is not installed; "
		       "submit it from another host, or without --container");
	else if (rc != ESPANK_SUCCESS)
		refuse("Slurm cannot hand over what was asked of the container: %s; ask for less", spank_strerror(rc));
	else if (!step.site)
		refuse("out of memory");
	else
		start_keeper(spank, job_id, step_id, program);
}

void stepd_user_init(void)
{
	int status = 0, waited = 0;
	pid_t pid = 0;

	if (step.helper <= 0)
		return;
	/* It ends within milliseconds, unless the user stops the child it is about to map. */
	while ((pid = waitpid(step.helper, &status, WNOHANG)) == 0 && waited++ < HELPER_MS)
		usleep(1000);
	if (pid == 0) {
		kill(step.helper, SIGKILL);
		waitpid(step.helper, NULL, 0);
		refuse("the keeper did not start within %d s; submit again", HELPER_MS / 1000);
	} else if (pid > 0 && status != 0) {
		refuse("the keeper could not give up root or get its user namespace; the site's administrator should see "
		       "/proc/sys/user/max_user_namespaces and kernel.unprivileged_userns_clone");
	}
	step.helper = 0;
}

void stepd_exit(spank_t spank)
{
	uint32_t job_id;

	if (step.record >= 0 && spank_get_item(spank, S_JOB_ID, &job_id) == ESPANK_SUCCESS)
		tell_accounting(job_id, step.record);
	for (int count = 0; step.leash >= 0 && count < SOMAXCONN; count++) {
		int fd = accept4(step.leash, NULL, NULL, SOCK_CLOEXEC);

		if (fd < 0)
			return;
		kill_senders(fd);
		close(fd);
	}
}

/* Argument 0 as slurmstepd would have made it: --bcast to a directory names the file itself. */
static char *first_argument(spank_t spank, const char *argv0)
{
	uint32_t job_id = 0, step_id = 0;
	char node[256] = "", *text = NULL;

	if (!argv0[0] || argv0[strlen(argv0) - 1] != '/')
		return strdup(argv0);
	spank_get_item(spank, S_JOB_ID, &job_id);
	spank_get_item(spank, S_JOB_STEPID, &step_id);
	spank_getenv(spank, "SLURMD_NODENAME", node, sizeof(node));
	return asprintf(&text, "%sslurm_bcast_%u.%u_%s", argv0, job_id, step_id, node) < 0 ? NULL : text;
}

static int put_launcher_first(spank_t spank)
{
	static char *launcher[] = { LAUNCHER };
	spank_err_t (*prepend)(spank_t, int, const char **) = dlsym(RTLD_DEFAULT, "spank_prepend_task_argv");
	char **argv = NULL, *first;
	int argc = 0;

	if (spank_setenv(spank, ENV_ENTRY, step.address, 1) != ESPANK_SUCCESS ||
	    (step.named && spank_setenv(spank, ENV_SPEC, step.spec, 1) != ESPANK_SUCCESS) ||
	    (step.verbose && spank_setenv(spank, ENV_VERBOSE, step.verbose, 1) != ESPANK_SUCCESS))
		return -1;
	if (strstr(step.spec, " multi-prog=2") || (!prepend && strstr(step.spec, " multi-prog=")))
		return 0;
	if (step.launched) {
		first = first_argument(spank, step.program);
		return first && spank_setenv(spank, ENV_ARGV0, first, 1) == ESPANK_SUCCESS ? 0 : -1;
	}
	if (spank_get_item(spank, S_JOB_ARGV, &argc, &argv) != ESPANK_SUCCESS || argc < 1 ||
	    !(first = first_argument(spank, argv[0])))
		return -1;
	if (prepend) {
		if (strcmp(first, argv[0]) != 0)  /* slurmstepd itself would look at the launcher's name */
			argv[0] = first;
		return prepend(spank, 1, (const char **) launcher) == ESPANK_SUCCESS ? 0 : -1;
	}
	if (spank_setenv(spank, ENV_ARGV0, first, 1) != ESPANK_SUCCESS) {
		free(first);
		return -1;
	}
	free(first);
	argv[0] = launcher[0];  /* slurmstepd executes this very array, as the last thing this process does */
	return 0;
}

int stepd_task_init(spank_t spank)
{
	if (!step.asked)
		return 0;
	if (!step.why[0] && put_launcher_first(spank) < 0 && !step.why[0])
		refuse("Slurm refused to start the task through bollard-enter; tell the site's administrator");
	if (!step.why[0])
		return 0;
	fprintf(stderr, "bollard: %s\n", step.why);
	_exit(EXIT_BOLLARD);  /* never on to the host */
}
