// The last values of a device (its telemetry), packed into one piece of memory: a gateway may have a hundred
// thousand devices. A table and nothing else: it does not know where values go.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "schema/message.h"

// Bytes of last values of a device; what does not fit is not kept.
#define VALUES_MAX 1024

// Begins all zero.
struct values {
    uint8_t *entries; // one after the other, unaligned; NULL without any
    uint32_t length;  // bytes
};

// A last value. The letters of its index (of an indexed field) and its JSON text follow it in memory. The
// value of FIELD_NONE is telemetry/position. It stays where it is until a value is put or removed.
struct __attribute__((packed)) value {
    int64_t timestamp; // of the report it came with, microseconds since 1970
    uint16_t field;
    uint16_t length; // of the JSON text
    uint8_t index_length;
    uint32_t generation; // in which it was published last; 0: it is due
};

// Neither ends with a NUL.
const char *value_index(const struct value *value);
const char *value_text(const struct value *value);

// The value as it came; its pointers point into it.
struct message_member value_member(const struct value *value);

// The name of a field's values in topics, without an index.
const char *value_name(enum field field);

void values_free(struct values *values);

// The value of the member's field and index, or NULL. Reports have the same values in the same order, mostly:
// *hint (0 at first) is where the one after the last was found, and is moved on. A hint is good until a value
// is removed.
struct value *values_find(const struct values *values, const struct message_member *member, size_t *hint);

enum value_put {
    VALUE_KEPT,    // it is the same, or the one known is of a later report
    VALUE_CHANGED, // it is due
    VALUE_NO_ROOM, // it would not fit: now there is none of this field and index
};

// Puts the member's value in place of value, which values_find() has just found; or adds it, when that is
// NULL. timestamp is the report's, microseconds since 1970. *hint is as in values_find(), and stays good.
enum value_put values_put(struct values *values, struct value *value, const struct message_member *member,
                          int64_t timestamp, size_t *hint);

// Removes those of reports before that time (microseconds since 1970).
void values_remove_before(struct values *values, int64_t timestamp);

// The value behind previous (NULL: the first one), or NULL after the last.
struct value *values_next(const struct values *values, const struct value *previous);

// All are due.
void values_mark(struct values *values);
// Those that were published in generations after `after` and before `before` are due. True when there are any.
bool values_mark_between(struct values *values, uint32_t after, uint32_t before);

// The value of this name (as value_name() says, with .INDEX where the field is indexed), or NULL.
struct value *values_named(const struct values *values, const char *name);
