// Runs the tests where Criterion cannot: runner [--filter PATTERN] [--without FOLDER]… [--list suites], with suite/test for a pattern,
// and a folder whose tests are left out. Prints what fails and a last line as Criterion's; exits 0 when nothing failed. With --list it
// runs nothing and prints the names of the suites, one a line.
#include <fnmatch.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "criterion/criterion.h"

#define SKIPPED     77  // exit code of a test that left itself out
#define FACTOR      10  // an emulator is slower than what the timeouts are for
#define TIMEOUT     120 // seconds, where a test names none
#define WITHOUT_MAX 16

static struct criterion_case *cases;
static const char *filter = "*", *without[WITHOUT_MAX];
static size_t without_count;
static bool lists;
static bool failed; // of the test that runs
static unsigned tested, passing, crashing, skipped;

void criterion_add(struct criterion_case *added) {
    added->next = cases;
    cases = added;
}

void criterion_check(bool holds, bool go_on, const char *file, int line, const char *what, const char *format,
                     ...) {
    if (holds)
        return;
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "%s:%d: not so: %s  ", file, line, what);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    failed = true;
    if (!go_on)
        exit(EXIT_FAILURE);
}

void criterion_skip(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(SKIPPED);
}

static bool is_wanted(const struct criterion_case *test) {
    char name[256];
    snprintf(name, sizeof name, "%s/%s", test->suite, test->name);
    for (size_t i = 0; i < without_count; i++)
        if (strstr(test->file, without[i]) != NULL)
            return false;
    return fnmatch(filter, name, 0) == 0;
}

// What the suite says holds for a test that says nothing.
static struct criterion_options options_of(const struct criterion_case *test) {
    struct criterion_options options = test->options;
    for (const struct criterion_case *suite = cases; suite != NULL; suite = suite->next) {
        if (suite->name != NULL || strcmp(suite->suite, test->suite) != 0)
            continue;
        options.init = options.init != NULL ? options.init : suite->options.init;
        options.fini = options.fini != NULL ? options.fini : suite->options.fini;
        options.timeout = options.timeout > 0 ? options.timeout : suite->options.timeout;
    }
    return options;
}

static _Noreturn void run_here(const struct criterion_case *test, void *parameter) {
    struct criterion_options options = options_of(test);
    alarm(FACTOR * (unsigned)(options.timeout > 0 ? options.timeout : TIMEOUT));
    if (options.init != NULL)
        options.init();
    if (parameter != NULL)
        test->run_with(parameter);
    else
        test->run();
    if (options.fini != NULL)
        options.fini();
    exit(failed ? EXIT_FAILURE : EXIT_SUCCESS);
}

static void count(const struct criterion_case *test, int status) {
    tested++;
    if (WIFEXITED(status) && WEXITSTATUS(status) == EXIT_SUCCESS) {
        passing++;
        return;
    }
    if (WIFEXITED(status) && WEXITSTATUS(status) == SKIPPED) {
        skipped++;
        return;
    }
    crashing += WIFSIGNALED(status);
    printf("[FAIL] %s::%s %s %d\n", test->suite, test->name, WIFSIGNALED(status) ? "signal" : "exit code",
           WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
}

static void run(const struct criterion_case *test, void *parameter) {
    int status;
    fflush(NULL);
    pid_t process = fork();
    if (process == 0)
        run_here(test, parameter);
    if (process > 0 && waitpid(process, &status, 0) == process)
        count(test, status);
    else
        exit(2);
}

static void run_each(const struct criterion_case *test) {
    if (test->parameters == NULL) {
        run(test, NULL);
        return;
    }
    struct criterion_test_params parameters = test->parameters();
    for (size_t i = 0; i < parameters.length; i++)
        run(test, (char *)parameters.params + i * parameters.size);
}

static void read_arguments(int count, char **arguments) {
    for (int i = 1; i + 1 < count; i += 2) {
        if (strcmp(arguments[i], "--filter") == 0)
            filter = arguments[i + 1];
        else if (strcmp(arguments[i], "--without") == 0 && without_count < WITHOUT_MAX)
            without[without_count++] = arguments[i + 1];
        else if (strcmp(arguments[i], "--list") == 0)
            lists = true;
        else
            exit(2);
    }
}

static bool was_before(const struct criterion_case *test) {
    for (const struct criterion_case *before = cases; before != test; before = before->next)
        if (before->name != NULL && is_wanted(before) && strcmp(before->suite, test->suite) == 0)
            return true;
    return false;
}

static void list_suites(void) {
    for (const struct criterion_case *test = cases; test != NULL; test = test->next)
        if (test->name != NULL && is_wanted(test) && !was_before(test))
            puts(test->suite);
}

int main(int count, char **arguments) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    read_arguments(count, arguments);
    if (lists) {
        list_suites();
        return EXIT_SUCCESS;
    }
    for (const struct criterion_case *test = cases; test != NULL; test = test->next)
        if (test->name != NULL && is_wanted(test))
            run_each(test);
    unsigned failing = tested - passing - skipped;
    printf("[====] Synthesis: Tested: %u | Passing: %u | Failing: %u | Crashing: %u \n", tested - skipped,
           passing, failing, crashing);
    return failing == 0 && passing > 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
