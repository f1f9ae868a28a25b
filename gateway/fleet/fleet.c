// The devices that `trackbus watch` knows; see fleet.h.
#include "gateway/fleet/fleet.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "gateway/base/memory.h"

#define STEPS_MAX 32 // in the list to find a place; beyond that it is sorted when it is shown

// --- the table ---

struct watch_device *watch_fleet_by_ident(const struct watch_fleet *fleet, const char *ident) {
    struct watch_device *device;
    HASH_FIND(by_ident, fleet->by_ident, ident, strlen(ident), device);
    return device;
}

struct watch_device *watch_fleet_by_id(const struct watch_fleet *fleet, int64_t id) {
    struct watch_device *device;
    HASH_FIND(by_id, fleet->by_id, &id, sizeof id, device);
    return device;
}

static struct watch_device *make_device(void) {
    struct watch_device *device = must_have(calloc(1, sizeof *device));
    device->id = -1;
    device->latitude = device->longitude = device->speed = device->battery = NAN;
    return device;
}

static void set_connection(struct watch_fleet *fleet, struct watch_device *device,
                           enum watch_connection connection) {
    if (*device->ident != '\0') {
        fleet->connected -= device->connection == WATCH_CONNECTED;
        fleet->connected += connection == WATCH_CONNECTED;
    }
    device->connection = connection;
}

// Keeps the list in order, as far as that is quick.
static void enlist(struct watch_fleet *fleet, struct watch_device *device) {
    struct watch_device *behind = fleet->newest;
    int steps = 0;
    while (behind != NULL && behind->heard > device->heard && steps++ < STEPS_MAX)
        behind = behind->next;
    fleet->unsorted = fleet->unsorted || (behind != NULL && behind->heard > device->heard);
    DL_PREPEND_ELEM(fleet->newest, behind, device);
}

static void set_heard(struct watch_fleet *fleet, struct watch_device *device, int64_t heard) {
    if (heard <= device->heard)
        return;
    device->heard = heard;
    if (*device->ident == '\0')
        return;
    DL_DELETE(fleet->newest, device);
    enlist(fleet, device);
}

static void set_ident(struct watch_fleet *fleet, struct watch_device *device, const char *ident) {
    snprintf(device->ident, sizeof device->ident, "%s", ident);
    HASH_ADD_KEYPTR(by_ident, fleet->by_ident, device->ident, strlen(device->ident), device);
    enlist(fleet, device);
    fleet->count++;
    fleet->connected += device->connection == WATCH_CONNECTED;
}

static void drop_id(struct watch_fleet *fleet, struct watch_device *device) {
    if (device->id >= 0)
        HASH_DELETE(by_id, fleet->by_id, device);
    device->id = -1;
}

static void set_id(struct watch_fleet *fleet, struct watch_device *device, int64_t id) {
    drop_id(fleet, device);
    device->id = id;
    HASH_ADD(by_id, fleet->by_id, id, sizeof device->id, device);
}

static void forget(struct watch_fleet *fleet, struct watch_device *device) {
    drop_id(fleet, device);
    if (*device->ident != '\0') {
        set_connection(fleet, device, WATCH_UNKNOWN);
        HASH_DELETE(by_ident, fleet->by_ident, device);
        DL_DELETE(fleet->newest, device);
        fleet->count--;
    }
    free(device);
}

// What was known of the id alone goes to the device that turns out to have it.
static void merge(struct watch_fleet *fleet, struct watch_device *device, struct watch_device *nameless) {
    if (device->connection == WATCH_UNKNOWN)
        set_connection(fleet, device, nameless->connection);
    if (!device->live) {
        device->latitude = nameless->latitude;
        device->longitude = nameless->longitude;
        device->speed = nameless->speed;
        device->battery = nameless->battery;
        set_heard(fleet, device, nameless->heard);
    }
    forget(fleet, nameless);
}

