/* SPDX-License-Identifier: BSD-3-Clause */
/* The messages between the shim, the launcher and the keeper (docs/internals.md, "Wire"). The shim calls this as
 * root, the launcher and the keeper as the user. */
#ifndef BOLLARD_WIRE_H
#define BOLLARD_WIRE_H

#include "constants.h"  /* rendered from runtime/constants.py by build.py: letters, limits, names of variables */

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>

/* Connects to `name`: a path when it begins with a slash, else an abstract address. Returns a descriptor, which the
 * caller closes, or -1 with errno. EINVAL: `name` is empty or too long. EPERM: the listener is neither root's nor
 * `owner`'s. EAGAIN: the listener's queue is full; the call never waits, because any user can listen at an abstract
 * address. */
int wire_connect(const char *name, uid_t owner);

/* Returns a listening descriptor at `name`, a path or an abstract address, which the caller closes. Returns -1 with
 * errno: EADDRINUSE when something is there already, EINVAL when `name` is empty or too long. */
int wire_listen(const char *name);

/* Writes all `size` bytes to the socket `fd`. Returns 0, or -1 with errno. Sends no SIGPIPE. */
int wire_write(int fd, const void *data, size_t size);

/* Reads exactly `size` bytes from the socket `fd`. Returns 0, or -1 with errno; ECONNRESET at the end of the stream. */
int wire_read(int fd, void *data, size_t size);

/* Returns the next string of a frame, and moves `at` behind it; NULL at the end of the frame. The frame's last byte
 * is NUL, and `end` is behind it. The string is the frame's. */
char *wire_next(char **at, const char *end);

/* Returns the next list of a frame, NULL-terminated, for the caller to free; its strings are the frame's. NULL when
 * the frame has no valid list there, or when out of memory. */
char **wire_next_list(char **at, const char *end);

#endif
