// Allocations that succeed, or the program ends: a gateway that cannot get 100 bytes cannot keep its promises
// either, and devices send again what it has not acknowledged.
#pragma once

#include <stdio.h>
#include <stdlib.h>

static inline void *must_have(void *memory) {
    if (memory == NULL) {
        fputs("trackbus: out of memory\n", stderr);
        abort();
    }
    return memory;
}
