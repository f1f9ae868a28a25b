// A histogram of times; see histogram.h.
#include "tests/bench/histogram.h"

static unsigned place_of(uint64_t value) {
    if (value < HISTOGRAM_STEPS)
        return (unsigned)value;
    unsigned shift = 63 - 6 - (unsigned)__builtin_clzll(value);
    return shift * HISTOGRAM_STEPS + (unsigned)(value >> shift);
}

// The largest value of a place.
static uint64_t value_of(unsigned place) {
    if (place < 2 * HISTOGRAM_STEPS)
        return place;
    unsigned shift = place / HISTOGRAM_STEPS - 1;
    return ((uint64_t)(place % HISTOGRAM_STEPS + HISTOGRAM_STEPS + 1) << shift) - 1;
}

void histogram_note(struct histogram *histogram, uint64_t value) {
    histogram->places[place_of(value)]++;
    histogram->count++;
    if (value > histogram->maximum)
        histogram->maximum = value;
}

uint64_t histogram_percentile(const struct histogram *histogram, double percent) {
    double wanted = (double)histogram->count * percent / 100;
    uint64_t passed = 0;
    for (unsigned place = 0; place < HISTOGRAM_PLACES; place++) {
        passed += histogram->places[place];
        if (histogram->places[place] > 0 && (double)passed >= wanted)
            return value_of(place) < histogram->maximum ? value_of(place) : histogram->maximum;
    }
    return histogram->maximum;
}
