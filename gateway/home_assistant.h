// Home Assistant's MQTT discovery: what it needs to know to show a device, retained under its own prefix.
#pragma once

#include <stdint.h>

struct device_state;
struct gateway;
struct mqtt_received;

// Announces the entities of a device for which there are values, and that are not announced yet or whose
// device has another name now.
void home_assistant_announce(struct gateway *gateway, struct device_state *state);

// Takes all entities of a device away.
void home_assistant_remove(struct gateway *gateway, int64_t device_id);

// A message on {prefix}/status: when Home Assistant has started, all is announced again.
void home_assistant_heard(struct gateway *gateway, const struct mqtt_received *received);
