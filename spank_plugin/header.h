/* SPDX-License-Identifier: BSD-3-Clause */
/* The header of a spec: all that root needs of it (docs/internals.md, "Wire"). */
#ifndef BOLLARD_HEADER_H
#define BOLLARD_HEADER_H

#include "constants.h"  /* rendered from runtime/constants.py by build.py */

#include <stddef.h>

/* In the order of `modes` in header.c. */
enum mode { AUTO, CREATE, EXEC, NO_EXEC };

struct header {
	int root;                           /* user and group 0 in the container */
	int image;                          /* an image is named; else another step has made the container */
	int multi_prog;                     /* srun has put the launcher before each program of --multi-prog */
	char verbose[VERBOSE_MAX + 1];      /* when the client began, ns since 1970; "" without --container-verbose */
	char name[NAME_MAX_BYTES + 1];      /* of the container; "" for none */
	enum mode mode;                     /* what the name means */
	const char *cwd;                    /* "cwd=..." in the spec itself: where the tasks start, as a value of an option */
	size_t cwd_size;                    /* of that word, in bytes */
};

/* Reads the header of a spec. Returns the options behind it, which only Python reads; NULL for any text that
 * write_header() would not have made, or that has a byte behind the header that is not printable ASCII. */
const char *read_header(const char *spec, struct header *header);

/* The header as text, the space before the options included, to be freed; NULL without memory. `header->cwd` is the value
 * alone here. */
char *write_header(const struct header *header);

/* "NAME" or "NAME:MODE" as a user gives it. Returns 0, or -1 for one that is not allowed. */
int parse_name(const char *text, struct header *header);

#endif
