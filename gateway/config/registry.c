// The registry of devices; see registry.h.
#include "gateway/config/registry.h"

#include <stdlib.h>
#include <string.h>
#include <uthash.h>

#include "gateway/base/memory.h"

struct entry {
    const struct config_device *device;
    UT_hash_handle by_ident, by_id;
};

struct device_registry {
    enum config_unknown unknown;
    struct config_devices *devices;
    struct entry *entries; // as many
    struct entry *by_ident, *by_id;
};

struct device_registry *device_registry_new(struct config_devices *devices, enum config_unknown unknown) {
    struct device_registry *registry = must_have(calloc(1, sizeof *registry));
    registry->unknown = unknown;
    registry->devices = devices;
    registry->entries = must_have(calloc(devices->count + 1, sizeof *registry->entries));
    for (size_t i = 0; i < devices->count; i++) {
        struct entry *entry = &registry->entries[i];
        const struct config_device *device = &devices->list[i];
        entry->device = device;
        HASH_ADD_KEYPTR(by_ident, registry->by_ident, device->ident, strlen(device->ident), entry);
        HASH_ADD_KEYPTR(by_id, registry->by_id, &device->id, sizeof device->id, entry);
    }
    return registry;
}

void device_registry_free(struct device_registry *registry) {
    HASH_CLEAR(by_ident, registry->by_ident);
    HASH_CLEAR(by_id, registry->by_id);
    free(registry->entries);
    config_devices_free(registry->devices);
    free(registry);
}

struct device device_by_ident(const struct device_registry *registry, const char *ident) {
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
    return (struct device){
        // Nobody gets the topics of a listed device by its id.
        .known = registry->unknown == UNKNOWN_ACCEPT && device_ident_by_id(registry, id) == NULL,
        .allowed = registry->unknown != UNKNOWN_REJECT,
        .id = id,
        .name = ident};
}

const struct config_device *device_listed_at(const struct device_registry *registry, size_t index) {
    return index < registry->devices->count ? &registry->devices->list[index] : NULL;
}

const char *device_ident_by_id(const struct device_registry *registry, int64_t id) {
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
    uint64_t hash = 0xcbf29ce484222325U;
    if (length >= 1 && length <= 15 && strspn(ident, "0123456789") == length)
        return strtoll(ident, NULL, 10);
    for (size_t i = 0; i < length; i++)
        hash = (hash ^ (unsigned char)ident[i]) * 0x100000001b3U;
    return (int64_t)(hash >> 11);
}
