// Limits per source; see limiter.h.
#include "gateway/base/limiter.h"

#include <stdio.h>

#include "gateway/base/hash.h"

static size_t place_of(const void *source, size_t length) {
    uint64_t hash = hash_fnv1a(source, length);
    return (size_t)(hash ^ hash >> 32) % LIMITER_PLACES;
}

bool limiter_allows(struct limiter *limiter, uint64_t now, const void *source, size_t length,
                    unsigned *suppressed) {
    struct limiter_place *place = &limiter->places[place_of(source, length)];
    if (place->second != now / 1000) {
        place->second = now / 1000;
        place->count = 0;
    }
    if (place->count >= limiter->per_second) {
        place->suppressed++;
        return false;
    }
    place->count++;
    if (suppressed != NULL) {
        *suppressed = place->suppressed;
        place->suppressed = 0;
    }
    return true;
}

char *limiter_note(unsigned suppressed, char *note) {
    note[0] = '\0';
    if (suppressed > 0)
        snprintf(note, LIMITER_NOTE_MAX, " (and %u more like it before)", suppressed);
    return note;
}
