// Who a device is: the registry of the configuration, and the identity of those outside it.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "gateway/config/config.h"

struct device {
    bool known;   // has an identity: a device topic and the device.* fields
    bool listed;  // in the registry
    bool allowed; // false: unknown_devices is "reject" and it is not listed
    int64_t id;
    const char *name; // lives as long as the devices of the registry, or is the ident that was asked for
    int64_t type_id;
};

struct registry;

// Takes ownership of devices; frees them with the registry.
struct registry *registry_new(struct config_devices *devices, enum config_unknown unknown);
void registry_free(struct registry *registry);

// Devices that can be looked up. To make and to free them takes long when there are many, and may be done on any
// thread. Takes ownership of devices.
struct registry_index;
struct registry_index *registry_index_new(struct config_devices *devices);
void registry_index_free(struct registry_index *index); // NULL allowed

// Takes ownership of index in place of what it had. That is returned, for the caller to free once nothing points to
// the texts of its devices any more.
struct registry_index *registry_swap(struct registry *registry, struct registry_index *index);

// The device with this ident; its name points to ident when it is not listed.
struct device registry_device(const struct registry *registry, const char *ident);

// The listed device at index, from 0; NULL after the last.
const struct config_device *registry_at(const struct registry *registry, size_t index);

// The ident of the listed device with this id, or NULL.
const char *registry_ident_of(const struct registry *registry, int64_t id);

// Whether a text may be an ident: 1 to CODEC_IDENT_MAX letters, digits, dots, dashes, underscores.
bool device_ident_valid(const char *ident);

// device.id of an unlisted ident: its number when it is at most 15 digits, else a stable hash of 53 bits (the
// upper bits of FNV-1a 64), so that it is exact in every JSON reader.
int64_t device_default_id(const char *ident);
