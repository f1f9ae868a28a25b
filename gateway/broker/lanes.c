// Lanes; see lanes.h.
#include "gateway/broker/lanes.h"

#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "gateway/base/memory.h"

#define LATER      1000  // milliseconds; doubled each time that it is refused while others are taken
#define LATER_MAX  32000 // and at most
#define TRY        1000  // milliseconds between two tries of lanes that were not passed
#define TRIES_OURS 16    // lanes that are tried at once, where it is a quota of ours, which is over soon
#define LATER_OURS 1000  // and at most where it is a quota of ours
#define LATELY     10000 // milliseconds after which what went out again counts half
#define NOTABLE    64    // one of so many is a notable share
#define REMEMBERED 60000 // milliseconds for which a refusal is remembered of a topic with nothing to send

struct lane *lanes_find(const struct lanes *lanes, const char *topic) {
    struct lane *lane;
    HASH_FIND_STR(lanes->by_topic, topic, lane);
    return lane;
}

struct lane *lanes_get(struct lanes *lanes, const char *topic, bool report) {
    struct lane *lane = lanes_find(lanes, topic);
    if (lane != NULL)
        return lane;
    size_t length = strlen(topic);
    lane = must_have(calloc(1, sizeof *lane + length + 1));
    memcpy(lane->topic, topic, length + 1);
    lane->report = report;
    HASH_ADD_KEYPTR(hh, lanes->by_topic, lane->topic, length, lane);
    return lane;
}

// --- how many wait ---

static bool is_sure(const struct lane *lane) {
    return lane->passed >= LANES_SURE;
}

// Where its messages count; NULL: nowhere.
static size_t *counted(struct lanes *lanes, const struct lane *lane) {
    if (!lane->refused)
        return NULL;
    return is_sure(lane) ? &lanes->sure[lane->report] : &lanes->unsure[lane->report];
}

static void count(struct lanes *lanes, const struct lane *lane, size_t by) {
    size_t *sum = counted(lanes, lane);
    if (sum != NULL)
        *sum += by;
}

void lanes_count(struct lanes *lanes, struct lane *lane, int by) {
    lane->count += (size_t)by;
    count(lanes, lane, (size_t)by);
}

// --- who is to blame ---

void lanes_note_retry(struct lanes *lanes, bool taken) {
    lanes->retries++;
    lanes->retaken += taken;
}

// The broker refuses now this one and now that one.
static bool has_quota_of_ours(const struct lanes *lanes) {
    return lanes->retaken > 0 && lanes->retaken >= lanes->retries / NOTABLE;
}

bool lanes_blame(const struct lanes *lanes, const struct lane *lane) {
    return is_sure(lane) && !has_quota_of_ours(lanes);
}

size_t lanes_unsure(const struct lanes *lanes, bool reports) {
    size_t sure = lanes->sure[reports], beside = has_quota_of_ours(lanes) ? 0 : LANES_BESIDE_MAX;
    return lanes->unsure[reports] + (sure > beside ? sure - beside : 0);
}

// --- which may go ---

static struct lane **list_of(struct lanes *lanes, enum lane_state state) {
    return state == LANE_RESTS ? &lanes->resting : &lanes->ready;
}

void lanes_set(struct lanes *lanes, struct lane *lane, enum lane_state state) {
    if (lane->state == state)
        return;
    if (lane->state != LANE_FLOWS)
        DL_DELETE(*list_of(lanes, lane->state), lane);
    lane->state = state;
    if (state != LANE_FLOWS)
        DL_APPEND(*list_of(lanes, state), lane);
}

bool lane_was_passed(const struct lane *lane, uint64_t others) {
    return lane->refused && others > lane->others;
}

// Without a reason it is tried until it is given up, which is soon.
static uint64_t pause_of(const struct lanes *lanes, const struct lane *lane, bool passed, bool unreasoned) {
    uint64_t pause = LATER, most = has_quota_of_ours(lanes) ? LATER_OURS : LATER_MAX;
    if (unreasoned || (!passed && lane->passed == 0))
        return 0; // until the next tick
    for (unsigned i = 1; i < lane->passed && pause < most; i++)
        pause *= 2;
    return pause < most ? pause : most;
}

