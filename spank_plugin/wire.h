/* SPDX-License-Identifier: BSD-3-Clause */
/* What the shim, the launcher and the keeper say to each other (docs/internals.md, "Wire"). */
#ifndef BOLLARD_WIRE_H
#define BOLLARD_WIRE_H

#include "constants.h"  /* rendered from runtime/constants.py by build.py: letters, limits, names of variables */

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>

/* How to connect: connect(2), or as somebody else. */
typedef int connect_fn(uid_t uid, int fd, const struct sockaddr *addr, socklen_t size);

/* Abstract address `name`; returns a connected descriptor whose listener ran as root or as `owner`,
 * or -1 with errno. Never waits: EAGAIN when the listener's queue is full, for anyone can own such a
 * listener. `how` NULL is connect(2). */
int wire_connect(const char *name, uid_t owner, connect_fn *how);

/* Listening descriptor on the abstract address `name`, or on one the kernel picks when `name` is
 * taken by somebody else; the address goes to `bound`. -1 with errno. */
int wire_listen(const char *name, char *bound, size_t size);

int wire_write(int fd, const void *data, size_t size);
int wire_read(int fd, void *data, size_t size);

/* The next string of a frame whose last byte is NUL and lies before `end`; NULL at its end. */
char *wire_next(char **at, const char *end);

/* The next list, NULL-terminated, for the caller to free; its strings are the frame's. NULL where there is none. */
char **wire_next_list(char **at, const char *end);

#endif
