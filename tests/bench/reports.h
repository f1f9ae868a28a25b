// What devices say, as patterns into which the ident and the sequence number of each report are put. The same
// patterns make the JSON that the gateway publishes for them, for the publisher that it is compared with.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "codecs/codec.h"

#define REPORT_MAX       1200            // bytes of a report, and of its JSON
#define REPORT_IDENT     860000000000000 // of device 0
#define REPORT_DIGITS    15              // of an ident
#define REPORT_SEQUENCES 50000           // sequence numbers are FIRST to FIRST + SEQUENCES - 1, five digits
#define REPORT_FIRST     10000
#define REPORT_NUMBERS   1000 // sequence numbers of segments: one to three digits
#define REPORT_KINDS_MAX 8
#define REPORT_PLACES    3

struct pattern {
    uint8_t bytes[REPORT_MAX];
    size_t length;
    size_t idents[REPORT_PLACES]; // where the ident stands
    size_t ident_count;
    size_t sequence; // and where the sequence number
    bool binary;     // a frame of Magicyo: two bytes of number, and a checksum
};

struct reports {
    const struct codec *codec;
    size_t count;
    struct pattern device[REPORT_KINDS_MAX]; // each gives one message
    struct pattern json[REPORT_KINDS_MAX];   // that message
    struct pattern login;                    // what the device says first
};

// All kinds of reports of that protocol, or with mixed false the position alone. NULL: no such protocol.
const struct reports *reports_make(const char *protocol, bool mixed);

// Writes the report into bytes of REPORT_MAX; returns its length.
size_t pattern_write(const struct pattern *pattern, unsigned device, unsigned sequence, uint8_t *bytes);
// The same for a report of Mictrack, without the end of line and with a number of as many digits as it has.
size_t pattern_write_segment(const struct pattern *pattern, unsigned device, unsigned sequence,
                             uint8_t *bytes);

// A frame of Magicyo with so many positions (at most 41); sequence is its id.
size_t report_positions(unsigned device, unsigned sequence, unsigned positions, uint8_t *bytes);