void lanes_defer(struct lanes *lanes, struct lane *lane, uint64_t now, uint64_t others, bool unreasoned) {
    bool passed = lane_was_passed(lane, others), blamed = passed && !has_quota_of_ours(lanes);
    count(lanes, lane, -lane->count);
    lane->refused = lane->one_by_one = true;
    lane->refusals += blamed || unreasoned;
    lane->passed += blamed;
    count(lanes, lane, lane->count);
    lane->not_before = now + pause_of(lanes, lane, passed, unreasoned);
    lane->refused_at = now;
    lane->others = others;
    lanes_set(lanes, lane, LANE_FLOWS); // to the end
    lanes_set(lanes, lane, LANE_RESTS);
}

void lanes_note_taken(struct lanes *lanes, struct lane *lane) {
    count(lanes, lane, -lane->count);
    lane->refused = lane->one_by_one = false;
    lane->refusals = lane->passed = 0;
    lanes_set(lanes, lane, LANE_FLOWS);
}

// How many lanes that were not passed may be tried now.
static unsigned tries_of(const struct lanes *lanes, uint64_t now) {
    if (has_quota_of_ours(lanes))
        return TRIES_OURS;
    return lanes->tried_at == 0 || now - lanes->tried_at >= TRY;
}

static bool may_wake(const struct lane *lane, uint64_t now, const uint64_t taken[2], unsigned *tries) {
    if (lane->count == 0 || lane->under_way > 0 || lane->skipped > 0 || now < lane->not_before)
        return false;
    if (lane_was_passed(lane, taken[lane->report]))
        return true;
    return *tries > 0 && (*tries)--;
}

static bool is_over(const struct lane *lane, uint64_t now) {
    return lane->count == 0 && lane->under_way == 0 && lane->skipped == 0 &&
           now - lane->refused_at > REMEMBERED;
}

static void halve(struct lanes *lanes, uint64_t now) {
    if (now - lanes->halved_at < LATELY)
        return;
    lanes->halved_at = now;
    lanes->retries /= 2;
    lanes->retaken /= 2;
}

// A pause that grew before it showed that the quota is one of ours is as short as all are then.
static void shorten(const struct lanes *lanes, struct lane *lane) {
    if (has_quota_of_ours(lanes) && lane->not_before > lane->refused_at + LATER_OURS)
        lane->not_before = lane->refused_at + LATER_OURS;
}

void lanes_wake(struct lanes *lanes, uint64_t now, const uint64_t taken[2]) {
    struct lane *lane, *next;
    halve(lanes, now);
    unsigned all = tries_of(lanes, now), tries = all;
    DL_FOREACH_SAFE(lanes->resting, lane, next) {
        shorten(lanes, lane);
        if (may_wake(lane, now, taken, &tries)) {
            lanes_set(lanes, lane, LANE_READY);
        } else if (is_over(lane, now)) {
            lane->refused = false;
            lanes_tidy(lanes, lane);
        }
    }
    if (tries < all)
        lanes->tried_at = now;
}

// --- ending ---

static void drop(struct lanes *lanes, struct lane *lane) {
    lanes_set(lanes, lane, LANE_FLOWS);
    HASH_DEL(lanes->by_topic, lane);
    free(lane);
}

void lanes_tidy(struct lanes *lanes, struct lane *lane) {
    if (lane->count == 0 && lane->under_way == 0 && lane->skipped == 0 && !lane->refused)
        drop(lanes, lane);
}

void lanes_empty(struct lanes *lanes) {
    struct lane *lane, *next;
    memset(lanes->unsure, 0, sizeof lanes->unsure);
    memset(lanes->sure, 0, sizeof lanes->sure);
    HASH_ITER(hh, lanes->by_topic, lane, next) {
        lane->waiting = NULL;
        lane->count = lane->under_way = lane->skipped = 0;
        lane->solo = false;
        lanes_set(lanes, lane, lane->refused ? LANE_RESTS : LANE_FLOWS);
        lanes_tidy(lanes, lane);
    }
}

void lanes_free(struct lanes *lanes) {
    struct lane *lane, *next;
    HASH_ITER(hh, lanes->by_topic, lane, next) {
        drop(lanes, lane);
    }
}
