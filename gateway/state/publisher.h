// What is due and when. State is not put into the outbox while that is behind (back-pressure): what is due
// waits with its owner, and only its last value goes out.
//
// Whoever has state to publish adds a function that publishes what is due of it, and wakes the publisher when
// something is. Nothing is published before the publisher is opened: until then what the broker retains is
// not known, and may be newer than what is due.
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

struct publisher;

// Publishes what is due as far as the broker keeps up. True when nothing is left.
typedef bool publish_fn(void *context);

struct publisher *publisher_new(uv_loop_t *loop);
// Closes the handle on the loop: nothing is published any more but by publisher_publish(). The memory goes
// with publisher_free() after the loop has ended.
void publisher_stop(struct publisher *publisher);
void publisher_free(struct publisher *publisher);

// The functions are called in the order in which they were added, each every time. They may wake the
// publisher, but not add to it.
void publisher_add(struct publisher *publisher, publish_fn *publish, void *context);

// Something is due: it is looked at within 100 ms, and again every 100 ms until nothing is left.
void publisher_wake(struct publisher *publisher);

// Something becomes due in so many milliseconds, at least 100: it is looked at then.
void publisher_wake_in(struct publisher *publisher, uint64_t milliseconds);

// From now on state is published: what is due by now is looked at within 100 ms.
void publisher_open(struct publisher *publisher);
bool publisher_is_open(const struct publisher *publisher);

// Publishes now what is due, as far as the broker keeps up. True when nothing is left; false while the
// publisher is closed.
bool publisher_publish(struct publisher *publisher);
