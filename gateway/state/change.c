// Log entries about the devices that there are; see change.h.
#include "gateway/state/change.h"

#include <stdlib.h>
#include <utlist.h>

#include "gateway/base/clock.h"
#include "gateway/base/memory.h"

// An entry that waits for its turn.
struct told {
    enum change change;
    int64_t id;
    json_t *entry;
    struct told *prev, *next;
};

struct changes {
    const struct bus *bus;
    struct publisher *publisher;
    struct told *waiting; // the longest first
};

static void drop(struct changes *changes, struct told *told) {
    DL_DELETE(changes->waiting, told);
    json_decref(told->entry);
    free(told);
}

static void publish(const struct changes *changes, const struct told *told) {
    static const char *const words[] = {
        [CHANGE_CREATED] = "created", [CHANGE_UPDATED] = "updated", [CHANGE_DELETED] = "deleted"};
    bus_publish(changes->bus, told->entry, MQTT_NOT_RETAINED, TOPIC_LOG TOPIC_DEVICES "%lld/%s",
                (long long)told->id, words[told->change]);
}

static bool publish_waiting(void *context) {
    struct changes *changes = context;
    while (changes->waiting != NULL && bus_keeps_up(changes->bus)) {
        publish(changes, changes->waiting);
        drop(changes, changes->waiting);
    }
    return changes->waiting == NULL;
}

void changes_tell(struct changes *changes, enum change change, int64_t id, const char *ident,
                  const char *name) {
    struct told *told = must_have(calloc(1, sizeof *told));
    told->change = change;
    told->id = id;
    told->entry = json_pack("{s:i, s:f, s:I, s:s, s:s?, s:s}", "event_code", (int)change, "timestamp",
                            (double)clock_now() / 1e6, "device_id", (json_int_t)id, "ident", ident, "name",
                            name, "instance", bus_client_id(changes->bus));
    DL_APPEND(changes->waiting, told);
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
