// Who a device is: the registry of the configuration, that of the broker, and the identity of those outside both
// (strangers), of which only so many have one at once.
//
// A device of the broker's registry is in force unless the configuration has its ident, or its id for another ident:
// whatever the configuration says wins, and when it says so no longer, the broker's counts again.
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

// Devices that can be looked up. To make and to free them takes long when there are many, and may be done on any
// thread. Takes ownership of devices.
struct registry_index;
struct registry_index *registry_index_new(struct config_devices *devices);
void registry_index_free(struct registry_index *index); // NULL allowed
size_t registry_index_count(const struct registry_index *index);

// Takes ownership of index in place of what it had. That is returned, for the caller to free once nothing points to
// the texts of its devices any more.
struct registry_index *registry_swap(struct registry *registry, struct registry_index *index);

// Takes a device of the broker's registry, which is copied, in place of what it said of that ident. Its id must not be
// that of another device of the broker's (see registry_adopted_with()). The second one takes a device out of it. Both return
// what was said of that ident before, or NULL: for the caller to free once nothing points to its name any more.
struct adopted;
struct adopted *registry_adopt(struct registry *registry, const struct config_device *device);
struct adopted *registry_disown(struct registry *registry, const char *ident);
void adopted_free(struct adopted *adopted); // NULL allowed

// What the broker's registry says of that ident, in force or not; NULL when nothing.
const struct config_device *registry_adopted(const struct registry *registry, const char *ident);
// The device that comes after that one in the broker's registry (NULL: the first); NULL after the last. The order holds
// as long as no device comes or goes.
const struct config_device *registry_next_adopted(const struct registry *registry,
                                                  const struct config_device *before);
size_t registry_count_adopted(const struct registry *registry);
// Of the configuration and the broker; who stands in both counts twice.
size_t registry_count_listed(const struct registry *registry);

// Whether that device is outside a registry which names the devices that matter: where it has any, all others are
// strangers.
bool registry_is_outside(const struct registry *registry, const struct device *device);

// Whether a device of the broker's registry is in force: the configuration has neither its ident nor its id.
bool registry_is_in_force(const struct registry *registry, const char *ident);
// The configuration of the last run had that ident, and this one does not.
void registry_note_left(struct registry *registry, const char *ident);
bool registry_has_left(const struct registry *registry, const char *ident);
void registry_forget_left(struct registry *registry);

// Whether the configuration has that ident.
bool registry_is_configured(const struct registry *registry, const char *ident);
// The ident of the device of the broker's with this id, in force or not; and of the configuration's. Or NULL.
const char *registry_adopted_with(const struct registry *registry, int64_t id);
const char *registry_configured_with(const struct registry *registry, int64_t id);

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

// The idents of the configuration, with a space behind each, and a hash of them: 0 when there are none. They are written
// with the index, since that takes long when there are many. Until registry_swap().
const char *registry_configured(const struct registry *registry, uint64_t *hash);
uint64_t registry_hash_of(const char *idents);

// The device of the configuration at index, from 0; NULL after the last.
const struct config_device *registry_at(const struct registry *registry, size_t index);

// The ident of the listed device with this id, or NULL.
const char *registry_ident_of(const struct registry *registry, int64_t id);
