// A histogram of times: exact below 64, above it 64 steps for each doubling, so a value is off by 1.6% at
// most.
#pragma once

#include <stdint.h>

#define HISTOGRAM_STEPS  64
#define HISTOGRAM_PLACES (HISTOGRAM_STEPS * 60)

struct histogram {
    uint64_t count, maximum;
    uint64_t places[HISTOGRAM_PLACES];
};

void histogram_note(struct histogram *histogram, uint64_t value);
// The value that percent (0 to 100) of all are not above; 0 when there is none.
uint64_t histogram_percentile(const struct histogram *histogram, double percent);
