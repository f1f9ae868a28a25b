// A folder of a test's own for its files, in TMPDIR.
#ifndef TESTS_TEMPORARY_H
#define TESTS_TEMPORARY_H

#include <stdbool.h>

#define TEMPORARY_MAX 64 // bytes of its path, with the 0

// Makes it; the test removes it. name: what the test is about.
void make_temporary(char path[TEMPORARY_MAX], const char *name);

// Whether files of this process may grow, those that it logs to included. When not, that is as good as a full disk.
void let_files_grow(bool may);

#endif
