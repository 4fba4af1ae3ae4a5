/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef BOLLARD_SITE_SETTINGS_H
#define BOLLARD_SITE_SETTINGS_H

/* Returns 1 when Slurm's own OCI code is set up, that is when oci.conf(5) is beside slurm.conf; else 0. Runs in the
 * client as the user, and in slurmstepd as root; looks only whether the file is there. */
int slurm_has_oci_conf(void);

/* Returns 1 when the site's settings (runtime/request/site.py) hold the text `line`, or cannot be read. Returns 0 when
 * they do not, and without settings. Runs as the user. */
int site_says(const char *line);

#endif
