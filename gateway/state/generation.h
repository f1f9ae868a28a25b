// The generation: a number that only grows, retained at state/gw/instances/{client_id}/generation. It tells how
// old the state is that a broker has.
//
// What we publish belongs to the generation of that moment, and who remembers a value remembers its generation
// with it. At most once a second the number is published, after the broker has acknowledged all that belongs to
// it. So a broker that says a number at a connection has everything up to that generation, also when it has
// fallen back to an older state of its disk. One that says none has nothing.
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "gateway/broker/bus.h"
#include "gateway/broker/mqtt.h"
#include "gateway/state/publisher.h"

struct generation;

// Generations after `after` and before `before`.
struct generation_span {
    uint32_t after, before;
};

// Adds itself to the publisher. bus and publisher stay the
// caller's.
struct generation *generation_new(uv_loop_t *loop, const struct bus *bus, struct publisher *publisher);
void generation_free(struct generation *generation);

// Something is published now: the generation it belongs to, never 0.
uint32_t generation_write(struct generation *generation);

// The last number that this broker is known to have: nothing that belongs to it or to an earlier generation is lost unless
// the broker falls back to an older one. 0: none.
uint32_t generation_vouched(const struct generation *generation);

// The link is gone, and the outbox does not know it yet: it drops what was said and not acknowledged.
void generation_link_down(struct generation *generation);

// The link is connected: another generation begins.
void generation_connected(struct generation *generation);

// Something came under {prefix}/state/gw/instances/; topic is what follows that.
void generation_received(struct generation *generation, const char *topic,
                         const struct mqtt_received *received);

// All that the broker retains has come. What was published in the span is not with it, or may not be.
struct generation_span generation_settled(struct generation *generation);

// Whether payload is the number that was published last, and publishing that again.
bool generation_is_said(const struct generation *generation, const char *payload, size_t length);
void generation_say_again(struct generation *generation);
