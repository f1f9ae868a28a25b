// Recognises a clock that was set back; see set_back.h.
#include "gateway/state/set_back.h"

#include <stdlib.h>

#define SECOND INT64_C(1000000)
// How long, and how many reports at least, must keep pace: a device that reports once an hour takes two hours.
#define ENOUGH_TIME  (300 * SECOND)
#define ENOUGH_COUNT 3
// How far times and arrivals may drift apart: radio delays a report, and a second is all that a report says.
#define SLACK(passed) (30 * SECOND + (passed) / 16)

static bool keeps_pace(const struct set_back *clock, int64_t reported, int64_t received) {
    int64_t passed = received - clock->first_received;
    int64_t said = reported - clock->first_reported;
    return clock->count > 0 && passed >= 0 && reported >= clock->last_reported &&
           llabs(said - passed) <= SLACK(passed);
}

static void begin(struct set_back *clock, int64_t reported, int64_t received) {
    clock->first_received = received;
    clock->first_reported = reported;
}

// Lies behind what is shown. Once the clock is taken as set back, the pace is measured from report to report:
// what the device keeps from then on must not move anything either.
static bool is_live(struct set_back *clock, int64_t reported, int64_t received) {
    if (!keeps_pace(clock, reported, received)) {
        begin(clock, reported, received);
        clock->count = 0;
        clock->recognised = false;
    }
    clock->last_reported = reported;
    clock->count++;
    clock->recognised |= clock->count >= ENOUGH_COUNT && received - clock->first_received >= ENOUGH_TIME;
    if (clock->recognised)
        begin(clock, reported, received);
    return clock->recognised;
}

// Of a live report. What was ordered by the arrival can be ahead of it only when our own clock was set back: then it is
// put behind that.
static int64_t order_live(const struct set_back *clock, int64_t received) {
    return received >= clock->newest ? received : clock->newest + 1;
}

static int64_t order(struct set_back *clock, int64_t reported, int64_t received) {
    if (reported == received) // it said no time
        return order_live(clock, received);
    if (reported < clock->newest)
        return is_live(clock, reported, received) ? order_live(clock, received) : reported;
    clock->count = 0;
    clock->recognised = false;
    return reported < received ? reported : received; // a clock that is ahead must not keep later reports out
}

int64_t set_back_order(struct set_back *clock, int64_t reported, int64_t received) {
    int64_t at = order(clock, reported, received);
    if (at > clock->newest)
        clock->newest = at;
    return at;
}
