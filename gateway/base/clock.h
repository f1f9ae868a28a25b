// The wall clock. Deadlines never come from it: those are the loop's (uv_now()).
#pragma once

#include <stdint.h>

// Microseconds since 1970.
int64_t clock_now(void);
