// Who a device is: the registry of the configuration, and the identity of those outside it (strangers), of which
// only so many have one at once.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "gateway/config/config.h"
#include "gateway/config/ident.h"

struct device {
    bool known;   // has an identity, or could have: a device topic and the device.* fields
    bool listed;  // in the registry
    bool allowed; // false: unknown_devices is "reject" and it is not listed
    int64_t id;
    const char *name; // lives as long as the devices of the registry, or is the ident that was asked for
    int64_t type_id;
};

struct registry;

// Takes ownership of devices; frees them with the registry. At most max_strangers devices outside it have an identity.
struct registry *registry_new(struct config_devices *devices, enum config_unknown unknown,
                              size_t max_strangers);
void registry_free(struct registry *registry);

// Takes ownership of devices in place of those that it had. These are returned, for the caller to free with
// config_devices_free() once nothing points to their texts any more.
struct config_devices *registry_replace(struct registry *registry, struct config_devices *devices);

// What holds for devices outside the registry from now on. Those that have an identity keep it.
void registry_set_unknown(struct registry *registry, enum config_unknown unknown, size_t max_strangers);

// The device has an identity from now on, if it is known. A stranger that goes gives its place to another.
void registry_admit(struct registry *registry, const char *ident);
void registry_dismiss(struct registry *registry, const char *ident);
// Whether that stranger has an identity; and whether no other can have one.
bool registry_has_stranger(const struct registry *registry, const char *ident);
bool registry_is_full(const struct registry *registry);

// The device with this ident; its name points to ident when it is not listed.
struct device registry_device(const struct registry *registry, const char *ident);

// The listed device at index, from 0; NULL after the last.
const struct config_device *registry_at(const struct registry *registry, size_t index);

// The ident of the listed device with this id, or NULL.
const char *registry_ident_of(const struct registry *registry, int64_t id);
