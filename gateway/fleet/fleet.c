// The devices of all gateways; see fleet.h.
#include "gateway/fleet/fleet.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "gateway/base/memory.h"

#define STEPS_MAX 32 // along the list to find a place; beyond that the list is sorted when it is read

// --- the table ---

struct fleet_device *fleet_by_ident(const struct fleet *fleet, const char *ident) {
    struct fleet_device *device;
    HASH_FIND(by_ident, fleet->by_ident, ident, strlen(ident), device);
    return device;
}

struct fleet_device *fleet_by_id(const struct fleet *fleet, int64_t id) {
    struct fleet_device *device;
    HASH_FIND(by_id, fleet->by_id, &id, sizeof id, device);
    return device;
}

static struct fleet_device *make_device(void) {
    struct fleet_device *device = must_have(calloc(1, sizeof *device));
    device->id = -1;
    device->channel = -1;
    device->latitude = device->longitude = device->speed = NAN;
    device->direction = device->battery = NAN;
    return device;
}

void fleet_touch(struct fleet *fleet, struct fleet_device *device) {
    if (device->changed || *device->ident == '\0')
        return;
    device->changed = true;
    DL_APPEND2(fleet->changed, device, changed_prev, changed_next);
}

static void untouch(struct fleet *fleet, struct fleet_device *device) {
    if (device->changed)
        DL_DELETE2(fleet->changed, device, changed_prev, changed_next);
    device->changed = false;
}

struct fleet_device *fleet_next_changed(struct fleet *fleet) {
    struct fleet_device *device = fleet->changed;
    if (device != NULL)
        untouch(fleet, device);
    return device;
}

static void set_connection(struct fleet *fleet, struct fleet_device *device,
                           enum fleet_connection connection) {
    if (*device->ident != '\0') {
        fleet->connected -= device->connection == FLEET_CONNECTED;
        fleet->connected += connection == FLEET_CONNECTED;
    }
    device->connection = connection;
    fleet_touch(fleet, device);
}

static void leave_strangers(struct fleet *fleet, struct fleet_device *device) {
    if (!device->stranger)
        return;
    DL_DELETE2(fleet->strangers, device, stranger_prev, stranger_next);
    fleet->stranger_count--;
    device->stranger = false;
}

static void join_strangers(struct fleet *fleet, struct fleet_device *device) {
    DL_APPEND2(fleet->strangers, device, stranger_prev, stranger_next);
    fleet->stranger_count++;
    device->stranger = true;
}

// Keeps the list in order, as far as that is quick.
static void enlist(struct fleet *fleet, struct fleet_device *device) {
    struct fleet_device *behind = fleet->newest;
    int steps = 0;
    while (behind != NULL && behind->heard > device->heard && steps++ < STEPS_MAX)
        behind = behind->next;
    fleet->unsorted = fleet->unsorted || (behind != NULL && behind->heard > device->heard);
    DL_PREPEND_ELEM(fleet->newest, behind, device);
}

static void set_heard(struct fleet *fleet, struct fleet_device *device, int64_t heard) {
    if (heard <= device->heard)
        return;
    device->heard = heard;
    fleet_touch(fleet, device);
    if (*device->ident == '\0')
        return;
    DL_DELETE(fleet->newest, device);
    enlist(fleet, device);
}

static void set_ident(struct fleet *fleet, struct fleet_device *device, const char *ident) {
    snprintf(device->ident, sizeof device->ident, "%s", ident);
    HASH_ADD_KEYPTR(by_ident, fleet->by_ident, device->ident, strlen(device->ident), device);
    enlist(fleet, device);
    if (device->id < 0)
        join_strangers(fleet, device);
    fleet->count++;
    fleet_touch(fleet, device);
    fleet->connected += device->connection == FLEET_CONNECTED;
}

static void drop_id(struct fleet *fleet, struct fleet_device *device) {
    if (device->id < 0)
        return;
    HASH_DELETE(by_id, fleet->by_id, device);
    device->id = -1;
    if (*device->ident != '\0')
        join_strangers(fleet, device);
}

static void set_id(struct fleet *fleet, struct fleet_device *device, int64_t id) {
    drop_id(fleet, device);
    leave_strangers(fleet, device);
    device->id = id;
    HASH_ADD(by_id, fleet->by_id, id, sizeof device->id, device);
}

static void forget(struct fleet *fleet, struct fleet_device *device) {
    drop_id(fleet, device);
    leave_strangers(fleet, device);
    if (*device->ident != '\0') {
        if (fleet->gone != NULL)
            fleet->gone(fleet->context, device);
        set_connection(fleet, device, FLEET_UNKNOWN);
        untouch(fleet, device);
        HASH_DELETE(by_ident, fleet->by_ident, device);
        DL_DELETE(fleet->newest, device);
        fleet->count--;
    }
    free(device);
}

// For one more device.
static void make_room(struct fleet *fleet) {
    size_t most = fleet->most > 0 ? fleet->most : FLEET_MAX;
    while (fleet->stranger_count >= FLEET_STRANGERS_MAX)
        forget(fleet, fleet->strangers);
    while (fleet->count >= most)
        forget(fleet, fleet_newest(fleet)->prev); // the last one: the list is a ring backwards
    while (HASH_CNT(by_id, fleet->by_id) >= most)
        forget(fleet, fleet->by_id); // known by its id alone, or from long ago
}

// What was known of the id alone goes to the device that turns out to have that id.
static void merge(struct fleet *fleet, struct fleet_device *device, struct fleet_device *nameless) {
    if (device->connection == FLEET_UNKNOWN)
        set_connection(fleet, device, nameless->connection);
    if (!device->live) {
        device->latitude = nameless->latitude;
        device->longitude = nameless->longitude;
        device->speed = nameless->speed;
        device->direction = nameless->direction;
        device->battery = nameless->battery;
        set_heard(fleet, device, nameless->heard);
    }
    forget(fleet, nameless);
}

