// What one message, log entry or retained state says about a device, as far as people are shown it. All texts
// in it are clean (see gateway/base/clean.h).
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "codecs/codec.h"
#include "schema/field.h"

#define REPORT_NAME_MAX  64  // bytes with the NUL
#define REPORT_EVENT_MAX 128 // bytes with the NUL

struct report {
    char ident[CODEC_IDENT_MAX + 1];
    char name[REPORT_NAME_MAX]; // "" when missing
    int64_t id;                 // of the device, or -1
    int64_t type;               // device.type.id, or -1 when missing
    int64_t received, reported; // microseconds since 1970, not after now
    double latitude, longitude; // degrees; these four are NAN when missing or out of range
    double speed;               // km/h
    double direction;           // degrees, NAN when missing
    double battery;             // volts
    int protocol;               // protocol.id; 0 when missing
    int64_t channel;            // channel.id, or -1
    char event[REPORT_EVENT_MAX];
    bool notable; // more than a plain position or sign of life
    bool alarm;
};

// Reads a message's payload, received at now (microseconds since 1970). False when it is not a message: a
// JSON object with an ident.
bool report_message(struct report *report, const char *payload, size_t length, int64_t now);

struct presence {
    struct report report; // with the event, and without values
    bool connected;
    uint64_t instance; // hash of the gateway that says so
};

// The same for an entry of log/gw/devices/{id}/connected or disconnected.
bool report_presence(struct presence *presence, bool connected, const char *payload, size_t length,
                     int64_t now);

// Reads what is retained under state/gw/devices/{id}: ident, name, id and protocol. False when it is not that.
bool report_identity(struct report *report, const char *payload, size_t length);
// Reads telemetry/position: latitude, longitude, speed and direction. False when it is not a JSON object.
bool report_position(struct report *report, const char *payload, size_t length);
// Reads a field's bare value. NAN when it is not a number in the field's range.
double report_number(enum field field, const char *payload, size_t length);
