// Lanes: the topics that have messages at the broker, or waiting beside the queue, and those that the broker has refused
// for now. They say which topic may go out again, and when. Log entries about one device, channel or connection share a lane,
// and so stay in order; what is said below of a topic is said of all of a lane.
//
// What is in the background (state, log entries) waits in lanes as well where not all can go at once. Its lanes are ready
// from the start, and in lists of their own, so that they have their share and reports do not wait behind them.
//
// What is refused "for now" may be the topic's own quota, or one of ours altogether. Only what the broker takes meanwhile
// tells: a lane was passed when others were taken since it was refused. So no share of refused topics, however large, says
// anything of the others:
//  - A topic that was not refused goes out as always, whatever share of the others is refused, and however much waits for
//    these: it waits on disk.
//  - A lane that was passed goes out again after a pause that grows with each refusal that was passed. After LANES_SURE of
//    these the topic is to blame: its refusals count, until it has had all its tries.
//  - Of lanes that were not passed one is tried every second, each in its turn, until something is taken.
//  - Where a notable share of first tries is refused, and of what goes out again a notable share is taken, the quota is one
//    of ours (so many messages a second), and no topic is to blame; the pauses stay short, and as many lanes are tried as
//    the broker takes messages, and some more.
//
// Other designs that were tried or thought of:
//  - To judge the broker: it "takes" while it has taken something since the last refusal, or within the last seconds, or
//    among the last answers; otherwise everything waits. With many refused topics each such measure says sooner or later
//    that it takes nothing.
//  - To keep in memory what waits, and let the queue wait when that is too much before it is known whose quota it is. A
//    fleet of which a part is refused has that much within seconds, and then all the others stood still.
//  - To move what waits to a table of its own on disk, with an index by topic. At each start it would have to go back
//    among the others, in order, which takes long; a flag and an index in the table of all messages would cost each
//    message that is written. The rows stay where they are instead, and memory knows their numbers; see parked.h.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "gateway/base/table.h"
#include "gateway/broker/parked.h"

#define LANES_SURE     2     // refusals that were passed, after which the topic is to blame
#define LANES_IDLE_MAX 10000 // topics with nothing to send whose refusal is remembered

enum lane_state {
    LANE_FLOWS, // or waits for an answer
    LANE_RESTS, // it was refused for now, and nothing of it is at the broker
    LANE_READY, // the first that waits may go out
    LANE_READS, // it may, and stands on disk alone
};

struct item; // of the outbox

struct lane {
    UT_hash_handle hh;
    enum lane_state state;
    bool report;              // its messages are
    bool background, value;   // they are in the background; and retained there
    bool refused;             // for now, and nothing was taken since
    bool one_by_one;          // until something is taken again
    bool solo;                // the one at the broker must be alone
    unsigned under_way;       // messages at the broker
    unsigned skipped;         // messages that others are tried in place of
    struct item *waiting;     // messages in memory, in order; the outbox's own
    size_t count;             // of these
    struct parked parked;     // and on disk alone
    bool reading;             // some of those are being read back: the lane stays
    unsigned refusals;        // that were passed or without a reason, since something was taken
    unsigned passed;          // refusals that were passed, since then
    uint64_t not_before;      // by uv_now(), while it rests
    uint64_t refused_at;      // by uv_now()
    uint64_t others;          // messages taken of its kind (see lanes_wake()) when it was refused
    struct lane **list;       // that it is in, or NULL
    struct lane *prev, *next; // in it
    char topic[];
};

// Of messages that went out, lately.
struct lanes_tries {
    unsigned count, other; // other: first tries that were refused; later ones that were taken
};

// All zero: none.
struct lanes {
    struct lane *by_topic;
    struct lane *resting, *ready, *reading;     // the one that was refused, or is ready, longest first
    struct lane *ready_behind, *reading_behind; // the same in the background, unless they were refused
    struct lane *idle;                          // those that rest with nothing to send, likewise
    size_t idle_count;
    size_t waiting, parked; // messages in memory, and on disk alone
    size_t background,
        values; // of both, in the background, unless their topics were refused; retained ones of these
    struct lanes_tries first; // of topics that were not refused
    struct lanes_tries again; // of those that were
    uint64_t halved_at;       // by uv_now(): when these were halved, as they are now and then
    uint64_t tried_at;        // by uv_now(): when one that was not passed had its turn last
    uint64_t taken_then;      // messages that the broker had taken at the last lanes_wake()
};

// The lane of a topic, or NULL; one that is made when there is none.
struct lane *lanes_find(const struct lanes *lanes, const char *topic);
struct lane *lanes_get(struct lanes *lanes, const char *topic, bool report);

// Says so of the messages that are to come, when none is there.
void lanes_set_background(struct lane *lane, bool background, bool retained);

// One more waits in memory, or one less (by is 1 or -1). To be called for each.
void lanes_count(struct lanes *lanes, struct lane *lane, int by);
// One more waits on disk alone, if parked_may_take() it; the oldest does no more, and its size is returned.
void lanes_park(struct lanes *lanes, struct lane *lane, uint64_t number, size_t size);
size_t lanes_unpark(struct lanes *lanes, struct lane *lane);
// Whether any waits.
bool lane_has_more(const struct lane *lane);

// One of its messages was refused for now, at now (by uv_now()), when others messages of its kind were taken. unreasoned:
// the broker has not said that it passes.
void lanes_defer(struct lanes *lanes, struct lane *lane, uint64_t now, uint64_t others, bool unreasoned);
// Whether others of its kind were taken since it was refused: others is how many were altogether.
bool lane_was_passed(const struct lane *lane, uint64_t others);
// What went out for the first time, or again after its topic was refused, was taken or refused.
void lanes_note_try(struct lanes *lanes, bool again, bool taken);
// Whether the topic is to blame.
bool lanes_blame(const struct lanes *lanes, const struct lane *lane);
// One of its messages was taken after the refusal.
void lanes_note_taken(struct lanes *lanes, struct lane *lane);

void lanes_set(struct lanes *lanes, struct lane *lane, enum lane_state state);

// To be called now and then: makes those ready whose pause is over. taken is how many messages the broker has taken: of
// any kind, which counts for what is no report, and of reports alone, which counts for these. Forgets refusals that are
// long over.
void lanes_wake(struct lanes *lanes, uint64_t now, const uint64_t taken[2]);

// Of its messages one less waits in memory, or is at the broker: it is back in the queue. With the last of them the lane is
// as if it had just begun; what was refused is remembered.
void lanes_settle(struct lanes *lanes, struct lane *lane);

// Frees the lane when nothing is left of it that matters.
void lanes_tidy(struct lanes *lanes, struct lane *lane);
void lanes_free(struct lanes *lanes);
