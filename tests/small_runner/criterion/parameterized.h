// Tests that run once for each parameter; see criterion.h.
#ifndef SMALL_RUNNER_PARAMETERIZED_H
#define SMALL_RUNNER_PARAMETERIZED_H

#include "criterion.h"

#define cr_make_param_array(type, array, count)                                                              \
    ((struct criterion_test_params){.size = sizeof(type), .params = (void *)(array), .length = (count)})

#define ParameterizedTestParameters(suite_, name_)                                                           \
    static struct criterion_test_params suite_##_##name_##_parameters(void)

#define ParameterizedTest(parameter, suite_, name_, ...)                                                     \
    static void suite_##_##name_##_run(parameter);                                                           \
    static void suite_##_##name_##_run_with(void *each) {                                                    \
        suite_##_##name_##_run(each);                                                                        \
    }                                                                                                        \
    CRITERION_CASE(suite_##_##name_, .file = __FILE__, .suite = #suite_, .name = #name_,                     \
                   .run_with = suite_##_##name_##_run_with, .parameters = suite_##_##name_##_parameters,     \
                   .options = {__VA_ARGS__})                                                                 \
    static void suite_##_##name_##_run(parameter)

#endif
