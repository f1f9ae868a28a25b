// Lanes; see lanes.h.
#include "gateway/broker/lanes.h"

#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "gateway/base/memory.h"

#define SOON       400   // milliseconds: until the next tick, but one
#define LATER      1000  // milliseconds; doubled each time that it is refused while others are taken
#define LATER_MAX  32000 // and at most
#define TRY        1000  // milliseconds between two tries of lanes that were not passed
#define TRIES_OURS 16    // lanes that are tried at once, where it is a quota of ours, which is over soon
#define LATER_OURS 1000  // and at most where it is a quota of ours
#define LATELY     10000 // milliseconds after which what went out counts half
#define NOTABLE    64    // one of so many retries that are taken is a notable share
#define FIRST      8     // and one of so many first tries that are refused
#define RETRIES    32    // fewer of them tell nothing
#define REMEMBERED 60000 // milliseconds for which a refusal is remembered of a topic with nothing to send
#define LOOK_MAX   5000  // lanes that are looked at in one go

struct lane *lanes_find(const struct lanes *lanes, const char *topic) {
    struct lane *lane;
    HASH_FIND_STR(lanes->by_topic, topic, lane);
    return lane;
}

static struct lane *add(struct lanes *lanes, const char *topic) {
    size_t length = strlen(topic);
    struct lane *lane = must_have(calloc(1, sizeof *lane + length + 1));
    memcpy(lane->topic, topic, length + 1);
    HASH_ADD_KEYPTR(hh, lanes->by_topic, lane->topic, length, lane);
    return lane;
}

// With the last entry the table would go, and be made anew for each message of a quiet time: one lane stays.
struct lane *lanes_get(struct lanes *lanes, const char *topic, bool report) {
    struct lane *lane = lanes_find(lanes, topic);
    if (lane != NULL)
        return lane;
    if (lanes->by_topic == NULL)
        add(lanes, "");
    lane = add(lanes, topic);
    lane->report = report;
    return lane;
}

// --- which list it is in ---

bool lane_has_more(const struct lane *lane) {
    return lane->count > 0 || !parked_is_empty(&lane->parked);
}

static struct lane **list_of(struct lanes *lanes, const struct lane *lane) {
    bool behind = lane->background && !lane->refused;
    if (lane->state == LANE_RESTS)
        return lane_has_more(lane) ? &lanes->resting : &lanes->idle;
    if (lane->state == LANE_READY)
        return behind ? &lanes->ready_behind : &lanes->ready;
    if (lane->state == LANE_READS)
        return behind ? &lanes->reading_behind : &lanes->reading;
    return NULL;
}

static void leave_list(struct lanes *lanes, struct lane *lane) {
    lanes->idle_count -= lane->list == &lanes->idle;
    if (lane->list != NULL)
        DL_DELETE(*lane->list, lane);
    lane->list = NULL;
}

static void enter_list(struct lanes *lanes, struct lane *lane) {
    lane->list = list_of(lanes, lane);
    lanes->idle_count += lane->list == &lanes->idle;
    if (lane->list != NULL)
        DL_APPEND(*lane->list, lane);
}

static void update_list(struct lanes *lanes, struct lane *lane) {
    if (list_of(lanes, lane) == lane->list)
        return;
    leave_list(lanes, lane);
    enter_list(lanes, lane);
}

void lanes_set(struct lanes *lanes, struct lane *lane, enum lane_state state) {
    lane->state = state;
    update_list(lanes, lane);
}

// --- how many wait ---

static void count_background(struct lanes *lanes, const struct lane *lane, size_t by) {
    bool counts = lane->background && !lane->refused;
    lanes->background += counts ? by : 0;
    lanes->values += counts && lane->value ? by : 0;
}

static void set_refused(struct lanes *lanes, struct lane *lane, bool refused) {
    size_t count = lane->count + parked_count(&lane->parked);
    count_background(lanes, lane, -count);
    lane->refused = refused;
    count_background(lanes, lane, count);
}

