// Other gateways that do what only this one should: use our client_id, or take commands in as we do. Both are
// faults of a configuration, which otherwise show only as connections that break and commands that run twice.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "gateway/broker/bus.h"
#include "gateway/config/config.h"

struct rivals;

// config and bus stay the caller's. started: of this run, in microseconds since 1970. same_id is told that another
// client uses our client_id, once a connection.
struct rivals *rivals_new(const struct config *config, const struct bus *bus, int64_t started,
                          void (*same_id)(void *context), void *context);
void rivals_free(struct rivals *rivals);

// The link is connected (what is retained begins to come). The roll call has settled: what comes from now on was
// published on this connection.
void rivals_connected(struct rivals *rivals);
void rivals_settled(struct rivals *rivals);
// Something came under {prefix}/state/gw/instances/; topic is what follows that.
void rivals_received(struct rivals *rivals, const char *topic, const struct mqtt_received *received);
