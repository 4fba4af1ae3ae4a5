/* SPDX-License-Identifier: BSD-3-Clause */
/* A switch in an environment variable; runtime/request/spec.py reads it by the same rule. Needs no privilege. */
#ifndef BOLLARD_SWITCH_H
#define BOLLARD_SWITCH_H

#include "constants.h"  /* rendered from runtime/constants.py by build.py */

#include <stdio.h>
#include <string.h>

/* Returns 1 when `value` turns the switch on: it is not empty and, in any case of letters, not one of NO_WORDS. Else
 * 0. */
static inline int means_yes(const char *value)
{
	char word[32];
	int size = snprintf(word, sizeof(word), " %s ", value);

	for (char *c = word; *c; c++)
		if (*c >= 'A' && *c <= 'Z')
			*c = (char) (*c - 'A' + 'a');
	return value[0] && (size >= (int) sizeof(word) || !strstr(NO_WORDS, word));
}

#endif
