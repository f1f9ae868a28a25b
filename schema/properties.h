// A flat bag of named scalars: what a command carries to a codec, and what a device's answer carries back.
// Nested JSON is flattened by path: {"parameters":[{"id":1}]} is "parameters.0.id".
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "schema/decimal.h"

enum property_type { PROPERTY_BOOLEAN = 1, PROPERTY_NUMBER, PROPERTY_TEXT };

struct property {
    const char *name; // owned by whoever made the bag, as is text
    enum property_type type;
    union {
        bool boolean;
        struct decimal number;
        const char *text;
    };
};

struct properties {
    const struct property *items;
    size_t count;
};

// The property of that name, or NULL.
const struct property *properties_find(const struct properties *bag, const char *name);

// The value, or what is given for absent when there is none of that name and type. properties_integer also
// takes a number with places for absent.
const char *properties_text(const struct properties *bag, const char *name, const char *absent);
int64_t properties_integer(const struct properties *bag, const char *name, int64_t absent);
bool properties_boolean(const struct properties *bag, const char *name, bool absent);
