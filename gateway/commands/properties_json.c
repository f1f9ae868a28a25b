// JSON to property bags and back; see properties_json.h.
#include "gateway/commands/properties_json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/base/memory.h"
#include "gateway/base/text.h"

static void flatten(struct flat_properties *flat, const char *path, const json_t *value);

static struct property *add(struct flat_properties *flat, const char *path, enum property_type type) {
    if (flat->bag.count == flat->capacity) {
        flat->capacity = flat->capacity == 0 ? 8 : 2 * flat->capacity;
        flat->items = must_have(realloc(flat->items, flat->capacity * sizeof *flat->items));
        flat->bag.items = flat->items;
    }
    struct property *property = &flat->items[flat->bag.count++];
    *property = (struct property){.name = must_have(strdup(path)), .type = type};
    return property;
}

static void flatten_child(struct flat_properties *flat, const char *path, const char *name,
                          const json_t *value) {
    char *inner = text_format("%s%s%s", path, *path != '\0' ? "." : "", name);
    flatten(flat, inner, value);
    free(inner);
}

// Without zeros at the end of its fraction; returns the length.
static size_t write_number(const json_t *value, char *text, size_t capacity) {
    if (json_is_integer(value))
        return (size_t)snprintf(text, capacity, "%lld", (long long)json_integer_value(value));
    snprintf(text, capacity, "%.9f", json_real_value(value));
    size_t length = strlen(text);
    if (strchr(text, '.') == NULL)
        return length;
    while (text[length - 1] == '0')
        length--;
    return length - (text[length - 1] == '.');
}

static void flatten_number(struct flat_properties *flat, const char *path, const json_t *value) {
    char text[64];
    struct decimal number;
    if (decimal_parse(text, write_number(value, text, sizeof text), &number))
        add(flat, path, PROPERTY_NUMBER)->number = number;
}

static void flatten_children(struct flat_properties *flat, const char *path, const json_t *value) {
    const char *name;
    json_t *inner;
    size_t i;
    json_object_foreach((json_t *)value, name, inner) {
        flatten_child(flat, path, name, inner);
    }
    json_array_foreach(value, i, inner) {
        char index[24];
        snprintf(index, sizeof index, "%zu", i);
        flatten_child(flat, path, index, inner);
    }
}

static void flatten(struct flat_properties *flat, const char *path, const json_t *value) {
    if (json_is_object(value) || json_is_array(value))
        flatten_children(flat, path, value);
    else if (json_is_boolean(value))
        add(flat, path, PROPERTY_BOOLEAN)->boolean = json_is_true(value);
    else if (json_is_string(value))
        add(flat, path, PROPERTY_TEXT)->text = must_have(strdup(json_string_value(value)));
    else if (json_is_number(value))
        flatten_number(flat, path, value);
}

struct flat_properties properties_from_json(const json_t *object) {
    struct flat_properties flat = {0};
    flatten(&flat, "", object);
    return flat;
}

void flat_properties_free(struct flat_properties *flat) {
    for (size_t i = 0; i < flat->bag.count; i++) {
        free((char *)flat->items[i].name);
        if (flat->items[i].type == PROPERTY_TEXT)
            free((char *)flat->items[i].text);
    }
    free(flat->items);
    *flat = (struct flat_properties){0};
}

static json_t *value_to_json(const struct property *property) {
    switch (property->type) {
    case PROPERTY_BOOLEAN:
        return json_boolean(property->boolean);
    case PROPERTY_NUMBER:
        return property->number.places == 0 ? json_integer(property->number.mantissa)
                                            : json_real(decimal_to_double(property->number));
    case PROPERTY_TEXT:
        return json_string(property->text);
    }
    return NULL;
}

json_t *properties_to_json(const struct properties *bag) {
    json_t *object = must_have(json_object());
    for (size_t i = 0; i < bag->count; i++)
        json_object_set_new(object, bag->items[i].name, value_to_json(&bag->items[i]));
    return object;
}
