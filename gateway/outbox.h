// The outbox: keeps each message until the broker has it, and says when it is safe. At most mqtt.inflight
// messages are at the broker unacknowledged; the others wait here, in order, in bounded memory.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "gateway/mqtt_link.h"

struct outbox;

// Waits until a range of messages is safe. The memory is the caller's, until the callback or outbox_forget().
struct outbox_waiter {
    uint64_t first, last; // of the messages to wait for; last 0: none
    // safe is false when the broker refused one of them for good.
    void (*done)(struct outbox_waiter *waiter, bool safe);
    struct outbox_waiter *prev, *next; // the outbox's own
};

// link must be set before anything is put. window is mqtt.inflight, max_bytes bounds the memory of what
// waits.
struct outbox *outbox_new(unsigned window, size_t max_bytes);
void outbox_set_link(struct outbox *outbox, struct mqtt_link *link);
void outbox_free(struct outbox *outbox);

// Takes a message in; all of publish is copied. Returns its number, which only grows, or 0 when the outbox is
// full: then nothing was taken.
uint64_t outbox_put(struct outbox *outbox, const struct mqtt_publish *publish);

// Whether the message of that number, and all before it, are with the broker. Number 0 is.
bool outbox_is_safe(const struct outbox *outbox, uint64_t number);

// Calls waiter->done once the messages are safe: now, when they are already.
void outbox_when_safe(struct outbox *outbox, struct outbox_waiter *waiter);
void outbox_forget(struct outbox *outbox, struct outbox_waiter *waiter);

// What the link reports.
void outbox_link_up(struct outbox *outbox);
void outbox_link_down(struct outbox *outbox);
void outbox_published(struct outbox *outbox, int mid, const char *reason);

// Messages that are not yet with the broker.
size_t outbox_count(const struct outbox *outbox);