// The device of this ident, and of this id where it is not -1.
static struct watch_device *find_or_make(struct watch_fleet *fleet, const char *ident, int64_t id) {
    struct watch_device *device = watch_fleet_by_ident(fleet, ident);
    struct watch_device *other = id >= 0 ? watch_fleet_by_id(fleet, id) : NULL;
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
        drop_id(fleet, other); // the id has gone over to another device
    set_id(fleet, device, id);
    return device;
}

static struct watch_device *find_or_make_id(struct watch_fleet *fleet, int64_t id) {
    struct watch_device *device = watch_fleet_by_id(fleet, id);
    if (device == NULL) {
        device = make_device();
        set_id(fleet, device, id);
    }
    return device;
}

static void set_name(struct watch_device *device, const char *name) {
    if (*name != '\0')
        snprintf(device->name, sizeof device->name, "%s", name);
}

// --- what comes in ---

static void take_values(struct watch_device *device, const struct watch_report *report) {
    if (!isnan(report->latitude) && !isnan(report->longitude)) {
        device->latitude = report->latitude;
        device->longitude = report->longitude;
    }
    if (!isnan(report->speed))
        device->speed = report->speed;
    if (!isnan(report->battery))
        device->battery = report->battery;
}

void watch_fleet_report(struct watch_fleet *fleet, const struct watch_report *report) {
    struct watch_device *device = find_or_make(fleet, report->ident, report->id);
    set_name(device, report->name);
    if (report->reported >= device->reported) { // what a device says late does not move it back
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

void watch_fleet_presence(struct watch_fleet *fleet, const struct watch_presence *presence) {
    struct watch_device *device = find_or_make(fleet, presence->report.ident, presence->report.id);
    // A device that went to another gateway is first connected there and then disconnected here.
    if (!presence->connected && device->instance != 0 && device->instance != presence->instance)
        return;
    device->instance = presence->connected ? presence->instance : 0;
    set_connection(fleet, device, presence->connected ? WATCH_CONNECTED : WATCH_DISCONNECTED);
}

void watch_fleet_identity(struct watch_fleet *fleet, int64_t id, const struct watch_report *identity) {
    struct watch_device *device = watch_fleet_by_id(fleet, id);
    if (identity != NULL)
        set_name(find_or_make(fleet, identity->ident, id), identity->name);
    else if (device != NULL)
        forget(fleet, device);
}

void watch_fleet_connected(struct watch_fleet *fleet, int64_t id, enum watch_connection connection) {
    set_connection(fleet, find_or_make_id(fleet, id), connection);
}

void watch_fleet_position(struct watch_fleet *fleet, int64_t id, const struct watch_report *position) {
    take_values(find_or_make_id(fleet, id), position);
}

void watch_fleet_battery(struct watch_fleet *fleet, int64_t id, double battery) {
    if (!isnan(battery))
        find_or_make_id(fleet, id)->battery = battery;
}

void watch_fleet_heard(struct watch_fleet *fleet, int64_t id, int64_t heard) {
    set_heard(fleet, find_or_make_id(fleet, id), heard);
}

void watch_fleet_lost(struct watch_fleet *fleet) {
    for (struct watch_device *device = fleet->newest; device != NULL; device = device->next)
        device->live = false;
}

// --- showing ---

static int compare_heard(const struct watch_device *a, const struct watch_device *b) {
    return (a->heard < b->heard) - (a->heard > b->heard);
}

struct watch_device *watch_fleet_newest(struct watch_fleet *fleet) {
    if (fleet->unsorted)
        DL_SORT(fleet->newest, compare_heard);
    fleet->unsorted = false;
    return fleet->newest;
}

void watch_fleet_free(struct watch_fleet *fleet) {
    struct watch_device *device, *next;
    HASH_ITER(by_id, fleet->by_id, device, next)
    if (*device->ident == '\0')
        forget(fleet, device);
    while (fleet->newest != NULL)
        forget(fleet, fleet->newest);
}
