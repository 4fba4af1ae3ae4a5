/* SPDX-License-Identifier: BSD-3-Clause */
/* The keeper of a step, in slurmstepd: finds the one that an earlier step of the job started, or starts one. Runs as
 * root; keep() and what it calls run as the user, in the child. */
#define _GNU_SOURCE
#include "job_cgroup.h"
#include "job_folder.h"
#include "job_place.h"
#include "keeper.h"
#include "privilege.h"
#include "root_owned.h"
#include "site_settings.h"
#include "stepd.h"
#include "wire.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

/* How long a keeper may take to answer; it may still be starting. After that an unnamed container is made again: the
 * user may have stopped its keeper. */
#define WARM_MS 5000
#define NAMED_MS 10000
/* How long to wait for the lock of the container. Another step of the job holds it while it finds or forks the
 * keeper. */
#define LOCK_MS 15000

static long long now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000LL + time.tv_nsec;
}

/* Returns 1 when `fd` can be read within `ms`, else 0. A signal restarts the time. */
static int wait_for(int fd, int ms)
{
	struct pollfd answer = { .fd = fd, .events = POLLIN };
	int rc;

	do
		rc = poll(&answer, 1, ms);
	while (rc < 0 && errno == EINTR);
	return rc == 1;
}

/* Sends "L" and `asked`: for a named container the step's spec, else the working directory as in the spec. A keeper
 * refuses when its container does not have that directory. Returns 0, or -1 with errno. */
static int send_lifeline(int fd, const char *asked, size_t size)
{
	char byte = WIRE_LIFELINE;
	uint32_t length = (uint32_t) size;

	return wire_write(fd, &byte, 1) < 0 || wire_write(fd, &length, sizeof(length)) < 0 ? -1 : wire_write(fd, asked, size);
}

/* What the keeper at step.address says. In the order of the names: there is none; it refuses, or ends; it does not
 * answer; it ends for a new one of this step; it stays. */
enum presence { ABSENT, REFUSES, SILENT, ENDS, HERE };

/* Asks the keeper at step.address to stay as long as this process lives. With HERE the connection is in step.lifeline,
 * with ENDS in step.before. */
static enum presence take_lifeline(uid_t uid, int wait_ms)
{
	char byte = 0;
	int fd = wire_connect(step.address, uid);  /* as root: the keeper accepts a lifeline from root only */
	int is_named = step.header.name[0] != '\0';
	struct timeval patience = { .tv_sec = wait_ms / 1000 };
	enum presence found = REFUSES;

	if (fd < 0)
		return errno == EAGAIN ? SILENT : ABSENT;  /* EAGAIN: nobody accepts the connections in its queue */
	/* A keeper that its user has stopped does not read. */
	if (setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)) == 0 &&
	    send_lifeline(fd, is_named ? step.spec : step.header.cwd,
			  is_named ? strlen(step.spec) : step.header.cwd_size) == 0) {
		if (!wait_for(fd, wait_ms))
			found = SILENT;
		else if (recv(fd, &byte, 1, MSG_DONTWAIT) == 1)
			found = byte == WIRE_OK ? HERE : is_named && byte == WIRE_ANEW ? ENDS : REFUSES;
	} else if (errno == EAGAIN) {
		found = SILENT;
	}
	if (found == HERE)
		step.lifeline = fd;
	else if (found == ENDS)
		step.before = fd;
	else
		close(fd);
	return found;
}

/* Appends a formatted string to `words`. Returns 0, or -1 when out of memory. */
__attribute__((format(printf, 3, 4))) static int add_word(char **words, int *count, const char *format, ...)
{
	va_list list;
	int size;

	va_start(list, format);
	size = vasprintf(&words[*count], format, list);
	va_end(list);
	if (size < 0)
		return -1;
	words[++*count] = NULL;
	return 0;
}

/* Keeps `fd` open through execve(2). Returns 0, or -1 with errno. */
static int hand_on(int fd)
{
	return fcntl(fd, F_SETFD, 0);
}

/* Executes bollard-keeper. Returns only on failure, with errno. The spec is passed in the environment, because every
 * user can read a command line in /proc. This process is not dumpable, so only root can read its environment. */
