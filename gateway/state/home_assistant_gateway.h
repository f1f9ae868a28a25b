// The gateway itself as a device of Home Assistant, through which the trackers' devices are connected there.
#pragma once

#include "gateway/broker/bus.h"
#include "gateway/config/config.h"

#define HOME_ASSISTANT_GATEWAY_MAX 1024

// What it is called in Home Assistant's device registry; returns node.
const char *home_assistant_gateway_node(const struct bus *bus, char node[HOME_ASSISTANT_GATEWAY_MAX]);

// Announces its entities, retained, if the configuration enables that.
void home_assistant_gateway_announce(const struct config *config, const struct bus *bus);
