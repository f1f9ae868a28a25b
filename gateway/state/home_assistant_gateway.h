// The gateway itself as a device of Home Assistant, through which the trackers' devices are connected there. As those it is
// announced in one of two kinds, and moves from the other one; see discovery.h.
#pragma once

#include "gateway/broker/bus.h"
#include "gateway/config/config.h"
#include "gateway/state/discovery.h"
#include "gateway/state/guard.h"
#include "gateway/state/publisher.h"

struct home_assistant_gateway;

#define HOME_ASSISTANT_GATEWAY_MAX 1024

// What it is called in Home Assistant's device registry; returns node.
const char *home_assistant_gateway_node(const struct bus *bus, char node[HOME_ASSISTANT_GATEWAY_MAX]);

// Adds itself to the publisher. All that is handed in stays the caller's.
struct home_assistant_gateway *home_assistant_gateway_new(const struct config *config, const struct bus *bus,
                                                          struct publisher *publisher, struct guard *guard);
void home_assistant_gateway_free(struct home_assistant_gateway *gateway);

// Its entities are due to be announced, retained, if the configuration enables that and the instance is to run again.
void home_assistant_gateway_announce(struct home_assistant_gateway *gateway);

// Something has come on a discovery topic: true when it is one of this gateway's. What somebody else has written there is
// wrong, and noted with the guard as {client_id}/discovery, behind TOPIC_INSTANCES.
bool home_assistant_gateway_received(struct home_assistant_gateway *gateway,
                                     const struct mqtt_received *received);

// Removes what a gateway of that node has announced there.
void home_assistant_gateway_remove(const struct bus *bus, const struct discovery_place *place,
                                   const char *node);

// The topic by which a run finds that the gateway has been announced in the other kind; for the caller to free.
char *home_assistant_gateway_found_filter(const struct config *config);