void lanes_set_background(struct lane *lane, bool background, bool retained) {
    if (lane_has_more(lane))
        return;
    lane->background = background;
    lane->value = background && retained;
}

void lanes_count(struct lanes *lanes, struct lane *lane, int by) {
    lane->count += (size_t)by;
    lanes->waiting += (size_t)by;
    count_background(lanes, lane, (size_t)by);
    update_list(lanes, lane);
}

void lanes_park(struct lanes *lanes, struct lane *lane, uint64_t number, size_t size) {
    parked_add(&lane->parked, number, size);
    lanes->parked++;
    count_background(lanes, lane, 1);
    update_list(lanes, lane);
}

size_t lanes_unpark(struct lanes *lanes, struct lane *lane) {
    size_t size = parked_take(&lane->parked);
    lanes->parked--;
    count_background(lanes, lane, (size_t)-1);
    update_list(lanes, lane);
    return size;
}

// --- who is to blame ---

void lanes_note_try(struct lanes *lanes, bool again, bool taken) {
    struct lanes_tries *tries = again ? &lanes->again : &lanes->first;
    tries->count++;
    tries->other += taken == again;
}

// The broker refuses now this one and now that one. Where few topics have a quota of their own, their retries are taken now
// and then as well, but nearly all first tries are.
static bool has_quota_of_ours(const struct lanes *lanes) {
    const struct lanes_tries *again = &lanes->again;
    return again->count >= RETRIES && again->other > 0 && again->other >= again->count / NOTABLE &&
           lanes->first.other >= lanes->first.count / FIRST;
}

bool lanes_blame(const struct lanes *lanes, const struct lane *lane) {
    return lane->passed >= LANES_SURE && !has_quota_of_ours(lanes);
}

// --- which may go ---

bool lane_was_passed(const struct lane *lane, uint64_t others) {
    return lane->refused && others > lane->others;
}

// Without a reason it is tried until it is given up, which is soon.
static uint64_t pause_of(const struct lanes *lanes, const struct lane *lane, bool passed, bool unreasoned) {
    uint64_t pause = LATER, most = has_quota_of_ours(lanes) ? LATER_OURS : LATER_MAX;
    if (unreasoned || (!passed && lane->passed == 0))
        return SOON;
    for (unsigned i = 1; i < lane->passed && pause < most; i++)
        pause *= 2;
    return pause < most ? pause : most;
}

void lanes_defer(struct lanes *lanes, struct lane *lane, uint64_t now, uint64_t others, bool unreasoned) {
    bool passed = lane_was_passed(lane, others), blamed = passed && !has_quota_of_ours(lanes);
    lane->one_by_one = true;
    set_refused(lanes, lane, true);
    lane->refusals += blamed || unreasoned;
    lane->passed += blamed;
    lane->not_before = now + pause_of(lanes, lane, passed, unreasoned);
    lane->refused_at = now;
    lane->others = others;
    lanes_set(lanes, lane, LANE_FLOWS); // to the end
    lanes_set(lanes, lane, LANE_RESTS);
}

void lanes_note_taken(struct lanes *lanes, struct lane *lane) {
    lane->one_by_one = false;
    set_refused(lanes, lane, false);
    lane->refusals = lane->passed = 0;
    lanes_set(lanes, lane, LANE_FLOWS);
}

// How many lanes may be tried now.
struct budget {
    unsigned passed, others; // of those that were passed; and that were not
};

static struct budget budget_of(const struct lanes *lanes, uint64_t now, uint64_t taken) {
    if (has_quota_of_ours(lanes)) {
        unsigned most = (unsigned)(2 * (taken - lanes->taken_then)) + TRIES_OURS;
        return (struct budget){.passed = most, .others = TRIES_OURS};
    }
    return (struct budget){.passed = UINT32_MAX,
                           .others = lanes->tried_at == 0 || now - lanes->tried_at >= TRY};
}

