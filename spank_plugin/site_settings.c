/* SPDX-License-Identifier: BSD-3-Clause */
/* What the plugin asks of the site's settings: of Slurm's, and of bollard's own. */
#include "site_settings.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int slurm_has_oci_conf(void)
{
	const char *conf = getenv("SLURM_CONF"), *slash = conf ? strrchr(conf, '/') : NULL;
	char path[PATH_MAX];
	int size = snprintf(path, sizeof(path), "%.*s/oci.conf", slash ? (int) (slash - conf) : (int) strlen("/etc/slurm"),
			    slash ? conf : "/etc/slurm");

	return size > 0 && (size_t) size < sizeof(path) && access(path, F_OK) == 0;
}

int site_says(const char *line)
{
	int fd = open(BOLLARD_PREFIX "/site.conf", O_RDONLY | O_CLOEXEC);
	char text[65536];
	ssize_t size;

	if (fd < 0)
		return errno != ENOENT;
	size = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (size < 0 || size == (ssize_t) sizeof(text) - 1)
		return 1;
	text[size] = '\0';
	return strstr(text, line) != NULL;
}
