/* SPDX-License-Identifier: BSD-3-Clause */
/* What the shim, the launcher and the keeper say to each other (docs/internals.md, "Wire"). */
#ifndef BOLLARD_WIRE_H
#define BOLLARD_WIRE_H

#include "constants.h"  /* rendered from runtime/constants.py by build.py: letters, limits, names of variables */

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>

/* Connects to `name`: a path, or an abstract address where it does not begin with a slash. Returns a descriptor whose
 * listener ran as root or as `owner`, or -1 with errno. Never waits: EAGAIN when the listener's queue is full, for
 * anyone can own the listener of an abstract address. */
int wire_connect(const char *name, uid_t owner);

/* Listening descriptor at `name`, a path or an abstract address, where nothing may be; -1 with errno. */
int wire_listen(const char *name);

int wire_write(int fd, const void *data, size_t size);
int wire_read(int fd, void *data, size_t size);

/* The next string of a frame whose last byte is NUL and lies before `end`; NULL at its end. */
char *wire_next(char **at, const char *end);

/* The next list, NULL-terminated, for the caller to free; its strings are the frame's. NULL where there is none. */
char **wire_next_list(char **at, const char *end);

#endif
