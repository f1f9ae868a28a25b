// Log entries about the devices that there are; see change.h.
#include "gateway/state/change.h"

#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "gateway/base/clock.h"
#include "gateway/base/log.h"
#include "gateway/base/memory.h"

// An entry that waits for its turn.
struct told {
    enum change change;
    int64_t id, type_id, at; // at: by clock_now()
    struct told *prev, *next;
    const char *name; // behind the ident, or NULL
    char ident[];
};

struct changes {
    const struct bus *bus;
    struct publisher *publisher;
    struct told *waiting; // the longest first
    size_t count;         // of these
    uint64_t left_out;    // since none of them waited
};

static void drop(struct changes *changes, struct told *told) {
    DL_DELETE(changes->waiting, told);
    changes->count--;
    free(told);
}

// The device as flespi's clients want it: older ones as item_data, newer ones as new, or as old when it is gone.
static json_t *item_of(const struct told *told) {
    return json_pack("{s:I, s:s, s:I, s:{s:s}}", "id", (json_int_t)told->id, "name",
                     told->name != NULL ? told->name : told->ident, "device_type_id",
                     (json_int_t)told->type_id, "configuration", "ident", told->ident);
}

static void publish(const struct changes *changes, const struct told *told) {
    static const char *const words[] = {
        [CHANGE_CREATED] = "created", [CHANGE_UPDATED] = "updated", [CHANGE_DELETED] = "deleted"};
    json_t *item = item_of(told);
    json_t *entry = json_pack("{s:i, s:f, s:I, s:s, s:s?, s:s, s:O, s:o}", "event_code", (int)told->change,
                              "timestamp", (double)told->at / 1e6, "device_id", (json_int_t)told->id, "ident",
                              told->ident, "name", told->name, "instance", bus_client_id(changes->bus),
                              "item_data", item, told->change == CHANGE_DELETED ? "old" : "new", item);
    bus_publish(changes->bus, entry, MQTT_NOT_RETAINED, TOPIC_LOG TOPIC_DEVICES "%lld/%s",
                (long long)told->id, words[told->change]);
    json_decref(entry);
}

static void tell_left_out(struct changes *changes) {
    if (changes->left_out > 0)
        log_warning("%llu log entries about devices were left out", (unsigned long long)changes->left_out);
    changes->left_out = 0;
}

static bool publish_waiting(void *context) {
    struct changes *changes = context;
    while (changes->waiting != NULL && bus_keeps_up(changes->bus) && publisher_goes_on(changes->publisher)) {
        publish(changes, changes->waiting);
        drop(changes, changes->waiting);
    }
    if (changes->waiting == NULL)
        tell_left_out(changes);
    return changes->waiting == NULL;
}

static bool has_room(struct changes *changes) {
    if (changes->count < CHANGES_MAX)
        return true;
    if (changes->left_out++ == 0)
        log_warning("log entries about devices are left out: %d wait for the broker", CHANGES_MAX);
    return false;
}

void changes_tell(struct changes *changes, enum change change, int64_t id, int64_t type_id, const char *ident,
                  const char *name) {
    if (!has_room(changes))
        return;
    size_t ident_size = strlen(ident) + 1, name_size = name != NULL ? strlen(name) + 1 : 0;
    struct told *told = must_have(malloc(sizeof *told + ident_size + name_size));
    *told = (struct told){.change = change, .id = id, .type_id = type_id, .at = clock_now()};
    memcpy(told->ident, ident, ident_size);
    if (name != NULL)
        told->name = memcpy(told->ident + ident_size, name, name_size);
    DL_APPEND(changes->waiting, told);
    changes->count++;
    publisher_wake(changes->publisher);
}

struct changes *changes_new(const struct bus *bus, struct publisher *publisher) {
    struct changes *changes = must_have(calloc(1, sizeof *changes));
    changes->bus = bus;
    changes->publisher = publisher;
    publisher_add(publisher, publish_waiting, changes);
    return changes;
}

void changes_free(struct changes *changes) {
    while (changes->waiting != NULL)
        drop(changes, changes->waiting);
    free(changes);
}
