/* SPDX-License-Identifier: BSD-3-Clause */
/* The pre-flight's verdict on an image, as text: runtime/preflight/verdict.py explains its form. */
#ifndef BOLLARD_VERDICT_H
#define BOLLARD_VERDICT_H

/* Returns the cached verdict on the image at the path `image`, for the caller to free. NULL when there is none of
 * this release, or when another user may have written it. */
char *cached_verdict(const char *image);

/* Returns the words behind `begin` in the first line of the verdict that begins so, printable, for the caller to free;
 * NULL for none. */
char *verdict_line(const char *text, const char *begin);

/* The family of a program that the image does not have: verdict.py's MISSING. */
#define PROGRAM_MISSING "?"

/* Returns the family of a program that the verdict names, as a constant. "" for a program without MPI, PROGRAM_MISSING
 * for one that the image does not have, NULL when the verdict does not name the program. */
const char *program_family(const char *text, const char *program);

#endif
