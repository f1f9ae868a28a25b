// The field dictionary: every name that a message may carry, with its type, unit, range and meaning.
// The one source is fields.json; `trackbus describe fields` prints it.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fields.h"

enum field_type { FIELD_NUMBER = 1, FIELD_BOOLEAN, FIELD_STRING, FIELD_LIST };

struct field_info {
    const char *name; // "position.latitude"; a member of a list is "wifi.access.points[].mac"
    const char *key;  // as it stands in JSON: for a member of a list its last part, else the name
    size_t key_length;
    enum field_type type;
    const char *unit; // "" where the field has none
    int64_t minimum;  // of a number, inclusive
    int64_t maximum;
    bool indexed;    // published as name.INDEX
    enum field list; // the list that this is a member of, or FIELD_NONE
    const char *description;

    // How people are told of a value. Each text may be NULL.
    bool alarm;                         // true is an alarm; has when_true and title
    bool notable;                       // worth remembering as what a device did last, as alarms are
    const char *when_true, *when_false; // what a boolean says: "ignition on"
    const char *before;                 // stands before a number or a text: "sleep mode "
    const char *title;                  // of an alarm: "Battery low"
    const char *device_class, *icon;    // of an alarm in Home Assistant
};

// Indexed by enum field, which is in alphabetical order of the names; entry FIELD_NONE is empty.
extern const struct field_info field_table[FIELD_COUNT];

// "number", "boolean", "string" or "list".
const char *field_type_name(enum field_type type);
