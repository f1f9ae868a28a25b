// How `trackbus watch` looks: one line per message, or a screen with one row per device.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "gateway/fleet/fleet.h"
#include "gateway/fleet/report.h"
#include "gateway/watch/line.h"
#include "gateway/watch/order.h"

// "2026-11-21T09:05:07  866425031361423  Van 1  22.63827,114.02922  2 km/h  3.74 V  R0": columns at least two
// blanks apart, "-" for what is not known. Without a newline.
void view_line(struct line *line, const struct report *report);

struct view_status {
    const char *broker;     // clean
    const char *state;      // of the connection to it
    const char *note;       // clean; why, or NULL
    const char *device;     // the only one that is watched, as it was asked for, or NULL
    double rate;            // messages per second
    unsigned long long odd; // payloads that were not understood
};

// What of the fleet is on the screen.
struct view_choice {
    enum order order;
    bool reversed;
    bool help;    // the keys instead
    size_t first; // the device in the first row, from 0
    size_t page;  // devices that the last screen had room for
};

// Writes a whole screen of that size for a terminal that understands ANSI sequences; now is microseconds
// since 1970. What would show less than there is room for is put right in choice.
void view_screen(FILE *out, struct fleet *fleet, const struct view_status *status, struct view_choice *choice,
                 int rows, int columns, int64_t now);
