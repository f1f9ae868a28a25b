// Publishes that a broker delivers again: taken in once.
//
// A broker that resumes our session delivers again what it does not know to be acknowledged, also when it fell back to
// an older state of its disk and we had acknowledged it. From the same publish of somebody who means it twice this is
// told by the packet id, and by what the broker retains of us: its marker (see sync.h) says up to which command its
// memory reaches. What was taken in before the marker it knows to be acknowledged, and does not deliver again, so that
// a packet id that comes again is a new use of it. The marker comes behind what the session kept: until then a publish
// that may be one of both has made a command, on disk as any other, that waits (its twin is the command of the first
// time).
//
// A broker may remember the marker and not the acknowledgement all the same. So for a minute from the connection a
// publish of a command that must not happen twice is left out behind the marker too when one with the same packet id and content came shortly
// before; the log says so. Any other is taken in: packet ids go round, and it rather runs twice than not at all.
//
// What the marker does not cover need not come again either: a gateway that is killed soon acknowledges and never comes to
// the next marker, and packet ids go round. So a publish that may happen twice is left out only where it is likely: where
// the broker shows a marker older than one that it has had, or where this very run took in the first one, and so has counted
// the packet ids since. (That a broker took what was sent behind an acknowledgement proves nothing: one that is killed may
// fall back to before both.)
//
// A broker may number anew on each connection (RabbitMQ does). So a command that must not happen twice is left out
// whatever its packet id; another one rather runs twice. The DUP flag tells nothing of this: a broker that fell back
// delivers without it, and one that never sent us a publish may set it.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "gateway/broker/mqtt.h"

struct redelivery;

struct redelivery *redelivery_new(void);
void redelivery_free(struct redelivery *redelivery); // NULL allowed

// A fingerprint of a publish (topic, payload, response topic, correlation data); never 0. The first command
// that came of a publish carries it, as long as its tombstone stands.
uint64_t redelivery_fingerprint(const struct mqtt_received *received);

// A publish that was taken in before the connection.
struct redelivery_publish {
    uint64_t fingerprint;
    int mid;
    uint64_t nth; // 0: it came to an earlier run, before all of this one
    int64_t id;   // of its first command, or of that place of it in the journal while none is taken in
};

// A connection has begun on which a session goes on that the broker has kept: redelivery_add() tells what was taken in
// before, up to so many, before redelivery_twin() is asked. now is of a clock that does not jump, in microseconds.
void redelivery_begin(struct redelivery *redelivery, size_t most, int64_t now);
void redelivery_add(struct redelivery *redelivery, const struct redelivery_publish *publish);

// The id of a command that came of this publish, or of the publish in the journal, if it is delivered again, which then stands for no other one; 0 when it
// is surely a new one: packet ids go round, so that one is used again after so many publishes. nth: its number, see
// struct mqtt_received. once: its commands must not happen twice.
int64_t redelivery_twin(struct redelivery *redelivery, uint64_t fingerprint, int mid, uint64_t nth,
                        bool once);

// How many were told of.
size_t redelivery_count(const struct redelivery *redelivery);

// How many of what came before were looked at, in all: where they were added in the order of their ids no more than twice
// as many as there were, and three for each call of redelivery_twin().
size_t redelivery_looked_at(const struct redelivery *redelivery);

// What comes now is new.
void redelivery_end(struct redelivery *redelivery);

// The connection has lasted for a minute: time to end. When the broker has not delivered by now what it had kept, it
// lets us not hear what it retains, or is very slow.
bool redelivery_is_overdue(const struct redelivery *redelivery, int64_t now);
