// Folders for the files of tests; see temporary.h.
#include "tests/temporary.h"

#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

void make_temporary(char path[TEMPORARY_MAX], const char *name) {
    const char *parent = getenv("TMPDIR");
    int length =
        snprintf(path, TEMPORARY_MAX, "%s/trackbus-%s-XXXXXX", parent != NULL ? parent : "/tmp", name);
    cr_assert(length < TEMPORARY_MAX, "the path of TMPDIR is too long: %s", parent);
    cr_assert(mkdtemp(path) != NULL, "%s", path);
}

void let_files_grow(bool may) {
    struct rlimit limit = {.rlim_cur = may ? RLIM_INFINITY : 0, .rlim_max = RLIM_INFINITY};
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &limit);
}
