// Reports that wait for their position; see held.h.
#include "gateway/channels/held.h"

#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "gateway/base/memory.h"
#include "gateway/channels/peer.h"
#include "gateway/geolocation/locator.h"

#define PORTION 200 // reports that go out in a turn of the loop

struct held_report {
    struct locator_wait wait; // first, so that the one is the other
    struct held *held;
    struct held_report **queue;
    struct report_origin origin;
    struct hold *hold; // its peer's, for the replies
    uint64_t deadline; // by uv_now()
    bool asks;         // it waits for its own position; otherwise for those in front of it
    bool ready;        // it stands among those that are
    bool found;
    struct location location;
    size_t size;
    struct held_report *prev, *next;         // of its queue
    struct held_report *prev_all, *next_all; // of all, in the order in which they came
    struct held_report *prev_ready, *next_ready;
    max_align_t packed[]; // the message
};

struct held {
    struct channel_parts *parts;
    struct locator *locator;
    struct held_report *all;
    struct held_report *ready; // the first of their queues, that need not wait any more
    size_t count, bytes;
    uv_timer_t timer; // for those that are ready, or the first one's deadline
};

static void on_timer(uv_timer_t *timer);

// Those that are ready go out in the next turn of the loop. With 0 an older libuv, such as 1.44, would call on_timer() in
// this one, again and again until all are out. Who comes meanwhile does not put it off.
static void set_timer(struct held *held) {
    uint64_t now = uv_now(held->parts->loop), deadline = held->all != NULL ? held->all->deadline : 0;
    uint64_t left = held->ready != NULL ? 1 : deadline > now ? deadline - now : 0;
    bool sooner = uv_is_active((uv_handle_t *)&held->timer) && uv_timer_get_due_in(&held->timer) <= left;
    if (held->all == NULL)
        uv_timer_stop(&held->timer);
    else if (!sooner)
        uv_timer_start(&held->timer, on_timer, left, 0);
}

// --- going out ---

// The first of a queue, which may be empty.
static void look_at_first(struct held_report *first) {
    if (first == NULL || first->asks || first->ready)
        return;
    first->ready = true;
    DL_APPEND2(first->held->ready, first, prev_ready, next_ready);
}

static void remove_report(struct held_report *report) {
    struct held *held = report->held;
    DL_DELETE(*report->queue, report);
    DL_DELETE2(held->all, report, prev_all, next_all);
    if (report->ready)
        DL_DELETE2(held->ready, report, prev_ready, next_ready);
    held->count--;
    held->bytes -= report->size;
}

static void let_go(struct held_report *report) {
    static struct message message; // large
    struct held *held = report->held;
    remove_report(report);
    message_unpack(report->packed, &message);
    if (report->found)
        locator_set(&message, &report->location);
    struct report_numbers numbers = report_publish(held->parts, &report->origin, &message);
    peer_hold_out(report->hold, numbers.first, numbers.last, report->origin.background);
    free(report);
}

static void ask_no_more(struct held_report *report) {
    if (!report->asks)
        return;
    report->asks = false;
    locator_leave(report->held->locator, &report->wait);
    locator_note_without(report->held->locator);
}

void held_release(struct held *held, struct held_report **queue) {
    while (held != NULL && *queue != NULL) {
        ask_no_more(*queue);
        let_go(*queue);
    }
}

static void on_placed(struct locator_wait *wait, const struct location *location) {
    struct held_report *report = (struct held_report *)wait;
    report->asks = false;
    report->found = location != NULL;
    if (location != NULL)
        report->location = *location;
    look_at_first(*report->queue);
    set_timer(report->held);
}

static void give_up_late_ones(struct held *held) {
    uint64_t now = uv_now(held->parts->loop);
    struct held_report *report;
    DL_FOREACH2(held->all, report, next_all) {
        if (report->deadline > now)
            break;
        ask_no_more(report);
        look_at_first(*report->queue);
    }
}

// Many at once: a service that begins to fail, or an answer that thousands wait for, is not to hold up everything else.
static void on_timer(uv_timer_t *timer) {
    struct held *held = timer->data;
    give_up_late_ones(held);
    for (unsigned i = 0; i < PORTION && held->ready != NULL; i++) {
        struct held_report **queue = held->ready->queue;
        let_go(held->ready);
        look_at_first(*queue);
    }
    set_timer(held);
}

// --- coming in ---

static struct held_report *make_report(struct held *held, struct held_report **queue,
                                       const struct report_origin *origin, const struct message *message) {
    size_t size = sizeof(struct held_report) + message_packed_size(message);
    struct held_report *report = must_have(malloc(size));
    *report =
        (struct held_report){.held = held,
                             .queue = queue,
                             .origin = *origin,
                             .deadline = uv_now(held->parts->loop) + held->parts->config->geolocation.timeout,
                             .size = size};
    report->wait.done = on_placed;
    message_pack(message, report->packed);
    DL_APPEND(*queue, report);
    DL_APPEND2(held->all, report, prev_all, next_all);
    held->count++;
    held->bytes += size;
    if (held->all == report)
        set_timer(held);
    return report;
}

static bool is_full(const struct held *held) {
    return held->count >= HELD_MAX || held->bytes >= HELD_BYTES_MAX;
}

bool held_take(struct held *held, struct peer *peer, struct held_report **queue,
               const struct report_origin *origin, struct message *message) {
    struct surroundings surroundings;
    struct location place;
    if (held == NULL)
        return false;
    enum locator_verdict verdict = locator_look(held->locator, message, &surroundings, &place);
    if (verdict == LOCATOR_KNOWN)
        locator_set(message, &place);
    if (verdict != LOCATOR_ASKS && *queue == NULL)
        return false;
    if (is_full(held)) {
        if (verdict == LOCATOR_ASKS)
            locator_note_without(held->locator);
        held_release(held, queue);
        return false;
    }
    struct held_report *report = make_report(held, queue, origin, message);
    report->hold = peer_hold(peer);
    report->asks = verdict == LOCATOR_ASKS;
    if (report->asks)
        locator_ask(held->locator, &surroundings, &report->wait);
    return true;
}

struct held *held_new(struct channel_parts *parts, struct locator *locator) {
    struct held *held = must_have(calloc(1, sizeof *held));
    held->parts = parts;
    held->locator = locator;
    uv_timer_init(parts->loop, &held->timer);
    held->timer.data = held;
    return held;
}

void held_stop(struct held *held) {
    uv_close((uv_handle_t *)&held->timer, NULL);
}

void held_free(struct held *held) {
    free(held);
}

size_t held_count(const struct held *held) {
    return held->count;
}
