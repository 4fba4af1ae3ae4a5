/* SPDX-License-Identifier: BSD-3-Clause */
/* A task's entry: the launcher's request to the keeper, and the keeper's answer (runtime/container/entry.py). */
#define _GNU_SOURCE
#include "enter.h"
#include "wire.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static long long now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

/* connect(2) of the keeper, again while its queue is full: thousands of tasks start at once. Returns a descriptor, or -1
 * with errno; EAGAIN when the queue stays full for ENTRY_MS. */
static int reach(const char *name)
{
	long long end = now_ms() + ENTRY_MS;
	int fd;

	do
		fd = wire_connect(name, getuid());
	while (fd < 0 && errno == EAGAIN && now_ms() < end && usleep(1000) == 0);
	return fd;
}

/* Waits until the keeper answers at `fd`, and prints a line after ENTRY_TOLD_MS. The user, or a debugger, can have
 * stopped the keeper. Returns 0, or -1 with errno; ETIMEDOUT after ENTRY_MS. */
static int wait_for_answer(int fd)
{
	const char *local = getenv("SLURM_LOCALID");
	struct pollfd answer = { .fd = fd, .events = POLLIN };
	long long begin = now_ms(), waited = 0;
	int rc, told = local && strcmp(local, "0") != 0;  /* only the first task of the node prints it */

	do {
		if (waited >= ENTRY_TOLD_MS && !told++)
			fprintf(stderr, "bollard: the container's keeper on this node has not answered for %lld s; still "
				"waiting\n", waited / 1000);
		rc = poll(&answer, 1, (int) ((told ? ENTRY_MS : ENTRY_TOLD_MS) - waited));
		waited = now_ms() - begin;
	} while ((rc == 0 && waited < ENTRY_MS) || (rc < 0 && errno == EINTR));
	if (rc == 0)
		errno = ETIMEDOUT;
	return rc > 0 ? 0 : -1;
}

/* Sends the request: "T", size, then argc, argv..., envc, envp..., cwd, verbose, all NUL-terminated. Returns 0, or
 * -1 with errno: E2BIG when it is larger than a frame. */
static int send_request(int fd, char **argv, char **envp, const char *cwd, const char *verbose)
{
	char head[1 + sizeof(uint32_t)], count[2][24];
	size_t size = 0, argc = 0, envc = 0, at = 0;
	char *frame;
	int rc;

	for (; argv[argc]; argc++)
		size += strlen(argv[argc]) + 1;
	for (; envp[envc]; envc++)
		size += strlen(envp[envc]) + 1;
	snprintf(count[0], sizeof(count[0]), "%zu", argc);
	snprintf(count[1], sizeof(count[1]), "%zu", envc);
	size += strlen(count[0]) + strlen(count[1]) + strlen(cwd) + strlen(verbose) + 4;
	if (size > WIRE_FRAME_MAX) {
		errno = E2BIG;
		return -1;
	}
	frame = malloc(size);
	if (!frame)
		return -1;
#define PUT(text) do { size_t n_ = strlen(text) + 1; memcpy(frame + at, text, n_); at += n_; } while (0)
	PUT(count[0]);
	for (size_t i = 0; i < argc; i++)
		PUT(argv[i]);
	PUT(count[1]);
	for (size_t i = 0; i < envc; i++)
		PUT(envp[i]);
	PUT(cwd);
	PUT(verbose);
#undef PUT
	head[0] = WIRE_TASK;
	memcpy(head + 1, &(uint32_t){(uint32_t) size}, sizeof(uint32_t));
	rc = wire_write(fd, head, sizeof(head));
	if (rc == 0)
		rc = wire_write(fd, frame, size);
	free(frame);
	return rc;
}

/* Reads the answer: a status byte with descriptors attached, then one frame, which the caller frees. Returns 0, or
 * -1 with errno: EMFILE when the descriptors exceed RLIMIT_NOFILE, EPROTO for a frame that is not valid. */
