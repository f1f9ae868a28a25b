// Allocations that succeed, or the program ends: a gateway that cannot get 100 bytes cannot keep its promises
// either, and devices send again what it has not acknowledged.
#pragma once

#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>

static inline void *must_have(void *memory) {
    if (memory == NULL) {
        fputs("trackbus: out of memory\n", stderr);
        abort();
    }
    return memory;
}

// glibc keeps small pieces that were freed apart, and joins all of them at once when somebody asks for a large one: 18 ms
// after a registry of 100,000 devices was replaced. From now on each is joined when it is freed. Where M_MXFAST is not
// known, nothing is kept apart.
static inline void memory_join_at_once(void) {
#ifdef M_MXFAST
    mallopt(M_MXFAST, 0);
#endif
}
