// How fast the broker lets us publish: without a bound until it complains (message rate too high, quota
// exceeded); then half of what was sent lately, and slowly more while it does not complain again. All times
// in milliseconds, by a clock that only goes forward.
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum { PACE_SECONDS = 4 };

struct pace {
    double rate;      // publishes per second; 0: without a bound
    double complaint; // the rate that was too high the last time
    double tokens;
    uint64_t filled; // when tokens was right
    uint64_t second; // the last one in counts
    unsigned counts[PACE_SECONDS];
};

// Whether one more may be sent now.
bool pace_allows(struct pace *pace, uint64_t now);
// One was sent.
void pace_sent(struct pace *pace, uint64_t now);
// The broker has complained of what was sent lately.
void pace_complaint(struct pace *pace, uint64_t now);
// Milliseconds, at least 1, until one more may be sent.
uint64_t pace_wait(const struct pace *pace);
