/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef BOLLARD_ACCOUNT_H
#define BOLLARD_ACCOUNT_H

#include <stdint.h>

/* Sets the job's AdminComment, which goes to the accounting, to the last line of the file `record` that names
 * `container`. Sends one message to slurmctld, as root: users cannot set this field. Reports no failure: a job's end
 * does not depend on the accounting. `record` stays the caller's. */
void tell_accounting(uint32_t job_id, int record, const char *container);

#endif
