// Folders for the files of tests; see temporary.h.
#include "tests/temporary.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

void make_temporary(char path[TEMPORARY_MAX], const char *name) {
    const char *parent = getenv("TMPDIR");
    int length =
        snprintf(path, TEMPORARY_MAX, "%s/trackbus-%s-XXXXXX", parent != NULL ? parent : "/tmp", name);
    cr_assert(length < TEMPORARY_MAX, "the path of TMPDIR is too long: %s", parent);
    cr_assert(mkdtemp(path) != NULL, "%s", path);
}
