/* SPDX-License-Identifier: BSD-3-Clause */
/* Takes the keeper's place when there is no keeper: each task gets the reason. */
#define _GNU_SOURCE
#include "keeper.h"
#include "wire.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

/* Sends `why` to the task at `fd`. Returns 0; returns 1 when `fd` is slurmstepd's lifeline instead, which then stays
 * open. */
static int tell(int fd, const char *why)
{
	struct timeval patience = { .tv_sec = 1 };
	uint32_t size = (uint32_t) strlen(why) + 1;
	char byte, rest[4096];
	ssize_t n;

	/* No check of the peer: the socket is a file to which only its user and root can connect. */
	if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) < 0 ||
	    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)) < 0 ||
	    wire_read(fd, &byte, 1) < 0)
		return 0;
	if (byte == WIRE_LIFELINE) {
		shutdown(fd, SHUT_WR);  /* a later step then does not wait for an answer and starts its own keeper */
		return 1;
	}
	byte = WIRE_ERROR;
	if (wire_write(fd, &byte, 1) == 0 && wire_write(fd, &size, sizeof(size)) == 0)
		(void) wire_write(fd, why, size);  /* fails when the task has gone: nobody is left to be told */
	/* The task's request is unread. close(2) alone would reset the connection, and the task would lose the
	 * answer. So end it with shutdown(2) and read the request. */
	shutdown(fd, SHUT_WR);
	for (size = 0; size < WIRE_FRAME_MAX && (n = recv(fd, rest, sizeof(rest), 0)) > 0; size += (uint32_t) n)
		;
	return 0;
}

void serve_refusal(int listener, const char *why)
{
	struct pollfd watch[2] = { { .fd = listener, .events = POLLIN }, { .fd = -1, .events = 0 } };

	/* Only the end of the lifeline matters: what keeper.c has sent on it stays unread. */
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
