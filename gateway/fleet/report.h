// What one message or log entry says, as far as `trackbus watch` shows it. All texts in it are clean: they
// may go to a terminal.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "codecs/codec.h"

#define WATCH_NAME_MAX  64  // bytes with the NUL
#define WATCH_EVENT_MAX 128 // bytes with the NUL

struct watch_report {
    char ident[CODEC_IDENT_MAX + 1];
    char name[WATCH_NAME_MAX];  // "" where it is not said
    int64_t id;                 // of the device, or -1
    int64_t received, reported; // microseconds since 1970, not after now
    double latitude, longitude; // degrees; these four are NAN where they are not said or out of range
    double speed;               // km/h
    double battery;             // volts
    char event[WATCH_EVENT_MAX];
    bool notable; // more than a plain position or sign of life
    bool alarm;
};

// Reads a message's payload, received at now (microseconds since 1970). False when it is no message: no JSON
// object with an ident.
bool watch_report_message(struct watch_report *report, const char *payload, size_t length, int64_t now);

struct watch_presence {
    struct watch_report report; // with the event, and without values
    bool connected;
    uint32_t instance; // hash of the gateway that says so
};

// The same for an entry of log/gw/devices/{id}/connected or disconnected.
bool watch_report_presence(struct watch_presence *presence, bool connected, const char *payload,
                           size_t length, int64_t now);

// Reads what stands retained under state/gw/devices/{id}: ident, name and id. False when it is none.
bool watch_report_identity(struct watch_report *report, const char *payload, size_t length);
// telemetry/position: latitude, longitude and speed. False when it is no JSON object.
bool watch_report_position(struct watch_report *report, const char *payload, size_t length);
// A field's bare value: NAN when it is no number in the field's range.
double watch_report_number(enum field field, const char *payload, size_t length);
