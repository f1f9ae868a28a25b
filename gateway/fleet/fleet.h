// The devices that `trackbus watch` knows, newest first.
//
// Messages name a device by its ident, states by its id; an identity (or a message) says which belong
// together. What is known of an id alone is kept, and not shown.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uthash.h>

#include "gateway/fleet/report.h"

enum watch_connection { WATCH_UNKNOWN, WATCH_CONNECTED, WATCH_DISCONNECTED };

struct watch_device {
    char ident[CODEC_IDENT_MAX + 1]; // "" while only the id is known
    char name[WATCH_NAME_MAX];
    int64_t id;       // or -1
    int64_t heard;    // time of its last message, microseconds since 1970; 0: of none
    int64_t reported; // the time that the values below are of
    bool live;        // messages came since the broker was connected: what it retains is not newer
    double latitude, longitude, speed, battery; // as in struct watch_report
    enum watch_connection connection;
    uint32_t instance; // that it is connected to, where the log said so
    char event[WATCH_EVENT_MAX];
    char notable[WATCH_EVENT_MAX]; // the last one that was
    int64_t notable_at;
    bool alarm;                       // the notable one is one
    struct watch_device *prev, *next; // the one heard before, with an ident
    UT_hash_handle by_ident, by_id;
};

struct watch_fleet {
    struct watch_device *by_ident, *by_id;
    struct watch_device *newest; // list of those with an ident
    size_t count, connected;     // of those in the list
    bool unsorted;
};

// What a message says.
void watch_fleet_report(struct watch_fleet *fleet, const struct watch_report *report);
// What a log entry says.
void watch_fleet_presence(struct watch_fleet *fleet, const struct watch_presence *presence);
// The rest is what stands retained for a device: for one that is live not worth telling, but for the first
// two. The identity is NULL when the device is gone.
void watch_fleet_identity(struct watch_fleet *fleet, int64_t id, const struct watch_report *identity);
void watch_fleet_connected(struct watch_fleet *fleet, int64_t id, enum watch_connection connection);
void watch_fleet_position(struct watch_fleet *fleet, int64_t id, const struct watch_report *position);
void watch_fleet_battery(struct watch_fleet *fleet, int64_t id, double battery);
void watch_fleet_heard(struct watch_fleet *fleet, int64_t id, int64_t heard);

// The connection to the broker was lost: what it retains may be newer when it is back.
void watch_fleet_lost(struct watch_fleet *fleet);

// The device of that id, or NULL.
struct watch_device *watch_fleet_by_id(const struct watch_fleet *fleet, int64_t id);
struct watch_device *watch_fleet_by_ident(const struct watch_fleet *fleet, const char *ident);

// The newest; its next is the one heard before.
struct watch_device *watch_fleet_newest(struct watch_fleet *fleet);
void watch_fleet_free(struct watch_fleet *fleet);
