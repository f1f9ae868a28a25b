// The registry of devices; see registry.h.
#include "gateway/config/registry.h"

#include <stdlib.h>
#include <string.h>

#include "gateway/base/hash.h"
#include "gateway/base/memory.h"
#include "gateway/base/table.h"

struct entry {
    const struct config_device *device;
    UT_hash_handle by_ident, by_id;
};

// A device of the broker's registry; its texts are its own.
struct adopted {
    struct config_device device;
    UT_hash_handle by_ident, by_id;
};

// A device outside the registry that has an identity.
struct stranger {
    char ident[CODEC_IDENT_MAX + 1];
    UT_hash_handle hh;
};

struct registry_index {
    struct config_devices *devices;
    struct entry *entries; // one per device
    struct entry *by_ident, *by_id;
    char *idents; // with a space behind each
    uint64_t hash;
};

struct registry {
    enum config_unknown unknown;
    size_t max_strangers;
    struct stranger *strangers;
    struct stranger *left;        // the configuration, since the last run
    struct registry_index *index; // the configuration's
    struct adopted *adopted_by_ident, *adopted_by_id;
};

uint64_t registry_hash_of(const char *idents) {
    return *idents != '\0' ? hash_fnv1a(idents, strlen(idents)) : 0;
}

static char *write_idents(const struct config_devices *devices) {
    size_t size = 1;
    for (size_t i = 0; i < devices->count; i++)
        size += strlen(devices->list[i].ident) + 1;
    char *text = must_have(malloc(size)), *at = text;
    for (size_t i = 0; i < devices->count; i++)
        at = stpcpy(stpcpy(at, devices->list[i].ident), " ");
    *at = '\0';
    return text;
}

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
    index->idents = write_idents(devices);
    index->hash = registry_hash_of(index->idents);
    return index;
}

const char *registry_configured(const struct registry *registry, uint64_t *hash) {
    *hash = registry->index->hash;
    return registry->index->idents;
}

size_t registry_index_count(const struct registry_index *index) {
    return index->devices->count;
}

void registry_index_free(struct registry_index *index) {
    if (index == NULL)
        return;
    HASH_CLEAR(by_ident, index->by_ident);
    HASH_CLEAR(by_id, index->by_id);
    free(index->entries);
    free(index->idents);
    config_devices_free(index->devices);
    free(index);
}

struct registry *registry_new(struct config_devices *devices, enum config_unknown unknown,
                              size_t max_strangers) {
    struct registry *registry = must_have(calloc(1, sizeof *registry));
    registry_set_unknown(registry, unknown, max_strangers);
    registry->index = registry_index_new(devices);
    return registry;
}

// Who is listed now is no stranger any more.
static void dismiss_listed(struct registry *registry) {
    struct stranger *stranger, *next;
    HASH_ITER(hh, registry->strangers, stranger, next) {
        if (registry_device(registry, stranger->ident).listed)
            registry_dismiss(registry, stranger->ident);
    }
}

struct registry_index *registry_swap(struct registry *registry, struct registry_index *index) {
    struct registry_index *old = registry->index;
    registry->index = index;
    dismiss_listed(registry);
    return old;
}

void registry_set_unknown(struct registry *registry, enum config_unknown unknown, size_t max_strangers) {
    registry->unknown = unknown;
    registry->max_strangers = max_strangers;
}

// --- strangers ---

static struct stranger *find_stranger(const struct registry *registry, const char *ident) {
    struct stranger *stranger;
    HASH_FIND_STR(registry->strangers, ident, stranger);
    return stranger;
}

bool registry_has_stranger(const struct registry *registry, const char *ident) {
    return find_stranger(registry, ident) != NULL;
}

bool registry_is_full(const struct registry *registry) {
    return HASH_COUNT(registry->strangers) >= registry->max_strangers;
}

void registry_admit(struct registry *registry, const char *ident) {
    struct device device = registry_device(registry, ident);
    if (!device.known || device.listed || registry_has_stranger(registry, ident))
        return;
    struct stranger *stranger = must_have(calloc(1, sizeof *stranger));
    strcpy(stranger->ident, ident);
    HASH_ADD_STR(registry->strangers, ident, stranger);
}

static void drop(struct registry *registry, struct stranger *stranger) {
    HASH_DEL(registry->strangers, stranger);
    free(stranger);
}

void registry_dismiss(struct registry *registry, const char *ident) {
    struct stranger *stranger = find_stranger(registry, ident);
    if (stranger != NULL)
        drop(registry, stranger);
}

// --- those that have left the configuration ---

void registry_note_left(struct registry *registry, const char *ident) {
    struct stranger *left = must_have(calloc(1, sizeof *left));
    snprintf(left->ident, sizeof left->ident, "%s", ident);
    if (registry_has_left(registry, left->ident))
        free(left);
    else
        HASH_ADD_STR(registry->left, ident, left);
}

bool registry_has_left(const struct registry *registry, const char *ident) {
    struct stranger *left;
    HASH_FIND_STR(registry->left, ident, left);
    return left != NULL;
}

void registry_forget_left(struct registry *registry) {
    struct stranger *left, *next;
    HASH_ITER(hh, registry->left, left, next) {
        HASH_DEL(registry->left, left);
        free(left);
    }
}

// --- the configuration's and the broker's ---

static const struct config_device *configured(const struct registry *registry, const char *ident) {
    struct entry *entry;
    HASH_FIND(by_ident, registry->index->by_ident, ident, strlen(ident), entry);
    return entry != NULL ? entry->device : NULL;
}

static const struct config_device *configured_by_id(const struct registry *registry, int64_t id) {
    struct entry *entry;
    HASH_FIND(by_id, registry->index->by_id, &id, sizeof id, entry);
    return entry != NULL ? entry->device : NULL;
}

