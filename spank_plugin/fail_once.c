/* SPDX-License-Identifier: BSD-3-Clause */
/* One message for a mistake that all tasks of a step share. */
#define _GNU_SOURCE
#include "enter.h"
#include "wire.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define TOLD_TRIES 20
#define TOLD_MS 1000  /* how long to wait for the next task with the same mistake */

static unsigned long long hash(const char *text)
{
	unsigned long long sum = 0xcbf29ce484222325u;  /* FNV-1a, 64 bit */

	for (; *text; text++)
		sum = (sum ^ (unsigned char) *text) * 0x100000001b3u;
	return sum;
}

/* Prints `text` unless another task of this step on this node has just printed it. The first task listens at an
 * abstract address for a while; the other tasks connect to it and print nothing. Returns 1, or 0 when the caller has
 * to print: the step has one task or this is no step. */
static int is_told(const char *text)
{
	const char *job = getenv("SLURM_JOB_ID"), *id = getenv("SLURM_STEP_ID"), *tasks = getenv("SLURM_STEP_NUM_TASKS");
	char name[100];
	struct pollfd other = { .events = POLLIN };
	long others = tasks ? atol(tasks) - 1 : 0;
	int fd, tries;

	if (!job || !id || others < 1)
		return 0;
	snprintf(name, sizeof(name), "bollard-told/%u/%.20s.%.20s/%016llx", getuid(), job, id, hash(text));
	fd = wire_listen(name);
	for (tries = 0; fd < 0 && errno == EADDRINUSE && tries < TOLD_TRIES; tries++) {
		if (wire_connect(name, getuid()) >= 0)  /* fails unless the listener is this user's, or root's */
			return 1;
		usleep(1000);  /* the first task is between bind(2) and listen(2) */
		errno = EADDRINUSE;
	}
	fprintf(stderr, "bollard: %s\n", text);
	for (other.fd = fd; fd >= 0 && others > 0 && poll(&other, 1, TOLD_MS) == 1; others--)
		if (accept4(fd, NULL, NULL, SOCK_CLOEXEC) < 0)
			break;
	return 1;
}

int fail_once(const char *text)
{
	if (is_told(text))
		return EXIT_BOLLARD;
	fprintf(stderr, "bollard: %s\n", text);
	return EXIT_BOLLARD;
}
