/* SPDX-License-Identifier: BSD-3-Clause */
/* The header of a spec: the only part that root reads (docs/internals.md, "Wire"). The functions need no privilege. The
 * client calls all of them as the user; slurmstepd calls read_header() as root. */
#ifndef BOLLARD_HEADER_H
#define BOLLARD_HEADER_H

#include "constants.h"  /* rendered from runtime/constants.py by build.py */

#include <stddef.h>

/* In the order of `modes` in header.c. */
enum mode { AUTO, CREATE, EXEC, NO_EXEC };

struct header {
	int root;                           /* 1: user and group 0 in the container */
	int image;                          /* 1: the spec names an image; 0: another step has made the container */
	int multi_prog;                     /* 1: srun has put the launcher before each program of --multi-prog */
	char verbose[VERBOSE_MAX + 1];      /* when the client started, ns since 1970; "" without --container-verbose */
	char name[NAME_MAX_BYTES + 1];      /* the container's name; "" for none */
	enum mode mode;                     /* whether the named container is to be made, found, or either */
	const char *cwd;                    /* "cwd=VALUE" within the spec: the directory in which the tasks start */
	size_t cwd_size;                    /* bytes of "cwd=VALUE" */
};

/* Reads the header of `spec`. Returns the options behind it, a pointer into `spec`, which only Python reads. Returns
 * NULL for any text that write_header() would not have made, and when a later byte is not printable ASCII. */
const char *read_header(const char *spec, struct header *header);

/* Returns the header as text with the space before the options, for the caller to free; NULL when out of memory. Here
 * `header->cwd` is the value alone, without "cwd=". */
char *write_header(const struct header *header);

/* Reads "NAME" or "NAME:MODE", as a user gives it, into `header`. Returns 0, or -1 when it is not allowed. */
int parse_name(const char *text, struct header *header);

#endif
