/* SPDX-License-Identifier: BSD-3-Clause */
/* Unix sockets between shim, launcher and keeper. */
#define _GNU_SOURCE
#include "wire.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* Fills `addr`: a path when `name` begins with a slash, else an abstract address. Returns its length; 0 when `name`
 * is empty or too long. */
static socklen_t address(const char *name, struct sockaddr_un *addr)
{
	size_t size = strlen(name), at = name[0] == '/' ? 0 : 1;

	memset(addr, 0, sizeof(*addr));
	addr->sun_family = AF_UNIX;
	if (size == 0 || size > sizeof(addr->sun_path) - 1)
		return 0;
	memcpy(addr->sun_path + at, name, size);
	return (socklen_t) (offsetof(struct sockaddr_un, sun_path) + 1 + size);
}

int wire_connect(const char *name, uid_t owner)
{
	struct sockaddr_un addr;
	struct ucred peer;
	socklen_t size = address(name, &addr), peer_size = sizeof(peer);
	int fd, saved;

	if (size == 0) {
		errno = EINVAL;
		return -1;
	}
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -1;
	if (connect(fd, (struct sockaddr *) &addr, size) < 0 ||
	    getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &peer_size) < 0 || fcntl(fd, F_SETFL, 0) < 0) {
		saved = errno;
		close(fd);
		errno = saved;
		return -1;
	}
	/* Any user can bind an abstract address. SO_PEERCRED is the user who called listen(2). */
	if (peer.uid != 0 && peer.uid != owner) {
		close(fd);
		errno = EPERM;
		return -1;
	}
	return fd;
}

int wire_listen(const char *name)
{
	struct sockaddr_un addr;
	socklen_t length = address(name, &addr);
	int fd = length ? socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0) : -1, saved;

	if (length == 0)
		errno = EINVAL;
	if (fd >= 0 && (bind(fd, (struct sockaddr *) &addr, length) < 0 || listen(fd, SOMAXCONN) < 0)) {
		saved = errno;
		close(fd);
		errno = saved;
		return -1;
	}
	return fd;
}

int wire_write(int fd, const void *data, size_t size)
{
	const char *at = data;

	while (size > 0) {
		ssize_t n = send(fd, at, size, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -1;
		at += n;
		size -= (size_t) n;
	}
	return 0;
}

int wire_read(int fd, void *data, size_t size)
{
	char *at = data;

	while (size > 0) {
		ssize_t n = recv(fd, at, size, 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n == 0)
			errno = ECONNRESET;
		if (n <= 0)
			return -1;
		at += n;
		size -= (size_t) n;
	}
	return 0;
}

char *wire_next(char **at, const char *end)
{
	char *text = *at;

	if (text >= end)
		return NULL;
	*at += strlen(text) + 1;
	return text;
}

char **wire_next_list(char **at, const char *end)
{
	char *text = wire_next(at, end), **list;
	unsigned long count = text ? strtoul(text, NULL, 10) : 0;

	if (!text || count > (unsigned long) (end - *at))
		return NULL;
	list = calloc(count + 1, sizeof(*list));
	for (unsigned long i = 0; list && i < count; i++) {
		list[i] = wire_next(at, end);
		if (!list[i]) {
			free(list);
			return NULL;
		}
	}
	return list;
}