static bool may_wake(const struct lane *lane, uint64_t now, const uint64_t taken[2], struct budget *budget) {
    if (lane->under_way > 0 || lane->skipped > 0 || now < lane->not_before)
        return false;
    unsigned *left = lane_was_passed(lane, taken[lane->report]) ? &budget->passed : &budget->others;
    return *left > 0 && (*left)--;
}

static void halve(struct lanes_tries *tries) {
    tries->count /= 2;
    tries->other /= 2;
}

static void halve_tries(struct lanes *lanes, uint64_t now) {
    if (now - lanes->halved_at < LATELY)
        return;
    lanes->halved_at = now;
    halve(&lanes->first);
    halve(&lanes->again);
}

// A pause that grew before it showed that the quota is one of ours is as short as all are then.
static void shorten(const struct lanes *lanes, struct lane *lane) {
    if (has_quota_of_ours(lanes) && lane->not_before > lane->refused_at + LATER_OURS)
        lane->not_before = lane->refused_at + LATER_OURS;
}

// The oldest first, each as often as the others: those that are looked at go to the end.
static void wake_resting(struct lanes *lanes, uint64_t now, const uint64_t taken[2], struct budget *budget) {
    struct lane *lane = lanes->resting, *last = lane != NULL ? lane->prev : NULL, *looked = NULL;
    for (unsigned i = 0; i < LOOK_MAX && lane != NULL && looked != last; i++) {
        looked = lane;
        lane = lane->next;
        shorten(lanes, looked);
        if (may_wake(looked, now, taken, budget)) {
            lanes_set(lanes, looked, LANE_READY);
        } else {
            DL_DELETE(lanes->resting, looked);
            DL_APPEND(lanes->resting, looked);
        }
    }
}

static bool is_over(const struct lanes *lanes, const struct lane *lane, uint64_t now) {
    return lanes->idle_count > LANES_IDLE_MAX || now - lane->refused_at > REMEMBERED;
}

static void forget_idle(struct lanes *lanes, uint64_t now) {
    for (unsigned i = 0; i < LOOK_MAX && lanes->idle != NULL && is_over(lanes, lanes->idle, now); i++) {
        struct lane *lane = lanes->idle;
        set_refused(lanes, lane, false);
        lanes_set(lanes, lane, LANE_FLOWS);
        lanes_tidy(lanes, lane);
    }
}

void lanes_wake(struct lanes *lanes, uint64_t now, const uint64_t taken[2]) {
    halve_tries(lanes, now);
    struct budget all = budget_of(lanes, now, taken[0]), budget = all;
    wake_resting(lanes, now, taken, &budget);
    forget_idle(lanes, now);
    if (budget.others < all.others)
        lanes->tried_at = now;
    lanes->taken_then = taken[0];
}

// --- ending ---

static void drop(struct lanes *lanes, struct lane *lane) {
    leave_list(lanes, lane);
    while (!parked_is_empty(&lane->parked))
        parked_take(&lane->parked);
    HASH_DEL(lanes->by_topic, lane);
    free(lane);
}

void lanes_tidy(struct lanes *lanes, struct lane *lane) {
    if (!lane_has_more(lane) && lane->under_way == 0 && lane->skipped == 0 && !lane->refused &&
        !lane->reading)
        drop(lanes, lane);
}

void lanes_settle(struct lanes *lanes, struct lane *lane) {
    if (lane->count > 0 || lane->under_way > 0 || lane->skipped > 0)
        return;
    lane->solo = false;
    lanes_set(lanes, lane,
              lane->refused                    ? LANE_RESTS
              : parked_is_empty(&lane->parked) ? LANE_FLOWS
                                               : LANE_READS);
    lanes_tidy(lanes, lane);
}

void lanes_free(struct lanes *lanes) {
    struct lane *lane, *next;
    HASH_ITER(hh, lanes->by_topic, lane, next) {
        drop(lanes, lane);
    }
}
