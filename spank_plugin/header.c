/* SPDX-License-Identifier: BSD-3-Clause */
/* The header of a spec. Root reads it from a text that a user may have written. So each byte is compared with the
 * allowed ones, nothing is searched for, and no length is read from the text. */
#define _GNU_SOURCE
#include "header.h"

#include <stdio.h>
#include <string.h>

static const char *const modes[] = { MODE_AUTO, MODE_CREATE, MODE_EXEC, MODE_NO_EXEC };

/* Moves `at` behind `word`. Returns 0, or -1 when `word` is not there; so do the functions below. */
static int skip(const char **at, const char *word)
{
	size_t size = strlen(word);

	if (strncmp(*at, word, size) != 0)
		return -1;
	*at += size;
	return 0;
}

static int is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static int may_be_in_a_name(char c)
{
	return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c && strchr(NAME_MARKS, c));
}

/* Reads " KEY0" or " KEY1". */
static int read_switch(const char **at, const char *key, int *value)
{
	if (skip(at, " ") < 0 || skip(at, key) < 0 || (**at != '0' && **at != '1'))
		return -1;
	*value = *(*at)++ == '1';
	return 0;
}

/* Reads " KEYword" into `word`, which has room for `most` bytes and a NUL. */
static int read_word(const char **at, const char *key, int (*allowed)(char), char *word, size_t most)
{
	size_t size = 0;

	if (skip(at, " ") < 0 || skip(at, key) < 0)
		return -1;
	for (; allowed(**at); (*at)++) {
		if (size == most)
			return -1;
		word[size++] = **at;
	}
	word[size] = '\0';
	return 0;
}

/* Stores the mode named `word`. */
static int find_mode(const char *word, enum mode *mode)
{
	for (size_t i = 0; i < sizeof(modes) / sizeof(*modes); i++)
		if (strcmp(word, modes[i]) == 0) {
			*mode = (enum mode) i;
			return 0;
		}
	return -1;
}

/* Reads " cwd=VALUE"; no byte of the value is a space. */
static int read_cwd(const char **at, struct header *header)
{
	if (skip(at, " ") < 0)
		return -1;
	header->cwd = *at;
	if (skip(at, HEADER_CWD) < 0)
		return -1;
	while (**at > ' ' && **at <= '~')
		(*at)++;
	header->cwd_size = (size_t) (*at - header->cwd);
	return header->cwd_size < CWD_MAX ? 0 : -1;
}

const char *read_header(const char *spec, struct header *header)
{
	const char *at = spec;
	char mode[16];

	memset(header, 0, sizeof(*header));
	if (skip(&at, HEADER_VERSION) < 0 || read_switch(&at, HEADER_ROOT, &header->root) < 0 ||
	    read_switch(&at, HEADER_IMAGE, &header->image) < 0 ||
	    read_switch(&at, HEADER_MULTI_PROG, &header->multi_prog) < 0 ||
	    read_word(&at, HEADER_VERBOSE, is_digit, header->verbose, sizeof(header->verbose) - 1) < 0 ||
	    read_word(&at, HEADER_NAME, may_be_in_a_name, header->name, sizeof(header->name) - 1) < 0 ||
	    read_word(&at, HEADER_MODE, may_be_in_a_name, mode, sizeof(mode) - 1) < 0 ||
	    find_mode(mode, &header->mode) < 0 || read_cwd(&at, header) < 0 || skip(&at, " " HEADER_END " ") < 0)
		return NULL;
	if (!header->name[0] && header->mode != AUTO)
		return NULL;
	for (const char *c = at; *c; c++)
		if (*c < ' ' || *c > '~')
			return NULL;
	return at;
}

char *write_header(const struct header *header)
{
	char *text;

	if (asprintf(&text, HEADER_VERSION " " HEADER_ROOT "%d " HEADER_IMAGE "%d " HEADER_MULTI_PROG "%d "
		     HEADER_VERBOSE "%s " HEADER_NAME "%s " HEADER_MODE "%s " HEADER_CWD "%.*s " HEADER_END " ", header->root != 0,
		     header->image != 0, header->multi_prog != 0, header->verbose, header->name,
		     modes[header->mode], (int) header->cwd_size, header->cwd ? header->cwd : "") < 0)
		return NULL;
	return text;
}

int parse_name(const char *text, struct header *header)
{
	size_t size = 0;

	for (; may_be_in_a_name(text[size]); size++) {
		if (size == sizeof(header->name) - 1)
			return -1;
		header->name[size] = text[size];
	}
	header->name[size] = '\0';
	header->mode = AUTO;
	if (size == 0 || (text[size] && text[size] != ':'))
		return -1;
	if (!text[size] || !text[size + 1])
		return 0;
	return find_mode(text + size + 1, &header->mode);
}