static void become_keeper(int record, int witness)
{
	char tree[PATH_MAX], path[PATH_MAX + 32], *argv[] = { "bollard-keeper", NULL }, *words[11] = { NULL };
	int count = 0;

	/* Resolved once: an upgrade can change the prefix, a link, to another tree at any time. */
	if (!realpath(BOLLARD_PREFIX, tree))
		return;
	snprintf(path, sizeof(path), "%s/bollard-keeper", tree);
	if (add_word(words, &count, KEEPER_SPEC "=%s", step.spec) < 0 ||
	    add_word(words, &count, KEEPER_SITE "=%s", step.site) < 0 ||
	    add_word(words, &count, KEEPER_PROGRAM "=%s", step.program) < 0 ||
	    add_word(words, &count, KEEPER_LISTENER "=%d", step.listener) < 0 ||
	    add_word(words, &count, KEEPER_JOB "=%d", step.job) < 0 ||
	    add_word(words, &count, KEEPER_FORKED "=%lld", step.times[0]) < 0 ||
	    add_word(words, &count, KEEPER_DROPPED "=%lld", step.times[1]) < 0 ||
	    (record >= 0 && add_word(words, &count, KEEPER_RECORD "=%d", record) < 0) ||
	    (step.before >= 0 && (add_word(words, &count, KEEPER_BEFORE "=%d", step.before) < 0 ||
				  hand_on(step.before) < 0)) ||
	    add_word(words, &count, KEEPER_WITNESS "=%d", witness) < 0 || hand_on(witness) < 0 ||
	    hand_on(step.listener) < 0 || hand_on(step.job) < 0 || (record >= 0 && hand_on(record) < 0))
		return;
	execve(path, argv, words);
}

/* Forks the witness (witness.c) of the connection `fd`, if the site's rules ask for the owners of files. Runs as the
 * user, in the process that becomes the keeper, before it makes its user namespace. Returns 0, or -1 with errno. */
static int start_witness(int fd)
{
	char tree[PATH_MAX], path[PATH_MAX + 32], *argv[] = { "bollard-witness", NULL }, *words[2] = { NULL };
	pid_t pid;
	int count = 0;

	if (!site_says("\n" SITE_TRUST_OWNERS))
		return 0;
	pid = fork();
	if (pid != 0)
		return pid < 0 ? -1 : 0;
	prctl(PR_SET_NAME, "bollard-witness");
	prctl(PR_SET_PDEATHSIG, SIGKILL);  /* the user can stop this process from here on */
	if (realpath(BOLLARD_PREFIX, tree) && snprintf(path, sizeof(path), "%s/bollard-keeper", tree) > 0 &&
	    add_word(words, &count, KEEPER_SERVE "=%d", fd) == 0 && leave_only(&fd, 1) == 0 && hand_on(fd) == 0)
		execve(path, argv, words);
	_exit(1);  /* the keeper sees the end of the connection, and refuses */
}

/* What keep() gets. */
struct handed_on {
	int record, witness;
};

/* The main function of the keeper's process, which is the user by now. Returns its exit status, on failure only. */
static int keep(void *handed)
{
	const struct handed_on *fds = handed;
	char why[512];

	prctl(PR_SET_NAME, "bollard-keeper");
	signal(SIGPIPE, SIG_IGN);  /* a task that ends while it is answered must not end the keeper */
	signal(SIGXFSZ, SIG_IGN);  /* write(2) fails instead: the keeper then tells that its record cannot be written */
	step.times[1] = now();
	become_keeper(fds->record, fds->witness);
	snprintf(why, sizeof(why), KEEPER " cannot be started: %s; the site's administrator should install bollard again "
		 "on this node", strerror(errno));
	serve_refusal(step.listener, why);
	return 1;
}

static unsigned long long hash(unsigned long long sum, const char *text, size_t size)
{
	for (size_t i = 0; i < size; i++)
		sum = (sum ^ (unsigned char) text[i]) * 0x100000001b3u;
	return sum;
}

/* Returns a number that differs between the containers of this job: FNV-1a, 64 bit, of the container's name. Without
 * a name, of the options, with or without the working directory. */
static unsigned long long mark(int with_cwd)
{
	const unsigned long long start = 0xcbf29ce484222325u;
	char name[sizeof(HEADER_NAME) + sizeof(step.header.name)];
	unsigned long long sum;

	if (step.header.name[0]) {
		snprintf(name, sizeof(name), HEADER_NAME "%s", step.header.name);
		return hash(start, name, strlen(name));
	}
	sum = hash(start, step.options, strlen(step.options));
	return with_cwd ? hash(sum, step.header.cwd, step.header.cwd_size) : sum;
}

