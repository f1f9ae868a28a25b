// Home Assistant's MQTT discovery: what it needs to know to show a device, retained under its own prefix.
// Does nothing unless the configuration enables it.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "schema/field.h"

struct device_state;
struct gateway;
struct mqtt_received;

// The entity that shows the values of a field, as its bit in reported and announced of a device_state; 0 when
// there is none.
uint32_t home_assistant_entity_of(enum field field);

// Announces the entities of a device that are not announced yet, as far as the broker keeps up. True when
// none is left.
bool home_assistant_announce(struct gateway *gateway, struct device_state *state);

// Takes all entities of a device away, whenever they were announced.
void home_assistant_remove(struct gateway *gateway, int64_t device_id);

// A message on {prefix}/status: when Home Assistant has started, all is announced again.
void home_assistant_heard(struct gateway *gateway, const struct mqtt_received *received);
