// Whether a service is asked at all: after three failures in a row, or one refusal, there is a pause, longer each time, and
// then one question tries it. All times in milliseconds, by a clock that only goes forward. Begins all zero.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define BREAKER_FAILURES  3
#define BREAKER_PAUSE_MIN 1000
#define BREAKER_PAUSE_MAX 300000
#define BREAKER_ASKED_MAX 3600000 // pause that the service itself may ask for

struct breaker {
    unsigned failures; // in a row
    unsigned pause;    // the last one; 0: it is not paused
    uint64_t until;    // of the pause
    bool trying;       // one question is under way to try it
};

// Whether a question may be asked now.
bool breaker_allows(const struct breaker *breaker, uint64_t now);
// One is asked.
void breaker_asked(struct breaker *breaker);

// It has answered. True when that ends a pause.
bool breaker_answered(struct breaker *breaker);

// It has failed, or refused; wished is the pause that it asks for, or 0. random: any number. Returns the pause that begins
// with it, or 0.
unsigned breaker_failed(struct breaker *breaker, uint64_t now, bool refused, uint64_t wished,
                        unsigned random);
