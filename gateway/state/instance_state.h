// What is retained for this instance: state/gw/instances/{client_id}.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "gateway/broker/bus.h"
#include "gateway/config/config.h"

struct instance_state;

// The Last Will: what the broker says about us when the connection breaks.
extern const char instance_state_last_will[];

// started: microseconds since 1970. config and bus stay the caller's.
struct instance_state *instance_state_new(const struct config *config, const struct bus *bus,
                                          int64_t started);
void instance_state_free(struct instance_state *instance_state);

// Goes to the broker at once and not through the outbox, where it would wait behind all messages. Lost while
// the broker is away.
void instance_state_publish(const struct instance_state *instance_state, bool online);

// One that takes commands in says whether the broker lets it ("commands"). Until this is called it does not.
void instance_state_set_commands(struct instance_state *instance_state, bool come);

// Whether what came on our own topic, not retained, is what stands there: we are online, in this run.
bool instance_state_is_right(const struct instance_state *instance_state,
                             const struct mqtt_received *received);
