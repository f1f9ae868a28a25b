// What these tests use of Criterion, for machines where Criterion is not to be had (Debian's armhf) or cannot start its tests
// (an emulator that runs one program): each test in a process of its own, one after the other. See ../runner.c.
#ifndef SMALL_RUNNER_CRITERION_H
#define SMALL_RUNNER_CRITERION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

struct criterion_options {
    void (*init)(void);
    void (*fini)(void);
    double timeout; // seconds; 0: the suite's, or none
};

struct criterion_test_params {
    size_t size; // of each
    void *params;
    size_t length; // how many
};

struct criterion_case {
    const char *file, *suite, *name; // name: NULL for a suite, whose options are for all of its tests
    void (*run)(void);
    void (*run_with)(void *parameter);
    struct criterion_test_params (*parameters)(void);
    struct criterion_options options;
    struct criterion_case *next;
};

void criterion_add(struct criterion_case *added);
void criterion_check(bool holds, bool go_on, const char *file, int line, const char *what, const char *format,
                     ...);
_Noreturn void criterion_skip(const char *format, ...);

#define CRITERION_CASE(id, ...)                                                                              \
    __attribute__((constructor)) static void id##_add(void) {                                                \
        static struct criterion_case added = {__VA_ARGS__};                                                  \
        criterion_add(&added);                                                                               \
    }

#define TestSuite(suite_, ...)                                                                               \
    CRITERION_CASE(suite_##_suite, .file = __FILE__, .suite = #suite_, .options = {__VA_ARGS__})             \
    struct criterion_case

#define Test(suite_, name_, ...)                                                                             \
    static void suite_##_##name_##_run(void);                                                                \
    CRITERION_CASE(suite_##_##name_, .file = __FILE__, .suite = #suite_, .name = #name_,                     \
                   .run = suite_##_##name_##_run, .options = {__VA_ARGS__})                                  \
    static void suite_##_##name_##_run(void)

#define CRITERION_CHECK(go_on, holds, what, ...)                                                             \
    criterion_check(holds, go_on, __FILE__, __LINE__, what, "" __VA_ARGS__)

#define cr_assert(condition, ...)     CRITERION_CHECK(false, condition, #condition, __VA_ARGS__)
#define cr_expect(condition, ...)     CRITERION_CHECK(true, condition, #condition, __VA_ARGS__)
#define cr_assert_not(condition, ...) CRITERION_CHECK(false, !(condition), "not " #condition, __VA_ARGS__)
#define cr_expect_not(condition, ...) CRITERION_CHECK(true, !(condition), "not " #condition, __VA_ARGS__)
#define cr_assert_fail(...)           CRITERION_CHECK(false, false, "fail", __VA_ARGS__)
#define cr_skip_test(...)             criterion_skip("" __VA_ARGS__)
#define cr_assert_eq(a, b, ...)       CRITERION_CHECK(false, (a) == (b), #a " == " #b, __VA_ARGS__)
#define cr_assert_neq(a, b, ...)      CRITERION_CHECK(false, (a) != (b), #a " != " #b, __VA_ARGS__)
#define cr_assert_lt(a, b, ...)       CRITERION_CHECK(false, (a) < (b), #a " < " #b, __VA_ARGS__)
#define cr_assert_leq(a, b, ...)      CRITERION_CHECK(false, (a) <= (b), #a " <= " #b, __VA_ARGS__)
#define cr_assert_gt(a, b, ...)       CRITERION_CHECK(false, (a) > (b), #a " > " #b, __VA_ARGS__)
#define cr_assert_geq(a, b, ...)      CRITERION_CHECK(false, (a) >= (b), #a " >= " #b, __VA_ARGS__)
#define cr_assert_null(a, ...)        CRITERION_CHECK(false, (a) == NULL, #a " is NULL", __VA_ARGS__)
#define cr_assert_not_null(a, ...)    CRITERION_CHECK(false, (a) != NULL, #a " is not NULL", __VA_ARGS__)
#define cr_assert_str_empty(a, ...)   CRITERION_CHECK(false, *(a) == '\0', #a " is empty", __VA_ARGS__)
#define cr_assert_str_eq(a, b, ...)   CRITERION_CHECK(false, strcmp(a, b) == 0, #a " is " #b, __VA_ARGS__)
#define cr_assert_str_neq(a, b, ...)  CRITERION_CHECK(false, strcmp(a, b) != 0, #a " is not " #b, __VA_ARGS__)
#define cr_assert_arr_eq(a, b, size, ...)                                                                    \
    CRITERION_CHECK(false, memcmp(a, b, size) == 0, #a " is " #b, __VA_ARGS__)
#define cr_expect_eq(a, b, ...)      CRITERION_CHECK(true, (a) == (b), #a " == " #b, __VA_ARGS__)
#define cr_expect_neq(a, b, ...)     CRITERION_CHECK(true, (a) != (b), #a " != " #b, __VA_ARGS__)
#define cr_expect_null(a, ...)       CRITERION_CHECK(true, (a) == NULL, #a " is NULL", __VA_ARGS__)
#define cr_expect_not_null(a, ...)   CRITERION_CHECK(true, (a) != NULL, #a " is not NULL", __VA_ARGS__)
#define cr_expect_lt(a, b, ...)      CRITERION_CHECK(true, (a) < (b), #a " < " #b, __VA_ARGS__)
#define cr_expect_leq(a, b, ...)     CRITERION_CHECK(true, (a) <= (b), #a " <= " #b, __VA_ARGS__)
#define cr_expect_geq(a, b, ...)     CRITERION_CHECK(true, (a) >= (b), #a " >= " #b, __VA_ARGS__)
#define cr_expect_str_eq(a, b, ...)  CRITERION_CHECK(true, strcmp(a, b) == 0, #a " is " #b, __VA_ARGS__)
#define cr_expect_str_neq(a, b, ...) CRITERION_CHECK(true, strcmp(a, b) != 0, #a " is not " #b, __VA_ARGS__)

#endif
