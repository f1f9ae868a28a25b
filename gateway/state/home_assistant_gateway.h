// The gateway itself as a device of Home Assistant, through which the trackers' devices are connected there.
#pragma once

#include "gateway/broker/bus.h"
#include "gateway/config/config.h"
#include "gateway/state/publisher.h"

struct home_assistant_gateway;

#define HOME_ASSISTANT_GATEWAY_MAX 1024

// What it is called in Home Assistant's device registry; returns node.
const char *home_assistant_gateway_node(const struct bus *bus, char node[HOME_ASSISTANT_GATEWAY_MAX]);

// Adds itself to the publisher. All that is handed in stays the caller's.
struct home_assistant_gateway *home_assistant_gateway_new(const struct config *config, const struct bus *bus,
                                                          struct publisher *publisher);
void home_assistant_gateway_free(struct home_assistant_gateway *gateway);

// Its entities are due to be announced, retained, if the configuration enables that.
void home_assistant_gateway_announce(struct home_assistant_gateway *gateway);
