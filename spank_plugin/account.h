/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef BOLLARD_ACCOUNT_H
#define BOLLARD_ACCOUNT_H

#include <stdint.h>

/* Make the last line of the file `record` that is of `container` the job's AdminComment, which goes to the accounting and
 * which users cannot set: one message to slurmctld, as root. */
void tell_accounting(uint32_t job_id, int record, const char *container);

#endif
