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

struct registry_index {
    struct config_devices *devices;
    struct entry *entries; // one per device
    struct entry *by_ident, *by_id;
};

struct registry {
    enum config_unknown unknown;
    struct registry_index *index;
};

struct registry_index *registry_index_new(struct config_devices *devices) {
    struct registry_index *index = must_have(calloc(1, sizeof *index));
    index->devices = devices;
    index->entries = must_have(calloc(devices->count + 1, sizeof *index->entries));
    for (size_t i = 0; i < devices->count; i++) {
        struct entry *entry = &index->entries[i];
        const struct config_device *device = &devices->list[i];
        entry->device = device;
        HASH_ADD_KEYPTR(by_ident, index->by_ident, device->ident, strlen(device->ident), entry);
        HASH_ADD_KEYPTR(by_id, index->by_id, &device->id, sizeof device->id, entry);
    }
    return index;
}

void registry_index_free(struct registry_index *index) {
    if (index == NULL)
        return;
    HASH_CLEAR(by_ident, index->by_ident);
    HASH_CLEAR(by_id, index->by_id);
    free(index->entries);
    config_devices_free(index->devices);
    free(index);
}

struct registry *registry_new(struct config_devices *devices, enum config_unknown unknown) {
    struct registry *registry = must_have(calloc(1, sizeof *registry));
    registry->unknown = unknown;
    registry->index = registry_index_new(devices);
    return registry;
}

struct registry_index *registry_swap(struct registry *registry, struct registry_index *index) {
    struct registry_index *old = registry->index;
    registry->index = index;
    return old;
}

void registry_free(struct registry *registry) {
    registry_index_free(registry->index);
    free(registry);
}

struct device registry_device(const struct registry *registry, const char *ident) {
    struct entry *entry;
    HASH_FIND(by_ident, registry->index->by_ident, ident, strlen(ident), entry);
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
    const struct config_devices *devices = registry->index->devices;
    return index < devices->count ? &devices->list[index] : NULL;
}

const char *registry_ident_of(const struct registry *registry, int64_t id) {
    struct entry *entry;
    HASH_FIND(by_id, registry->index->by_id, &id, sizeof id, entry);
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
