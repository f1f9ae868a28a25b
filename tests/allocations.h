// Counts what the program takes from the heap, directly or through the C library.
#pragma once

#include <stddef.h>

// How often malloc(), calloc() and realloc() have been called so far; for comparing two counts.
size_t allocations_count(void);
// How many bytes were asked for by these.
size_t allocations_bytes(void);
