// How long the loop stands still: a turn that takes long keeps everybody waiting, devices and broker alike.
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#define LOOP_LAG_SECONDS 60  // that are remembered
#define LOOP_LAG_WARNED  100 // milliseconds of a turn from which on the log says so, once in that time

struct loop_lag {
    uv_check_t woken;                   // what came is handled from here on
    uv_prepare_t waits;                 // and now all of it is done
    uint64_t woken_at;                  // milliseconds of a clock that does not jump; 0: not yet
    uint64_t second;                    // the last one that is in longest
    uint64_t said;                      // in the log, by the same clock; 0: never
    uint32_t longest[LOOP_LAG_SECONDS]; // milliseconds of the longest turn of each second
};

// Begins to measure; before others prepare their turns, so that they are measured too. It does not keep the loop
// alive. All memory stays the caller's.
void loop_lag_begin(struct loop_lag *lag, uv_loop_t *loop);
void loop_lag_end(struct loop_lag *lag); // closes the handles

// Milliseconds of the longest turn of the last minute.
uint32_t loop_lag_longest(struct loop_lag *lag);

// Notes a turn that took so many milliseconds and ended at now, by such a clock. Returns whether the log is to say so.
// For loop_lag_begin() and tests.
bool loop_lag_note(struct loop_lag *lag, uint64_t now, uint32_t took);
// The same as loop_lag_longest() at that time.
uint32_t loop_lag_longest_at(struct loop_lag *lag, uint64_t now);
