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
    const char *name; // lives as long as the registry, or is the ident that was asked for
    int64_t type_id;
};

struct device_registry;

// Takes devices over; frees them with the registry.
struct device_registry *device_registry_new(struct config_devices *devices, enum config_unknown unknown);
void device_registry_free(struct device_registry *registry);

// Who the device of this ident is; name points to ident where it is not listed.
struct device device_by_ident(const struct device_registry *registry, const char *ident);

// Listed device number index, or NULL after the last.
const struct config_device *device_listed_at(const struct device_registry *registry, size_t index);

// The ident of the listed device of this id, or NULL.
const char *device_ident_by_id(const struct device_registry *registry, int64_t id);

// Whether a text may be an ident: 1 to CODEC_IDENT_MAX letters, digits, dots, dashes, underscores.
bool device_ident_valid(const char *ident);

// device.id of an unlisted ident: its number when it is at most 15 digits, else a stable hash of 53 bits (the
// upper bits of FNV-1a 64), so that it is exact in every JSON reader.
int64_t device_default_id(const char *ident);
