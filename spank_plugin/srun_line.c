/* SPDX-License-Identifier: BSD-3-Clause */
/* srun's command line, as mpirun.c and placement.c put it together. */
#define _GNU_SOURCE
#include "mpirun.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

void refuse(struct state *state, const char *format, ...)
{
	va_list list;

	if (state->result.why[0])
		return;
	va_start(list, format);
	vsnprintf(state->result.why, sizeof(state->result.why), format, list);
	va_end(list);
}

void add(struct state *state, const char *format, ...)
{
	char *word = NULL;
	va_list list;

	va_start(list, format);
	if (vasprintf(&word, format, list) < 0)
		word = NULL;
	va_end(list);
	if (state->used + 2 > state->room) {
		char **grown = realloc(state->result.argv, (state->room += 64) * sizeof(*grown));

		if (!grown)
			word = NULL;
		else
			state->result.argv = grown;
	}
	if (!word) {
		fputs("bollard: out of memory\n", stderr);
		exit(255);
	}
	state->result.argv[state->used++] = word;
	state->result.argv[state->used] = NULL;
}
