// Where devices were: of each the last points, in little memory, for its trail and its plots. What is kept of all
// devices together has a bound; the device that reported longest ago is forgotten first.
#pragma once

#include <stddef.h>
#include <stdint.h>

#define HISTORY_BYTES_MAX (64 << 20) // of all devices

struct history_point {
    double time;                // Unix seconds
    double latitude, longitude; // degrees; these and the following NAN where the report did not say
    double speed, battery;      // km/h, volts
};

struct history;   // of one device
struct histories; // all of them

// length: points of a device (web.trail).
struct histories *histories_new(size_t length);
void histories_free(struct histories *histories); // with those of all devices

// *place is the device's, NULL at first and again once it was forgotten.
void history_add(struct histories *histories, struct history **place, const struct history_point *point);
void history_drop(struct histories *histories, struct history **place);

// The points in the order of their times, for the caller to free; history may be NULL.
struct history_point *history_points(const struct history *history, size_t *count);
