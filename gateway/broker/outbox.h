// The outbox: keeps each message until the broker has it, and says when it is safe: with the broker, or on
// disk.
//
// At most mqtt.inflight messages are at the broker unacknowledged; the others wait in memory, in order. While
// the broker keeps up nothing touches the disk. When more wait than a bound, or one waits for too long, the
// outbox spills: all that is not safe is written, and what comes goes to disk alone, until all of it was read
// back and handed to a broker that answers in time. Their order holds. While such a backlog goes, half as much is
// taken in as goes out, at most: the devices keep the rest (OUTBOX_BUSY).
//
// A message that the broker refuses for now waits beside the queue, with what follows to its topic, and goes out again
// after a pause; see lanes.h. It is on disk then, and so much of it in memory as well. Whether others are taken meanwhile tells
// whether the topic is to blame, so any share of refused topics costs the others nothing, and a quota of ours costs no
// message. After so many tries in vain it is set aside; and what waits behind it gives way when half of max_bytes is used. One
// that the broker refuses without a reason is retried a few times only. A message that it refuses for good, or closes the
// connection at (see suspects.h), is set aside in the store, and everything else goes on. The order changes only here: of
// messages that were at the broker together, later ones may have been taken before it; and topics no longer wait for each other.
//
// What tells which state and commands the broker has is of its connection: unanswered when that ends, it is dropped.
//
// Two retained messages to one topic are never at the broker together, because not every broker keeps their
// order. A later one waits beside the queue, which goes on. Of state only the last value that waits goes out.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "gateway/broker/mqtt.h"

struct outbox;
struct store;

// Waits until a range of messages is safe. The memory is the caller's, until the callback or outbox_forget().
struct outbox_waiter {
    uint64_t first, last; // of the messages to wait for; last 0: none
    bool
        background; // its messages may be in the background; without it what is there before them is not waited for
    bool
        reports; // of what was put there only reports count, and nothing that tells of them, such as log entries
    // safe is false when the broker refused one of them for good.
    void (*done)(struct outbox_waiter *waiter, bool safe);
    struct outbox_waiter *prev, *next; // the outbox's own
};

// What the outbox takes in.
enum outbox_intake {
    OUTBOX_TAKES,   // all that comes
    OUTBOX_CROWDED, // much waits in the background: what belongs there is better left with the device
    OUTBOX_BUSY,    // the broker is slower than the devices: what can wait is better left with the device
    // Nothing more may be read from devices (store.max_bytes, or a disk that takes nothing). It still takes
    // what was already read, so that a report that nobody sends again is not lost.
    OUTBOX_FULL,
};

struct outbox_handlers {
    void *context;
    void (*intake)(void *context, enum outbox_intake intake); // it has changed
    void (*set_aside)(void *context);                         // one more message was set aside
};

// The carrier must be set before anything is put. prefix, which stays the caller's, is mqtt.topic_prefix,
// window mqtt.inflight, max_bytes store.max_bytes. Continues with what the store holds.
struct outbox *outbox_new(uv_loop_t *loop, struct store *store, const char *prefix, unsigned window,
                          size_t max_bytes, const struct outbox_handlers *handlers);
// The carrier stays the caller's.
void outbox_set_carrier(struct outbox *outbox, const struct mqtt_carrier *carrier);

// Closes the handles on the loop. What is not safe by then is given to the store.
void outbox_stop(struct outbox *outbox);
void outbox_free(struct outbox *outbox);

// Takes a message in; all of publish is copied. Returns its number, which only grows.
uint64_t outbox_put(struct outbox *outbox, const struct mqtt_publish *publish);

// What the instance says about itself: goes out at once, past all that waits, and is lost when the broker is
// away. Only the last value of each topic matters.
void outbox_say(struct outbox *outbox, const struct mqtt_publish *publish);

// A result for a response topic, which a stranger may have chosen: goes out last, and never costs a report.
// See sideline.h.
void outbox_put_result(struct outbox *outbox, const struct mqtt_publish *publish);

// Messages that were set aside because the broker does not take them, and stand in the store.
size_t outbox_set_aside_count(const struct outbox *outbox);

// Whether what is put now will soon be with the broker: it is connected, nothing is on disk, and little
// waits.
bool outbox_keeps_up(const struct outbox *outbox);
// The same for what is not in the background: fewer than so many go before it, besides those that are at the broker.
bool outbox_has_ahead_fewer_than(const struct outbox *outbox, size_t count);

// The number of the message that was put last; and whether the broker has that of a number, and all before it:
// taken, or refused for good. A report on disk that others are tried in place of does not count: state does not
// wait for it.
uint64_t outbox_last_number(const struct outbox *outbox);
bool outbox_has_taken(const struct outbox *outbox, uint64_t number);

// Whether the broker has all that an earlier run left. Such a report does not count.
bool outbox_is_rid_of_earlier(const struct outbox *outbox);

bool outbox_is_full(const struct outbox *outbox);

// Whether the message of that number, and all before it, are safe. Number 0 is. UINT64_MAX: whether nothing
// is left at all, results included.
bool outbox_is_safe(const struct outbox *outbox, uint64_t number);

// Calls waiter->done once the messages are safe: now, when they are already. To be called in the turn of the
// loop in which they were put, so that it hears of one that was refused at once.
void outbox_when_safe(struct outbox *outbox, struct outbox_waiter *waiter);
void outbox_forget(struct outbox *outbox, struct outbox_waiter *waiter);

// What the link reports.
void outbox_link_up(struct outbox *outbox);
void outbox_link_down(struct outbox *outbox, enum mqtt_end end);
void outbox_link_ready(struct outbox *outbox);
void outbox_published(struct outbox *outbox, int mid, enum mqtt_answer answer, const char *reason);

// Messages that the broker has taken in this run; and the age of the oldest that it does not have, in milliseconds: of
// what is on disk since it went there, or since the start.
uint64_t outbox_taken(const struct outbox *outbox);
uint64_t outbox_oldest_age(const struct outbox *outbox);

// Messages that the broker does not have; and those of them that only memory holds.
size_t outbox_count(const struct outbox *outbox);
size_t outbox_unsafe_count(const struct outbox *outbox);
