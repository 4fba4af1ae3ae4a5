/* SPDX-License-Identifier: BSD-3-Clause */
/* The value of a switch in an environment variable, as runtime/request/spec.py reads it. */
#ifndef BOLLARD_SWITCH_H
#define BOLLARD_SWITCH_H

#include "constants.h"  /* rendered from runtime/constants.py by build.py */

#include <stdio.h>
#include <string.h>

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