static int read_reply(int fd, char *status, struct namespaces *namespaces, char **frame, uint32_t *size)
{
	union { struct cmsghdr head; char space[CMSG_SPACE(WAYS_MAX * sizeof(int))]; } control;
	struct iovec part = { .iov_base = status, .iov_len = 1 };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1,
				  .msg_control = &control, .msg_controllen = sizeof(control) };
	struct cmsghdr *rights;
	ssize_t n;

	namespaces->count = 0;
	if (wait_for_answer(fd) < 0)
		return -1;
	do
		n = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n == 0)
		errno = ECONNRESET;
	if (n <= 0)
		return -1;
	rights = CMSG_FIRSTHDR(&message);
	if (rights && rights->cmsg_level == SOL_SOCKET && rights->cmsg_type == SCM_RIGHTS) {
		namespaces->count = (int) ((rights->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(namespaces->fds, CMSG_DATA(rights), (size_t) namespaces->count * sizeof(int));
	}
	/* With fewer namespaces than the keeper sent, the task would see parts of the host. */
	if (message.msg_flags & MSG_CTRUNC) {
		errno = EMFILE;
		return -1;
	}
	if (wire_read(fd, size, sizeof(*size)) < 0)
		return -1;
	if (*size == 0 || *size > WIRE_FRAME_MAX) {
		errno = EPROTO;
		return -1;
	}
	*frame = malloc(*size);
	if (!*frame || wire_read(fd, *frame, *size) < 0)
		return -1;
	if ((*frame)[*size - 1] != '\0') {
		errno = EPROTO;
		return -1;
	}
	return 0;
}

static int parse(struct entry *entry, uint32_t size)
{
	char *at = entry->frame, *end = entry->frame + size;

	entry->argv = wire_next_list(&at, end);
	entry->envp = entry->argv ? wire_next_list(&at, end) : NULL;
	entry->cwd = entry->envp ? wire_next(&at, end) : NULL;
	entry->note = entry->cwd ? wire_next(&at, end) : NULL;
	entry->mode = entry->note ? wire_next(&at, end) : NULL;
	entry->root = entry->mode ? wire_next(&at, end) : NULL;
	entry->scratch = entry->root ? wire_next(&at, end) : NULL;
	if (entry->scratch && entry->argv[0])
		return 0;
	errno = EPROTO;
	return -1;
}

static int ask(int fd, char **argv, const char *verbose, struct entry *entry, struct namespaces *namespaces,
	       uint32_t *size, char *status)
{
	static char here[1 << 16];

	if (!getcwd(here, sizeof(here)))
		here[0] = '\0'; /* it was removed: the keeper chooses another one and reports that */
	if (send_request(fd, argv, environ, here, verbose) < 0 || read_reply(fd, status, namespaces, &entry->frame, size) < 0)
		return -1;
	while (*status == WIRE_SCRIPT) {
		if (run_script(fd, namespaces, entry->frame, *size) < 0)
			return -1;
		for (int i = 0; i < namespaces->count; i++)
			close(namespaces->fds[i]);
		free(entry->frame);
		entry->frame = NULL;
		if (read_reply(fd, status, namespaces, &entry->frame, size) < 0)
			return -1;
	}
	return 0;
}

int enter(const char *name, char **argv, const char *verbose, struct entry *entry, int *keeper, char *why, size_t size)
{
	struct namespaces namespaces = { .count = 0 };
	int fd, rc;
	uint32_t length = 0;
	char status = 0;

	fd = reach(name);
	if (fd < 0 && errno == EAGAIN) {
		snprintf(why, size, "the container's keeper on this node lets no task in for %d s; submit again", ENTRY_MS / 1000);
		return -1;
	}
	if (fd < 0) {
		snprintf(why, size, "the container's keeper on this node is gone (%s); "
			 "submit again, and tell the site's administrator if it comes back", strerror(errno));
		return -1;
	}
	/* A failure below ends this process; so descriptors and memory are not freed. */
	rc = ask(fd, argv, verbose, entry, &namespaces, &length, &status);
	if (rc < 0 && errno == EMFILE)
		snprintf(why, size, "cannot join the container's namespaces: too many open files; raise `ulimit -n`");
	else if (rc < 0 && errno == ETIMEDOUT)
		snprintf(why, size, "the container's keeper on this node has not answered for %d s; submit again", ENTRY_MS / 1000);
	else if (rc < 0)
		snprintf(why, size, "the container's keeper on this node ended before it let the task in (%s); "
			 "submit again, and tell the site's administrator if it comes back", strerror(errno));
	else if (status != WIRE_OK)
		snprintf(why, size, "%s", entry->frame);
	else if (namespaces.count < 2 || parse(entry, length) < 0)
		snprintf(why, size, "the container's keeper gave an answer this launcher cannot read; "
			 "are both of one bollard version?");
	else if ((entry->scratch[0] ? show_scratch(&namespaces, entry->scratch) : (void) 0), join(&namespaces) < 0)
		snprintf(why, size, "cannot join the container's namespaces: %s", strerror(errno));
	else if ((*keeper = fd, chdir(entry->cwd)) < 0)
		snprintf(why, size, "cannot change to %s in the container: %s", entry->cwd, strerror(errno));
	else
		return 0;
	close(fd);  /* tells the keeper that this task does not enter */
	return -1;
}
