// Lanes: the topics that have messages at the broker, or waiting beside the queue, and those that the broker has refused
// for now. They say which topic may go out again, and when.
//
// What is refused "for now" may be the topic's own quota, or one of ours altogether. Only what the broker takes meanwhile
// tells: a lane was passed when others were taken since it was refused. So no share of refused topics, however large, says
// anything of the others:
//  - A lane that was passed goes out again after a pause that grows with each refusal that was passed. After LANES_SURE of
//    these the topic is to blame, and only so many of its kind wait beside the others.
//  - Of lanes that were not passed one is tried every second, each in its turn, until something is taken.
//  - A topic that was not refused goes out as always, whatever share of the others is refused. Only when too many messages
//    wait, and nothing tells yet whether their topics are to blame or not all tries of these were in vain, the queue waits:
//    nothing is set aside before that.
//  - Where a notable share of what goes out again is taken, the quota is one of ours (so many messages a second), and no
//    topic is to blame; the pauses stay short, and more lanes are tried.
//
// (The other design judged the broker: it "takes" while it has taken something since the last refusal, or within the last
// seconds, or among the last answers; otherwise everything waits. With many refused topics each such measure says sooner or
// later that it takes nothing.)
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uthash.h>

#define LANES_SURE       2    // refusals that were passed, after which the topic is to blame
#define LANES_BESIDE_MAX 1000 // messages to topics that are to blame that wait, of reports and of others
#define LANES_UNSURE_MAX 2500 // messages that wait before it is known, beyond which the queue waits

enum lane_state {
    LANE_FLOWS, // or waits for an answer
    LANE_RESTS, // it was refused for now, and nothing of it is at the broker
    LANE_READY, // the first that waits may go out
};

struct item; // of the outbox

struct lane {
    UT_hash_handle hh;
    enum lane_state state;
    bool report;              // its messages are
    bool refused;             // for now, and nothing was taken since
    bool one_by_one;          // until something is taken again
    bool solo;                // the one at the broker must be alone
    unsigned under_way;       // messages at the broker
    unsigned skipped;         // messages that others are tried in place of
    struct item *waiting;     // messages, in order; the outbox's own
    size_t count;             // of these
    unsigned refusals;        // that were passed or without a reason, since something was taken
    unsigned passed;          // refusals that were passed, since then
    uint64_t not_before;      // by uv_now(), while it rests
    uint64_t refused_at;      // by uv_now()
    uint64_t others;          // messages taken of its kind (see lanes_wake()) when it was refused
    struct lane *prev, *next; // that are in its state; none of those that flow
    char topic[];
};

// All zero: none.
struct lanes {
    struct lane *by_topic;
    struct lane *resting, *ready; // the one that was refused, or is ready, longest first
    size_t
        unsure[2];  // messages that wait in lanes that were refused and are not to blame yet: others, reports
    size_t sure[2]; // and in those that are
    unsigned retries, retaken; // messages that went out again, and those of them that were taken, lately
    uint64_t halved_at;        // by uv_now(): when these were halved, as they are now and then
    uint64_t tried_at;         // by uv_now(): when one that was not passed had its turn last
};

// The lane of a topic, or NULL; one that is made when there is none.
struct lane *lanes_find(const struct lanes *lanes, const char *topic);
struct lane *lanes_get(struct lanes *lanes, const char *topic, bool report);

// One more waits, or one less (by is 1 or -1). To be called for each.
void lanes_count(struct lanes *lanes, struct lane *lane, int by);

// One of its messages was refused for now, at now (by uv_now()), when others messages of its kind were taken. unreasoned:
// the broker has not said that it passes.
void lanes_defer(struct lanes *lanes, struct lane *lane, uint64_t now, uint64_t others, bool unreasoned);
// Whether others of its kind were taken since it was refused: others is how many were altogether.
bool lane_was_passed(const struct lane *lane, uint64_t others);
// What went out again was taken, or refused again.
void lanes_note_retry(struct lanes *lanes, bool taken);
// Whether the topic is to blame; and how many messages wait, of reports or of others, for topics of which that is not known, or
// beyond LANES_BESIDE_MAX for those that are.
bool lanes_blame(const struct lanes *lanes, const struct lane *lane);
size_t lanes_unsure(const struct lanes *lanes, bool reports);
// One of its messages was taken after the refusal.
void lanes_note_taken(struct lanes *lanes, struct lane *lane);

void lanes_set(struct lanes *lanes, struct lane *lane, enum lane_state state);

// To be called now and then: makes those ready whose pause is over. taken is how many messages the broker has taken: of
// any kind, which counts for what is no report, and of reports alone, which counts for these. Forgets refusals that are
// long over.
void lanes_wake(struct lanes *lanes, uint64_t now, const uint64_t taken[2]);

// Everything is back in the queue: nothing waits, nothing is at the broker. What was refused is remembered.
void lanes_empty(struct lanes *lanes);

// Frees the lane when nothing is left of it that matters.
void lanes_tidy(struct lanes *lanes, struct lane *lane);
void lanes_free(struct lanes *lanes);
