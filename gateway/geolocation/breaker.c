// Whether a service is asked; see breaker.h.
#include "gateway/geolocation/breaker.h"

bool breaker_allows(const struct breaker *breaker, uint64_t now) {
    return breaker->pause == 0 || (now >= breaker->until && !breaker->trying);
}

void breaker_asked(struct breaker *breaker) {
    breaker->trying = breaker->pause != 0;
}

// What was under way when the pause began says nothing about its end.
static bool is_of_before(const struct breaker *breaker) {
    return breaker->pause != 0 && !breaker->trying;
}

bool breaker_answered(struct breaker *breaker) {
    if (is_of_before(breaker))
        return false;
    bool paused = breaker->pause != 0;
    *breaker = (struct breaker){.failures = 0};
    return paused;
}

unsigned breaker_failed(struct breaker *breaker, uint64_t now, bool refused, uint64_t wished,
                        unsigned random) {
    if (is_of_before(breaker) ||
        (++breaker->failures < BREAKER_FAILURES && breaker->pause == 0 && !refused && wished == 0))
        return 0;
    unsigned pause = breaker->pause == 0 ? BREAKER_PAUSE_MIN : breaker->pause * 2;
    pause = pause < BREAKER_PAUSE_MAX ? pause : BREAKER_PAUSE_MAX;
    breaker->pause = pause;
    wished = wished < BREAKER_ASKED_MAX ? wished : BREAKER_ASKED_MAX;
    uint64_t waits = pause + random % (pause / 4);
    waits = waits > wished ? waits : wished;
    breaker->until = now + waits;
    breaker->trying = false;
    return (unsigned)waits;
}
