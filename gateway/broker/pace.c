// How fast the broker lets us publish; see pace.h.
#include "gateway/broker/pace.h"

#include <math.h>

#define RATE_MIN  1.0
#define RATE_MAX  50000.0 // beyond it there is no bound any more
#define BURST     0.1     // seconds whose publishes may go out at once
#define RISE      0.05    // of the rate, each second
#define RISE_NEAR 0.01    // the same near the rate that was too high
#define NEAR      0.9     // of the rate that was too high
#define STEP_MAX  10.0    // seconds that the rate rises at once

// Forgets the seconds that are over.
static void advance(struct pace *pace, uint64_t now) {
    uint64_t second = now / 1000;
    for (unsigned i = 0; pace->second < second && i < PACE_SECONDS; i++)
        pace->counts[++pace->second % PACE_SECONDS] = 0;
    pace->second = second;
}

static void rise(struct pace *pace, double seconds) {
    double share = pace->rate < pace->complaint * NEAR ? RISE : RISE_NEAR;
    pace->rate *= 1 + share * fmin(seconds, STEP_MAX);
    if (pace->rate > RATE_MAX)
        pace->rate = 0;
}

static void fill(struct pace *pace, uint64_t now) {
    double seconds = (double)(now - pace->filled) / 1000;
    pace->filled = now;
    rise(pace, seconds);
    pace->tokens = fmin(pace->tokens + seconds * pace->rate, fmax(pace->rate * BURST, 1));
}

bool pace_allows(struct pace *pace, uint64_t now) {
    if (pace->rate > 0)
        fill(pace, now);
    return pace->rate <= 0 || pace->tokens >= 1;
}

void pace_sent(struct pace *pace, uint64_t now) {
    advance(pace, now);
    pace->counts[now / 1000 % PACE_SECONDS]++;
    pace->tokens -= 1;
}

// The busiest of the last seconds.
static double sent_lately(struct pace *pace, uint64_t now) {
    unsigned most = 0;
    advance(pace, now);
    for (unsigned i = 0; i < PACE_SECONDS; i++)
        most = pace->counts[i] > most ? pace->counts[i] : most;
    return most;
}

void pace_complaint(struct pace *pace, uint64_t now) {
    double sent = sent_lately(pace, now);
    // Within a bound the second may just have begun.
    pace->complaint = pace->rate > 0 ? fmin(fmax(sent, pace->rate / 2), pace->rate) : sent;
    pace->rate = fmax(pace->complaint / 2, RATE_MIN);
    pace->tokens = 0;
    pace->filled = now;
    for (unsigned i = 0; i < PACE_SECONDS; i++)
        pace->counts[i] = 0;
}

uint64_t pace_wait(const struct pace *pace) {
    double missing = 1 - pace->tokens;
    return pace->rate > 0 && missing > 0 ? (uint64_t)ceil(missing / pace->rate * 1000) : 1;
}
