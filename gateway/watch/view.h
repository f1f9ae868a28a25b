// How `trackbus watch` looks: a line a message, or a screen with a row a device.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "gateway/fleet/fleet.h"
#include "gateway/watch/text.h"

// "2026-11-21T09:05:07  866425031361423  Van 1  22.63827,114.02922  2 km/h  3.74 V  R0": columns at least two
// blanks apart, "-" for what is not known. Without a line end.
void watch_view_line(struct watch_line *line, const struct watch_report *report);

struct watch_status {
    const char *broker;     // clean
    const char *state;      // of the connection to it
    const char *note;       // clean; why, or NULL
    const char *ident;      // the only one that is watched, or NULL
    double rate;            // messages a second
    unsigned long long odd; // what came and was not understood
};

// Writes all of a screen of that size for a terminal that understands ANSI sequences; now is microseconds
// since 1970.
void watch_view_screen(FILE *out, struct watch_fleet *fleet, const struct watch_status *status, int rows,
                       int columns, int64_t now);
