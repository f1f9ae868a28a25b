// Taking in what is published to the command topics.
#pragma once

#include "gateway/broker/mqtt_link.h"

struct gateway;

// topic is what follows {prefix}/command/gw/. Each command in the payload is queued, or refused at once with
// a reason.
void command_intake(struct gateway *gateway, const char *topic, const struct mqtt_received *received);
