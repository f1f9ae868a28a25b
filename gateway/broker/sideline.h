// The sideline: what goes out beside the queue of the outbox, so that it never costs a report.
//
//  - What the instance says about itself, at once and before all that waits: of each topic only the last
//    value.
//  - Results to the response topics of those who sent commands: last, when nothing else waits, one at a time.
//    Whoever may send commands chooses these topics, so they never stand in front of anything else.
//
// When the broker closes the connection while one of these is unanswered, it is to blame before any report.
// One that was to blame twice is given up.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <uv.h>

#include "gateway/broker/mqtt.h"
#include "gateway/broker/refusals.h"

#define SIDELINE_RESULTS_MAX 1000      // that wait; beyond that the oldest is given up
#define SIDELINE_BYTES_MAX   (4 << 20) // and their bytes

struct sideline;

// A message is given up: why is a constant or the broker's reason.
typedef void sideline_given_up_fn(void *context, const struct mqtt_publish *publish, const char *why);

struct sideline *sideline_new(uv_loop_t *loop, struct refusals *refusals, sideline_given_up_fn *given_up,
                              void *context);
void sideline_free(struct sideline *sideline);
// The carrier stays the caller's; it must be set before anything is put.
void sideline_set_carrier(struct sideline *sideline, const struct mqtt_carrier *carrier);

// All of publish is copied.
void sideline_say(struct sideline *sideline, const struct mqtt_publish *publish);
void sideline_result(struct sideline *sideline, const struct mqtt_publish *publish);

// Hands over what may go out now. queue_is_empty: the outbox has handed over all that it has.
void sideline_pump(struct sideline *sideline, bool queue_is_empty);

// The broker has answered message mid. False when it is none of these.
bool sideline_published(struct sideline *sideline, int mid, enum mqtt_answer answer, const char *reason);

// The connection is gone. by_broker: the broker closed it. True when one of these is to blame.
bool sideline_link_down(struct sideline *sideline, bool by_broker);

// Results that the broker does not have.
size_t sideline_count(const struct sideline *sideline);

// Takes a result out, the oldest first, for the caller to free; its pointers point into the same memory. NULL
// when none is left.
struct mqtt_publish *sideline_take(struct sideline *sideline);
