// A folder of a test's own for its files, in TMPDIR.
#ifndef TESTS_TEMPORARY_H
#define TESTS_TEMPORARY_H

#define TEMPORARY_MAX 64 // bytes of its path, with the 0

// Makes it; the test removes it. name: what the test is about.
void make_temporary(char path[TEMPORARY_MAX], const char *name);

#endif
