// Memory that is there or ends the program: a gateway that cannot have 100 bytes cannot keep its promises
// either, and what it had not acknowledged the devices send again.
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