void hold_job_socket(const char *path)
{
	int on = 1, saved;

	snprintf(step.job_socket_path, sizeof(step.job_socket_path), "%s", path);
	step.job_socket = job_folder_listen(path, 0);
	if (step.job_socket >= 0 && (setsockopt(step.job_socket, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) < 0 ||
				fcntl(step.job_socket, F_SETFL, O_NONBLOCK) < 0)) {
		saved = errno;
		close(step.job_socket);
		step.job_socket = -1;
		errno = saved;
	}
}

/* Opens the job's record for the keeper. Adds the descriptor's number and the container's name in the record to
 * step.site: the keeper reads them there. Returns the descriptor, which the caller closes; -1 without a record, for
 * example on a full disk: the container starts all the same. */
static int hold_record(const struct identity *id, uint32_t job_id)
{
	int fd = step.no_record ? -1 : open_record(RECORDS, job_id, id->uid, id->gid);
	char *words = NULL;

	snprintf(step.container, sizeof(step.container), "%016llx.%lld", mark(1), now());
	if (fd >= 0 && asprintf(&words, "%s" RECORD_FD_WORD "%d record-as=%s ", step.site, fd, step.container) >= 0)
		step.site = words;  /* until slurmstepd ends */
	return fd;
}

static int first_node(spank_t spank)
{
	uint32_t node = 1;

	return spank_get_item(spank, S_JOB_NODEID, &node) == ESPANK_SUCCESS && node == 0;
}

/* Returns 1 when an earlier step of the job has made this container. Also 1 after refuse(): a named container is
 * missing, does not answer, or exists although the mode is create. Returns 0 when a keeper has to be started;
 * *occupied is then 1 when a process listens at the address. */
static int found_running(uid_t uid, int *occupied)
{
	const char *name = step.header.name;
	enum presence found = take_lifeline(uid, name[0] ? NAMED_MS : WARM_MS);
	int here = found == HERE;

	*occupied = found == REFUSES || found == SILENT;
	if (name[0] && found == SILENT)  /* another one would lack what earlier steps have written into it */
		refuse("the container %s of this job does not answer on this node for %d s; wait until the steps in it have "
		       "started, or use another name", name, NAMED_MS / 1000);
	else if (name[0] && here && step.header.mode == CREATE)
		refuse("this job has a container %s on this node already; use %s:exec, or another name", name, name);
	else if (name[0] && !here && found != ENDS && (step.header.mode == EXEC || !step.header.image))
		refuse("this job has no container %s on this node; make it first with --container=IMAGE "
		       "--container-name=%s", name, name);
	return here || step.why[0];
}

/* Connects to the job socket, by which root ends the keeper. Returns a descriptor, which the caller closes, or -1
 * with errno. With PrologFlags=Contain it is the extern step's socket, so that later steps of the job find this
 * container. Else this step makes one, and the container ends with this step. */
static int connect_job(uint32_t job_id, uint32_t step_id)
{
	char path[100];
	int fd;

	snprintf(path, sizeof(path), JOB_FOLDERS "/%u/job", job_id);
	fd = wire_connect(path, 0);
	if (fd >= 0)
		return fd;
	snprintf(path, sizeof(path), JOB_FOLDERS "/%u/job.%u", job_id, step_id);
	hold_job_socket(path);
	return step.job_socket < 0 ? -1 : wire_connect(path, 0);
}

/* Forks the keeper and connects the lifeline; refuse() on failure. */
static void start_keeper(struct identity *id, uint32_t job_id, int record)
{
	int pair[2], keep_open[5] = { step.listener, step.job }, kept = 3;
	struct handed_on fds = { .record = record };
	char *words = NULL;
	struct job_cgroups cgroups;

	if (record >= 0)
		keep_open[kept++] = record;
	if (step.before >= 0)
		keep_open[kept++] = step.before;
	step.times[0] = now();
	/* Without these the container would be outside of the job's limits, or would not see the job's own /tmp. */
	if (job_cgroups_find(&cgroups, job_id) < 0) {
		refuse("cannot tell the job's cgroups on this node: %s; tell the site's administrator", strerror(errno));
		return;
	}
	if (open_job_place(job_id, &id->place) < 0) {
		refuse("cannot open the mount namespace with the job's own /tmp: %s; tell the site's administrator",
		       strerror(errno));
		return;
	}
	id->cgroups = &cgroups;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0 ||
	    asprintf(&words, "%s" WITNESS_FD_WORD "%d ", step.site, pair[0]) < 0) {
		refuse("cannot start the keeper: %s; submit again", strerror(errno));
		return;
	}
	step.site = words;  /* until slurmstepd ends */
	keep_open[2] = fds.witness = pair[0];
	id->first = start_witness;
	id->first_fd = pair[1];
	if (become_and_run(id, keep_open, kept, step.job, keep, &fds, &step.helper, &step.answer) < 0)
		refuse("cannot start the keeper: %s; submit again", strerror(errno));
	/* The kernel queues the connection at once; the keeper reads it when it has started. */
	else if ((step.lifeline = wire_connect(step.address, id->uid)) < 0 ||
		 send_lifeline(step.lifeline, "", 0) < 0)
		refuse("cannot reach the keeper: %s; submit again", strerror(errno));
	close(pair[0]);
	close(pair[1]);
	if (id->place >= 0)
		close(id->place);
}

