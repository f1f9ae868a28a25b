// How long to wait before connecting again: longer each time, and from the beginning only after a connection
// that has lasted. All times in milliseconds, by a clock that only goes forward.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define BACKOFF_LASTING 30000 // that a connection must last to count as a good one

struct backoff {
    unsigned next;     // 0: from the beginning
    uint64_t up_since; // 0: it is not up
    bool reached;      // the broker was there before: an outage, which should be over soon
    bool contested;    // another client takes the connection away from us
};

void backoff_up(struct backoff *backoff, uint64_t now);
// Returns whether it has lasted.
bool backoff_down(struct backoff *backoff, uint64_t now);
// The broker has refused a message for good on this connection: when it ends the connection as well, it is no
// outage, and the next one, which comes at once (within 0.2 s), brings the rest.
void backoff_got_on(struct backoff *backoff);
void backoff_contested(struct backoff *backoff);

// Returns how long to wait this time: at most 5 s after an outage, otherwise 30 s. random: any number.
unsigned backoff_delay(struct backoff *backoff, unsigned random);