// The device of this ident, and of this id where it is not -1.
static struct fleet_device *find_or_make(struct fleet *fleet, const char *ident, int64_t id) {
    if (fleet_by_ident(fleet, ident) == NULL)
        make_room(fleet);
    struct fleet_device *device = fleet_by_ident(fleet, ident);
    struct fleet_device *other = id >= 0 ? fleet_by_id(fleet, id) : NULL;
    if (device == NULL) {
        bool nameless = other != NULL && *other->ident == '\0';
        device = nameless ? other : make_device();
        set_ident(fleet, device, ident);
    }
    if (id < 0 || device == other || device->id == id)
        return device;
    if (other != NULL && *other->ident == '\0')
        merge(fleet, device, other);
    else if (other != NULL)
        drop_id(fleet, other); // the id now belongs to another device
    set_id(fleet, device, id);
    return device;
}

static struct fleet_device *find_or_make_id(struct fleet *fleet, int64_t id) {
    struct fleet_device *device = fleet_by_id(fleet, id);
    if (device == NULL) {
        make_room(fleet);
        device = make_device();
        set_id(fleet, device, id);
    }
    return device;
}

static void set_name(struct fleet_device *device, const char *name) {
    if (*name != '\0')
        snprintf(device->name, sizeof device->name, "%s", name);
}

static void set_type(struct fleet_device *device, int64_t type) {
    if (type >= 0)
        device->type = type;
}

// --- what comes in ---

static void take_values(struct fleet_device *device, const struct report *report) {
    if (!isnan(report->latitude) && !isnan(report->longitude)) {
        device->latitude = report->latitude;
        device->longitude = report->longitude;
    }
    if (!isnan(report->speed))
        device->speed = report->speed;
    if (!isnan(report->direction))
        device->direction = report->direction;
    if (!isnan(report->battery))
        device->battery = report->battery;
}

// The way that it came.
static void take_way(struct fleet_device *device, const struct report *report) {
    if (report->protocol > 0)
        device->protocol = report->protocol;
    if (report->channel >= 0)
        device->channel = report->channel;
}

void fleet_report(struct fleet *fleet, const struct report *report) {
    struct fleet_device *device = find_or_make(fleet, report->ident, report->id);
    if (device->stranger) { // the last one to be forgotten
        leave_strangers(fleet, device);
        join_strangers(fleet, device);
    }
    set_name(device, report->name);
    set_type(device, report->type);
    take_way(device, report);
    fleet_touch(fleet, device);
    if (report->reported >= device->reported) { // an old report does not overwrite newer values
        take_values(device, report);
        device->reported = report->reported;
    }
    snprintf(device->event, sizeof device->event, "%s", report->event);
    if (report->notable) {
        snprintf(device->notable, sizeof device->notable, "%s", report->event);
        device->notable_at = report->received;
        device->alarm = report->alarm;
    }
    device->live = true;
    set_heard(fleet, device, report->received);
}

void fleet_presence(struct fleet *fleet, const struct presence *presence) {
    struct fleet_device *device = find_or_make(fleet, presence->report.ident, presence->report.id);
    // A device that moves to another gateway connects there first and is disconnected here afterwards.
    if (!presence->connected && device->instance != 0 && device->instance != presence->instance)
        return;
    device->instance = presence->connected ? presence->instance : 0;
    set_connection(fleet, device, presence->connected ? FLEET_CONNECTED : FLEET_DISCONNECTED);
}

void fleet_identity(struct fleet *fleet, int64_t id, const struct report *identity) {
    struct fleet_device *device = fleet_by_id(fleet, id);
    if (identity == NULL) {
        if (device != NULL)
            forget(fleet, device);
        return;
    }
    device = find_or_make(fleet, identity->ident, id);
    set_name(device, identity->name);
    set_type(device, identity->type);
    take_way(device, identity);
    fleet_touch(fleet, device);
}

void fleet_connected(struct fleet *fleet, int64_t id, enum fleet_connection connection) {
    set_connection(fleet, find_or_make_id(fleet, id), connection);
}

void fleet_position(struct fleet *fleet, int64_t id, const struct report *position) {
    struct fleet_device *device = find_or_make_id(fleet, id);
    take_values(device, position);
    fleet_touch(fleet, device);
}

void fleet_battery(struct fleet *fleet, int64_t id, double battery) {
    if (isnan(battery))
        return;
    struct fleet_device *device = find_or_make_id(fleet, id);
    device->battery = battery;
    fleet_touch(fleet, device);
}

void fleet_heard(struct fleet *fleet, int64_t id, int64_t heard) {
    set_heard(fleet, find_or_make_id(fleet, id), heard);
}

void fleet_lost(struct fleet *fleet) {
    for (struct fleet_device *device = fleet->newest; device != NULL; device = device->next)
        device->live = false;
}

// --- reading ---

static int compare_heard(const struct fleet_device *a, const struct fleet_device *b) {
    return (a->heard < b->heard) - (a->heard > b->heard);
}

struct fleet_device *fleet_newest(struct fleet *fleet) {
    if (fleet->unsorted)
        DL_SORT(fleet->newest, compare_heard);
    fleet->unsorted = false;
    return fleet->newest;
}

void fleet_free(struct fleet *fleet) {
    struct fleet_device *device, *next;
    HASH_ITER(by_id, fleet->by_id, device, next)
    if (*device->ident == '\0')
        forget(fleet, device);
    while (fleet->newest != NULL)
        forget(fleet, fleet->newest);
}
