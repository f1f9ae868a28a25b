// The wall clock. Not for deadlines: they come from the clock of the loop (uv_now()).
#pragma once

#include <stdint.h>

// Microseconds since 1970.
int64_t clock_now(void);
