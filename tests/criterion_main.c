// Criterion's program, which must not say that all is well where no test has the name that was asked for.
#include <criterion/criterion.h>
#include <criterion/hooks.h>
#include <stdio.h>

static size_t ran;

ReportHook(POST_ALL)(struct criterion_global_stats *stats) {
    ran = stats->nb_tests - stats->tests_skipped;
}

int main(int count, char **arguments) {
    struct criterion_test_set *tests = criterion_initialize();
    int result = 0;
    if (criterion_handle_args(count, arguments, true)) {
        result = !criterion_run_all_tests(tests);
        if (ran == 0) {
            fprintf(
                stderr,
                "no test was run: none has a name like that, or those that have are not for this machine\n");
            result = 2;
        }
    }
    criterion_finalize(tests);
    return result;
}