/* Sets step.address for this step's container. The first two digits are the same with and without the working
 * directory: job_folder_lock() locks by them. */
static void name_address(uint32_t job_id, int with_cwd)
{
	unsigned long long number = mark(0);

	if (with_cwd)
		number = (number & 0xffull << 56) | mark(1) >> 8;
	snprintf(step.address, sizeof(step.address), JOB_FOLDERS "/%u/%016llx", job_id, number);
}

/* Finds the keeper or starts it; refuse() on failure. The caller holds the lock of the container
 * (job_folder_lock()). */
static void find_or_start(spank_t spank, struct identity *id, uint32_t job_id, uint32_t step_id)
{
	int record, occupied;

	if (found_running(id->uid, &occupied))
		return;
	if (!step.header.name[0] && occupied) {  /* its container lacks this working directory, or it hangs */
		name_address(job_id, 1);
		if (found_running(id->uid, &occupied))
			return;
	}
	if (owned_by_root(BOLLARD_PREFIX "/_bollard.so") < 0 || owned_by_root(LAUNCHER) < 0 || owned_by_root(KEEPER) < 0 ||
	    owned_by_root(BOLLARD_PREFIX "/python/bollard/runtime") < 0 || owned_by_root(BOLLARD_STDLIB) < 0) {
		refuse("the installation in " BOLLARD_PREFIX " or " BOLLARD_STDLIB " is not root's alone (%s); "
		       "the site's administrator should install it again", strerror(errno));
		return;
	}
	job_folder_tidy(step.address);
	step.listener = job_folder_listen(step.address, id->uid);
	if (step.listener < 0) {
		refuse("cannot open the keeper's socket %s: %s; submit again", step.address, strerror(errno));
		return;
	}
	step.job = connect_job(job_id, step_id);
	if (step.job < 0) {
		refuse("cannot open the socket by which the keeper is ended: %s; submit again", strerror(errno));
		close(step.listener);
		return;
	}
	record = hold_record(id, job_id);
	start_keeper(id, job_id, record);
	close(step.listener);
	close(step.job);
	if (step.before >= 0)
		close(step.before);
	/* Only the first node reports to the accounting: a job has one comment, and each report replaces it. */
	if (record >= 0 && step.account && first_node(spank))
		step.record = record;
	else if (record >= 0)
		close(record);
}

void find_keeper(spank_t spank, uint32_t job_id, uint32_t step_id)
{
	struct identity id = { .place = -1, .as_root = step.header.root };
	gid_t *groups = NULL;
	int lock;

	if (spank_get_item(spank, S_JOB_UID, &id.uid) != ESPANK_SUCCESS ||
	    spank_get_item(spank, S_JOB_GID, &id.gid) != ESPANK_SUCCESS ||
	    spank_get_item(spank, S_JOB_SUPPLEMENTARY_GIDS, &groups, &id.ngroups) != ESPANK_SUCCESS) {
		refuse("Slurm did not tell this step's user and groups; submit again");
		return;
	}
	id.groups = groups;
	step.folder = job_folder_hold(job_id);
	if (step.folder < 0) {
		refuse("cannot make " JOB_FOLDERS "/%u on this node: %s; tell the site's administrator", job_id,
		       strerror(errno));
		return;
	}
	name_address(job_id, 0);
	lock = job_folder_lock(step.address, LOCK_MS);
	if (lock < 0) {
		refuse("another step of this job has been starting the container for %d s (%s); submit again",
		       LOCK_MS / 1000, strerror(errno));
		return;
	}
	find_or_start(spank, &id, job_id, step_id);
	job_folder_release(lock);
}