static struct adopted *find_adopted(const struct registry *registry, const char *ident) {
    struct adopted *adopted;
    HASH_FIND(by_ident, registry->adopted_by_ident, ident, strlen(ident), adopted);
    return adopted;
}

static const struct adopted *adopted_by_id(const struct registry *registry, int64_t id) {
    struct adopted *adopted;
    HASH_FIND(by_id, registry->adopted_by_id, &id, sizeof id, adopted);
    return adopted;
}

static bool is_in_force(const struct registry *registry, const struct adopted *adopted) {
    return adopted != NULL && configured(registry, adopted->device.ident) == NULL &&
           configured_by_id(registry, adopted->device.id) == NULL;
}

bool registry_is_outside(const struct registry *registry, const struct device *device) {
    return !device->listed && registry_count_listed(registry) > 0;
}

bool registry_is_in_force(const struct registry *registry, const char *ident) {
    return is_in_force(registry, find_adopted(registry, ident));
}

bool registry_is_configured(const struct registry *registry, const char *ident) {
    return configured(registry, ident) != NULL;
}

const char *registry_adopted_with(const struct registry *registry, int64_t id) {
    const struct adopted *adopted = adopted_by_id(registry, id);
    return adopted != NULL ? adopted->device.ident : NULL;
}

const char *registry_configured_with(const struct registry *registry, int64_t id) {
    const struct config_device *device = configured_by_id(registry, id);
    return device != NULL ? device->ident : NULL;
}

void adopted_free(struct adopted *adopted) {
    if (adopted == NULL)
        return;
    free((char *)adopted->device.ident);
    free((char *)adopted->device.name);
    free(adopted);
}

struct adopted *registry_disown(struct registry *registry, const char *ident) {
    struct adopted *adopted = find_adopted(registry, ident);
    if (adopted == NULL)
        return NULL;
    HASH_DELETE(by_ident, registry->adopted_by_ident, adopted);
    HASH_DELETE(by_id, registry->adopted_by_id, adopted);
    return adopted;
}

struct adopted *registry_adopt(struct registry *registry, const struct config_device *device) {
    struct adopted *before = registry_disown(registry, device->ident);
    struct adopted *adopted = must_have(calloc(1, sizeof *adopted));
    adopted->device = (struct config_device){.ident = must_have(strdup(device->ident)),
                                             .name = must_have(strdup(device->name)),
                                             .id = device->id,
                                             .type_id = device->type_id};
    HASH_ADD_KEYPTR(by_ident, registry->adopted_by_ident, adopted->device.ident, strlen(device->ident),
                    adopted);
    HASH_ADD_KEYPTR(by_id, registry->adopted_by_id, &adopted->device.id, sizeof adopted->device.id, adopted);
    if (is_in_force(registry, adopted))
        registry_dismiss(registry, device->ident);
    return before;
}

const struct config_device *registry_adopted(const struct registry *registry, const char *ident) {
    const struct adopted *adopted = find_adopted(registry, ident);
    return adopted != NULL ? &adopted->device : NULL;
}

const struct config_device *registry_next_adopted(const struct registry *registry,
                                                  const struct config_device *before) {
    const struct adopted *next =
        before == NULL ? registry->adopted_by_ident : find_adopted(registry, before->ident)->by_ident.next;
    return next != NULL ? &next->device : NULL;
}

size_t registry_count_adopted(const struct registry *registry) {
    return HASH_CNT(by_ident, registry->adopted_by_ident);
}

size_t registry_count_listed(const struct registry *registry) {
    return registry_index_count(registry->index) + registry_count_adopted(registry);
}

// --- devices ---

void registry_free(struct registry *registry) {
    while (registry->strangers != NULL)
        drop(registry, registry->strangers);
    registry_forget_left(registry);
    while (registry->adopted_by_ident != NULL)
        adopted_free(registry_disown(registry, registry->adopted_by_ident->device.ident));
    registry_index_free(registry->index);
    free(registry);
}

// NULL when it is in neither registry.
static const struct config_device *find_listed(const struct registry *registry, const char *ident) {
    const struct config_device *device = configured(registry, ident);
    const struct adopted *adopted = device == NULL ? find_adopted(registry, ident) : NULL;
    return is_in_force(registry, adopted) ? &adopted->device : device;
}

struct device registry_device(const struct registry *registry, const char *ident) {
    const struct config_device *listed = find_listed(registry, ident);
    if (listed != NULL)
        return (struct device){.known = true,
                               .listed = true,
                               .allowed = true,
                               .id = listed->id,
                               .name = listed->name,
                               .type_id = listed->type_id};
    int64_t id = device_default_id(ident);
    bool has_place = registry_has_stranger(registry, ident) || !registry_is_full(registry);
    return (struct device){
        // No other device gets the topics of a listed one by having its id.
        .known = registry->unknown == UNKNOWN_ACCEPT && has_place && registry_ident_of(registry, id) == NULL,
        .allowed = registry->unknown != UNKNOWN_REJECT,
        .id = id,
        .name = ident};
}

const struct config_device *registry_at(const struct registry *registry, size_t index) {
    const struct config_devices *devices = registry->index->devices;
    return index < devices->count ? &devices->list[index] : NULL;
}

const char *registry_ident_of(const struct registry *registry, int64_t id) {
    const struct config_device *device = configured_by_id(registry, id);
    const struct adopted *adopted = device == NULL ? adopted_by_id(registry, id) : NULL;
    if (is_in_force(registry, adopted))
        return adopted->device.ident;
    return device != NULL ? device->ident : NULL;
}
