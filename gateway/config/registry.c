// The registry of devices; see registry.h.
#include "gateway/config/registry.h"

#include <stdlib.h>
#include <string.h>
#include <uthash.h>

#include "gateway/base/hash.h"
#include "gateway/base/memory.h"

struct entry {
    const struct config_device *device;
    UT_hash_handle by_ident, by_id;
};

struct registry {
    enum config_unknown unknown;
    struct config_devices *devices;
    struct entry *entries; // one per device
    struct entry *by_ident, *by_id;
};

static void enter_devices(struct registry *registry, struct config_devices *devices) {
    registry->devices = devices;
    registry->entries = must_have(calloc(devices->count + 1, sizeof *registry->entries));
    for (size_t i = 0; i < devices->count; i++) {
        struct entry *entry = &registry->entries[i];
        const struct config_device *device = &devices->list[i];
        entry->device = device;
        HASH_ADD_KEYPTR(by_ident, registry->by_ident, device->ident, strlen(device->ident), entry);
        HASH_ADD_KEYPTR(by_id, registry->by_id, &device->id, sizeof device->id, entry);
    }
}

static void clear_entries(struct registry *registry) {
    HASH_CLEAR(by_ident, registry->by_ident);
    HASH_CLEAR(by_id, registry->by_id);
    free(registry->entries);
}

struct registry *registry_new(struct config_devices *devices, enum config_unknown unknown) {
    struct registry *registry = must_have(calloc(1, sizeof *registry));
    registry->unknown = unknown;
    enter_devices(registry, devices);
    return registry;
}

struct config_devices *registry_replace(struct registry *registry, struct config_devices *devices) {
    struct config_devices *old = registry->devices;
    clear_entries(registry);
    enter_devices(registry, devices);
    return old;
}

void registry_free(struct registry *registry) {
    clear_entries(registry);
    config_devices_free(registry->devices);
    free(registry);
}

struct device registry_device(const struct registry *registry, const char *ident) {
    struct entry *entry;
    HASH_FIND(by_ident, registry->by_ident, ident, strlen(ident), entry);
    if (entry != NULL)
        return (struct device){.known = true,
                               .listed = true,
                               .allowed = true,
                               .id = entry->device->id,
                               .name = entry->device->name,
                               .type_id = entry->device->type_id};
    int64_t id = device_default_id(ident);
    return (struct device){// No other device gets the topics of a listed one by having its id.
                           .known =
                               registry->unknown == UNKNOWN_ACCEPT && registry_ident_of(registry, id) == NULL,
                           .allowed = registry->unknown != UNKNOWN_REJECT,
                           .id = id,
                           .name = ident};
}

const struct config_device *registry_at(const struct registry *registry, size_t index) {
    return index < registry->devices->count ? &registry->devices->list[index] : NULL;
}

const char *registry_ident_of(const struct registry *registry, int64_t id) {
    struct entry *entry;
    HASH_FIND(by_id, registry->by_id, &id, sizeof id, entry);
    return entry != NULL ? entry->device->ident : NULL;
}

bool device_ident_valid(const char *ident) {
    static const char allowed[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz._-";
    size_t length = strlen(ident);
    return length >= 1 && length <= CODEC_IDENT_MAX && strspn(ident, allowed) == length;
}

int64_t device_default_id(const char *ident) {
    size_t length = strlen(ident);
    if (length >= 1 && length <= 15 && strspn(ident, "0123456789") == length)
        return strtoll(ident, NULL, 10);
    return (int64_t)(hash_fnv1a(ident, length) >> 11);
}
