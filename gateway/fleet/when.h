// Times and ages as people read them.
#pragma once

#include <stdint.h>

#define WHEN_MAX 32 // bytes of a time or an age

// Local time without zone, "2026-11-21T09:05:07"; "-" when there is none. time is microseconds since 1970.
const char *when_time(int64_t time, char out[WHEN_MAX]);

// How long ago that was, rounded down to a whole unit: "12 s", "59 min", "23 h", "3 d".
const char *when_age(int64_t microseconds, char out[WHEN_MAX]);
