// Limits how often something happens for one source: log lines for the same fault, datagrams from one
// address. Memory is fixed: sources share a place when their hashes do, and so a limit, which under a flood
// of forged addresses is what one wants.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LIMITER_PLACES   4096
#define LIMITER_NOTE_MAX 48
#define LOG_LINES        20 // about the same thing from one source, a second

struct limiter {
    unsigned per_second;
    struct limiter_place {
        uint64_t second;
        unsigned count;
        unsigned suppressed;
    } places[LIMITER_PLACES];
};

// Whether the source (any bytes) may do it once more in this second; now is in milliseconds. When it may,
// *suppressed (or NULL) is how many times it might not since it last might.
bool limiter_allows(struct limiter *limiter, uint64_t now, const void *source, size_t length,
                    unsigned *suppressed);

// Writes what a log line says of those before it that were suppressed: nothing when there were none. note has
// LIMITER_NOTE_MAX bytes and is returned.
char *limiter_note(unsigned suppressed, char *note);
