/* SPDX-License-Identifier: BSD-3-Clause */
/* The state of this step, which the parts of the shim in slurmstepd share. */
#define _GNU_SOURCE
#include "stepd.h"

#include <stdarg.h>
#include <stdio.h>

struct step step = { .listener = -1, .job = -1, .job_socket = -1, .folder = -1, .record = -1, .before = -1,
		     .lifeline = -1 };

void refuse(const char *format, ...)
{
	va_list list;

	va_start(list, format);
	vsnprintf(step.why, sizeof(step.why), format, list);
	va_end(list);
}
