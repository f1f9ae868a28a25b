// Counts what the program takes from the heap, whoever takes it: the program itself or the C library for it.
#pragma once

#include <stddef.h>

// How often malloc(), calloc() and realloc() were called until now; to compare two counts.
size_t allocations_count(void);
