// The clocks: the wall's, for what people and devices are told, and one that does not jump, for deadlines.
#pragma once

#include <stdint.h>

// The wall clock: microseconds since 1970. It jumps, forward by decades when a machine without a battery for its
// clock hears the time, and back too.
int64_t clock_now(void);

// Microseconds since the machine was started, the time that it was suspended included.
int64_t clock_ticks(void);
