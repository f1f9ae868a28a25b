// Between JSON and the flat property bags that codecs know.
#pragma once

#include <jansson.h>

#include "schema/properties.h"

// A bag that owns its memory.
struct flat_properties {
    struct properties bag;
    struct property *items;
    size_t capacity;
};

// Flattens an object: {"a":{"b":1},"c":["x"]} has "a.b" and "c.0". Null is left out. Numbers that are not
// decimals of at most 18 digits become the nearest one of 9 places, or are left out when they are larger than
// that.
struct flat_properties properties_from_json(const json_t *object);
void flat_properties_free(struct flat_properties *flat);

// An object with the bag's entries by name; for the caller to free.
json_t *properties_to_json(const struct properties *bag);
