// The devices of all gateways, as a client of the broker knows them, newest first.
//
// Messages name a device by its ident, states by its id; an identity (or a message) says which belong
// together. What is known of an id alone is kept, but not listed.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uthash.h>

#include "gateway/fleet/report.h"

enum fleet_connection { FLEET_UNKNOWN, FLEET_CONNECTED, FLEET_DISCONNECTED };

struct fleet_device {
    char ident[CODEC_IDENT_MAX + 1]; // "" while only the id is known
    char name[REPORT_NAME_MAX];
    int64_t id;       // or -1
    int64_t type;     // device.type.id; 0: none
    int64_t heard;    // time of its last message, microseconds since 1970; 0: no message yet
    int64_t reported; // the time that the values below are of
    bool live;        // messages have come on this connection: what the broker retains is not newer
    double latitude, longitude, speed, direction, battery; // as in struct report
    int protocol;                                          // of its last message, or 0
    int64_t channel;                                       // the same, or -1
    enum fleet_connection connection;
    uint64_t instance; // the gateway that it is connected to, when the log said so; else 0
    char event[REPORT_EVENT_MAX];
    char notable[REPORT_EVENT_MAX]; // the last event that was notable
    int64_t notable_at;
    bool alarm;                       // the notable one is an alarm
    struct fleet_device *prev, *next; // next: the one heard before it; listed only with an ident
    UT_hash_handle by_ident, by_id;
    void *notes;   // of whoever owns the fleet, who is told when the device goes
    bool stranger; // is in the list of those without an id
    struct fleet_device *stranger_prev, *stranger_next;
    bool changed; // is in the list of fleet_next_changed()
    struct fleet_device *changed_prev, *changed_next;
};

// Anybody who reaches a gateway's port makes up devices without an id, one for each report. Beyond so many the one that
// reported longest ago is forgotten; and of all devices the one heard longest ago.
#define FLEET_STRANGERS_MAX 10000
#define FLEET_MAX           400000

struct fleet {
    struct fleet_device *by_ident, *by_id;
    struct fleet_device *newest; // list of those with an ident
    size_t count, connected;     // of those in the list
    bool unsorted;
    struct fleet_device *strangers; // who reported longest ago first
    size_t stranger_count;
    size_t most;                  // devices, in all; 0: FLEET_MAX
    struct fleet_device *changed; // since they were last taken
    // Told before a device that was listed goes. Or NULL.
    void (*gone)(void *context, struct fleet_device *device);
    void *context;
};

// Takes what a message says.
void fleet_report(struct fleet *fleet, const struct report *report);
// Takes what a log entry says.
void fleet_presence(struct fleet *fleet, const struct presence *presence);
// The rest takes what is retained for a device. For a live one only the first two are worth passing on. The
// identity is NULL when the device is gone.
void fleet_identity(struct fleet *fleet, int64_t id, const struct report *identity);
void fleet_connected(struct fleet *fleet, int64_t id, enum fleet_connection connection);
void fleet_position(struct fleet *fleet, int64_t id, const struct report *position);
void fleet_battery(struct fleet *fleet, int64_t id, double battery);
void fleet_heard(struct fleet *fleet, int64_t id, int64_t heard);

// The connection to the broker was lost: what it retains may be newer once it is back.
void fleet_lost(struct fleet *fleet);

// The device of that id, or NULL.
struct fleet_device *fleet_by_id(const struct fleet *fleet, int64_t id);
// The device of that ident, or NULL.
struct fleet_device *fleet_by_ident(const struct fleet *fleet, const char *ident);

// The one heard last; its next is the one heard before it.
struct fleet_device *fleet_newest(struct fleet *fleet);

// Takes one of the listed devices that have changed since they were taken last; NULL when there is none.
struct fleet_device *fleet_next_changed(struct fleet *fleet);
// Puts a device among them, for what its owner notes of it.
void fleet_touch(struct fleet *fleet, struct fleet_device *device);

// Frees the devices; the struct stays the caller's.
void fleet_free(struct fleet *fleet);
