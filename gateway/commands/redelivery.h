// Publishes that a broker delivers again: taken in once.
//
// A broker that resumes our session delivers again what it does not know to be acknowledged: with DUP when it
// remembers that it has sent it; without, when it fell back to an older state of its disk, even though we had
// acknowledged it. From the same publish of somebody who means it twice this is told by what the broker
// retains of us: its marker (see sync.h) says up to which command its memory reaches. What was taken in after
// that it may well deliver again; what was taken in before it knows to be acknowledged. The marker comes
// behind what the session kept, so a publish that we know already is held until then.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "gateway/broker/mqtt.h"
#include "gateway/commands/table.h"

struct redelivery;

struct redelivery *redelivery_new(void);
void redelivery_free(struct redelivery *redelivery); // NULL allowed

// A fingerprint of a publish (topic, payload, response topic, correlation data); never 0. The first command
// that came of a publish carries it, as long as its tombstone stands.
uint64_t redelivery_fingerprint(const struct mqtt_received *received);

// A connection has begun on which a session goes on that the broker has kept: what table holds by now was taken
// in before. table NULL: the session is a new one, for which the broker has kept nothing. now is of a clock
// that does not jump, in microseconds.
void redelivery_begin(struct redelivery *redelivery, const struct command_table *table, int64_t now);

// What to do with a publish. Each one that was taken in before stands for one that is delivered again.
enum redelivery_verdict {
    REDELIVERY_NEW,
    REDELIVERY_AGAIN,   // has been taken in: leave it
    REDELIVERY_UNKNOWN, // is held, until redelivery_end(); copied
};
enum redelivery_verdict redelivery_judge(struct redelivery *redelivery, uint64_t fingerprint,
                                         const struct mqtt_received *received);

// The broker has delivered all that it had kept; vouched is the id of the last command up to which its memory
// reaches, 0 when none. Gives those that are meant to take, in order.
typedef void redelivery_take_fn(void *context, const struct mqtt_received *received);
void redelivery_end(struct redelivery *redelivery, int64_t vouched, redelivery_take_fn *take, void *context);

// The end is overdue: the broker lets us not hear what it retains, or is very slow.
bool redelivery_is_overdue(const struct redelivery *redelivery, int64_t now);
