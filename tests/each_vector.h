// A test that runs for each vector: FOR_EACH_VECTOR(suite, name) { … uses vector … }
//
// A process for each vector would take longer than its test: each process takes every so many-th. Where the
// work grows with the square of a vector's length, FOR_EACH_VECTOR_SHARED(suite, name) gives every vector to
// every process, and the test takes every SHARES-th of its cases, beginning with number share. Parameters are
// indexes, because pointers in a parameter crash in position-independent programs.
#pragma once

#include <criterion/parameterized.h>

#include "tests/vector.h"

#define SHARES 12

static struct criterion_test_params all_shares(void) {
    static size_t shares[SHARES];
    for (size_t i = 0; i < SHARES; i++)
        shares[i] = i;
    return cr_make_param_array(size_t, shares, SHARES);
}

static void run_share(size_t share, void (*test)(const struct vector *vector)) {
    size_t count;
    const struct vector *vectors = vectors_all(&count);
    for (size_t i = share; i < count; i += SHARES)
        test(&vectors[i]);
}

#define FOR_EACH_VECTOR(suite, name)                                                                         \
    static void name(const struct vector *vector);                                                           \
    ParameterizedTestParameters(suite, name) {                                                               \
        return all_shares();                                                                                 \
    }                                                                                                        \
    ParameterizedTest(size_t *share, suite, name) {                                                          \
        run_share(*share, name);                                                                             \
    }                                                                                                        \
    static void name(const struct vector *vector)

#define FOR_EACH_VECTOR_SHARED(suite, name)                                                                  \
    static void name(const struct vector *vector, size_t share);                                             \
    ParameterizedTestParameters(suite, name) {                                                               \
        return all_shares();                                                                                 \
    }                                                                                                        \
    ParameterizedTest(size_t *share, suite, name) {                                                          \
        size_t count;                                                                                        \
        const struct vector *vectors = vectors_all(&count);                                                  \
        for (size_t i = 0; i < count; i++)                                                                   \
            name(&vectors[i], *share);                                                                       \
    }                                                                                                        \
    static void name(const struct vector *vector, size_t share)
