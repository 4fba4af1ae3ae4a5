/* SPDX-License-Identifier: BSD-3-Clause */
#define _GNU_SOURCE
#include "multiprog.h"

#include <stdlib.h>
#include <string.h>

/* Returns the place of the program in a line "RANKS PROGRAM ARGUMENTS..."; `line` itself when it has no program. */
static const char *program_of(const char *line)
{
	const char *ranks = line + strspn(line, " \t");
	const char *blank = ranks + strcspn(ranks, " \t\n");
	const char *program = blank + strspn(blank, " \t");

	return *ranks == '#' || *program == '\n' || *program == '\0' ? line : program;
}

char *with_launcher(const char *text, const char *launcher)
{
	size_t lines = 1;
	int goes_on = 0;  /* 1: the line before ended in a backslash */
	const char *line, *end;
	char *result, *to;

	for (line = text; *line; line++)
		lines += *line == '\n';
	result = to = malloc(strlen(text) + lines * (strlen(launcher) + 1) + 1);
	if (!result)
		return NULL;
	for (line = text; *line; line = end) {
		const char *program = goes_on ? line : program_of(line);

		end = line + strcspn(line, "\n");
		end += *end == '\n';
		to = mempcpy(to, line, (size_t) (program - line));
		if (program != line)
			to = stpcpy(stpcpy(to, launcher), " ");
		to = mempcpy(to, program, (size_t) (end - program));
		goes_on = end - line >= 2 && end[-1] == '\n' && end[-2] == '\\';
	}
	*to = '\0';
	return result;
}
