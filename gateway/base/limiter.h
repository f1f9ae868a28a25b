// Limits how often something happens per source: log lines about the same fault, datagrams from one address.
// Memory is fixed: sources whose hashes collide share a place and so a limit. Under a flood of forged
// addresses that is what we want; which ones collide is another in each run.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LIMITER_PLACES   4096
#define LIMITER_NOTE_MAX 48

struct limiter {
    unsigned per_second;
    uint64_t key[2]; // all zero: to be chosen
    struct limiter_place {
        uint64_t second;
        unsigned count;
        unsigned suppressed;
    } places[LIMITER_PLACES];
};

// Whether the source (any bytes) may do it once more in this second; now is in milliseconds. If so,
// *suppressed (may be NULL) is how often it was refused since the last time it was allowed.
bool limiter_allows(struct limiter *limiter, uint64_t now, const void *source, size_t length,
                    unsigned *suppressed);

// The source has done more of it at once than was asked for: so often.
void limiter_charge(struct limiter *limiter, uint64_t now, const void *source, size_t length, unsigned times);

// Whether the source has done it as often in this second as it may.
bool limiter_is_spent(struct limiter *limiter, uint64_t now, const void *source, size_t length);

// Whether the source has done it in this second, however often.
bool limiter_has_counted(struct limiter *limiter, uint64_t now, const void *source, size_t length);

// SipHash-2-4 of the bytes, with a key.
uint64_t limiter_hash(const uint64_t key[2], const void *bytes, size_t length);

// Writes what a log line adds about suppressed lines before it; an empty text when there were none. note has
// LIMITER_NOTE_MAX bytes and is returned.
char *limiter_note(unsigned suppressed, char *note);
