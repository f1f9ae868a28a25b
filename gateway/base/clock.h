// The clocks: the wall's, for what people and devices are told, and one that does not jump, for deadlines.
#pragma once

#include <stdbool.h>
#include <stdint.h>

// The wall clock: microseconds since 1970. It jumps, forward by decades when a machine without a battery for its
// clock hears the time, and back too.
int64_t clock_now(void);

// Microseconds since the machine was started, the time that it was suspended included.
int64_t clock_ticks(void);

// Both clocks at one time, for what is kept beyond the end of the program.
struct clock_mark {
    char boot[40]; // says which start of the machine ticks count from; empty: not known
    int64_t ticks, wall;
};
struct clock_mark clock_mark(void);

// A time by clock_ticks() that was written together with the mark then, by the clock of the mark now. Within one
// start of the machine it is the same. After another one what was left is left, less what has passed by the wall
// clock, as far as that can be believed: a clock that had not heard the time yet says nothing.
int64_t clock_carry_over(int64_t ticks, const struct clock_mark *then, const struct clock_mark *now);

// Whether that may be a time of the wall clock: one that was never set begins in 1970.
bool clock_is_set(int64_t wall);
