// Home Assistant's MQTT discovery: what it needs to know to show a device, retained under its own prefix.
// Does nothing unless the configuration enables it. Of the kinds
// that there are, discovery.h tells.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "codecs/codec.h"
#include "gateway/broker/bus.h"
#include "gateway/config/config.h"
#include "gateway/state/discovery.h"
#include "schema/field.h"

struct home_assistant;

// How far a device is announced; all zero: not at all.
struct home_assistant_announced {
    uint32_t entities; // a bit for each entity that does not depend on the protocol
    uint32_t own;      // how many of the protocol's own
};

// What is announced.
struct home_assistant_device {
    int64_t id;
    const char *ident, *name;
    int64_t type_id;           // device.type.id, of schema/models.json
    const struct codec *codec; // or NULL
    uint32_t reported;         // a bit for each entity whose field has a value
    struct home_assistant_announced announced;
};

// config and bus stay the caller's.
struct home_assistant *home_assistant_new(const struct config *config, const struct bus *bus);
void home_assistant_free(struct home_assistant *home_assistant);

// The bits of the entities that show the values of a field, or 0 when there is none.
uint32_t home_assistant_entity_of(enum field field);

// Announces the entities of a device that are not announced yet, as far as the broker keeps up, and notes
// them in device->announced. True when none is left.
bool home_assistant_announce(const struct home_assistant *home_assistant,
                             struct home_assistant_device *device);

// Removes all entities of a device, whenever they were announced.
void home_assistant_remove(struct home_assistant *home_assistant, int64_t device_id);

// Where the last run announced, if this one does not; its prefix stays the caller's, NULL: nowhere. home_assistant_remove()
// removes a device there too, the other function there alone, also when the configuration does not enable it now.
void home_assistant_set_former(struct home_assistant *home_assistant, const struct discovery_place *former);
void home_assistant_remove_former(const struct home_assistant *home_assistant, int64_t device_id);

// Something is retained on a topic of the other kind: true, with the device's id, when it is a device of ours. It is
// remembered until the device has moved. *reported has the bits of the entities that a payload of a whole device says.
bool home_assistant_found(struct home_assistant *home_assistant, const struct mqtt_received *received,
                          int64_t *device_id, uint32_t *reported);
// Publishes what comes next of moving the device, if the other kind was found. MOVE_BEGINS: it is to be called again once
// the broker has taken that. MOVE_ENDS: the device may be announced after DISCOVERY_SETTLES.
enum home_assistant_move { MOVE_NONE, MOVE_BEGINS, MOVE_ENDS };
enum home_assistant_move home_assistant_move(struct home_assistant *home_assistant, int64_t device_id);

// Removes the entities that only the protocol former has (NULL: none), of a device that speaks now (or NULL). False
// when the broker does not keep up: it is to be called again.
bool home_assistant_leave_protocol(const struct home_assistant *home_assistant, int64_t device_id,
                                   const struct codec *former, const struct codec *now);

// Whether what has come on a discovery topic of the device is what we have announced there. Also true for an entity
// that the device does not have, or that is not announced.
bool home_assistant_is_right(const struct home_assistant *home_assistant,
                             const struct home_assistant_device *device,
                             const struct mqtt_received *received);

// The device that a discovery topic of ours is about. False for any other topic.
bool home_assistant_topic_id(const struct home_assistant *home_assistant, const char *topic,
                             int64_t *device_id);

// A message on {prefix}/status. True when Home Assistant has started: then all devices are to be announced
// again.
bool home_assistant_received(const struct home_assistant *home_assistant,
                             const struct mqtt_received *received);
