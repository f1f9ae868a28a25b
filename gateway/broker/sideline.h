// The sideline: what goes out beside the queue of the outbox, so that it never costs a report.
//
//  - What the instance says about itself, at once and before all that waits: of each topic only the last
//    value.
//    When the connection breaks on one, it goes out later on the next; see suspects.h. It is never given up:
//    once the broker takes it again, it should have the value. When the broker refuses one in so many words and closes
//    the connection, the next one of its topic waits for a while.
//  - Results to the response topics of those who sent commands: last, when nothing else waits, one at a time.
//    Whoever may send commands chooses these topics, so they never stand in front of anything else. One that
//    waits for some seconds is written to the store. One that is to blame for breaks is given up.
//
// What is never acknowledged while later messages are blocks nothing: a value goes out again, a result is
// given up.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <uv.h>

#include "gateway/broker/mqtt.h"
#include "gateway/broker/refusals.h"
#include "gateway/broker/store.h"
#include "gateway/broker/suspects.h"

#define SIDELINE_RESULTS_MAX 1000      // that wait; beyond that the oldest is given up
#define SIDELINE_BYTES_MAX   (4 << 20) // and their bytes

struct sideline;

// A message is given up: why is a constant or the broker's reason.
typedef void sideline_given_up_fn(void *context, const struct mqtt_publish *publish, const char *why);

// Continues with the results that the store holds.
struct sideline *sideline_new(uv_loop_t *loop, struct store *store, struct refusals *refusals,
                              sideline_given_up_fn *given_up, void *context);
// Gives all results to the store that are not there.
void sideline_stop(struct sideline *sideline);
void sideline_free(struct sideline *sideline);
// The carrier stays the caller's; it must be set before anything is put.
void sideline_set_carrier(struct sideline *sideline, const struct mqtt_carrier *carrier);

// All of publish is copied.
void sideline_say(struct sideline *sideline, const struct mqtt_publish *publish);
void sideline_result(struct sideline *sideline, const struct mqtt_publish *publish);

void sideline_link_up(struct sideline *sideline);

// Hands over what may go out now. queue_is_empty: the outbox has handed over all that it has.
void sideline_pump(struct sideline *sideline, bool queue_is_empty);

// The broker has answered message mid. False when it is none of these.
bool sideline_published(struct sideline *sideline, int mid, enum mqtt_answer answer, const char *reason);

// The broker has taken a message of the outbox.
void sideline_note_taken(struct sideline *sideline);

// The connection is gone. True when one of these was under way.
bool sideline_link_down(struct sideline *sideline, enum mqtt_end end);

// To be called now and then. last_answer: when the broker answered any message on this connection, by
// uv_now(); 0: never. suspects know how late it answers.
void sideline_tick(struct sideline *sideline, uint64_t last_answer, const struct suspects *suspects);

bool sideline_is_under_way(const struct sideline *sideline); // one of these is at the broker
// Results that the broker does not have.
size_t sideline_count(const struct sideline *sideline);
