// The last values of a device; see values.h.
#include "gateway/state/values.h"

#include <stdlib.h>
#include <string.h>

#include "gateway/base/memory.h"

static struct value *value_at(const struct values *values, size_t offset) {
    return (struct value *)(values->entries + offset);
}

static size_t offset_of(const struct values *values, const struct value *value) {
    return (size_t)((const uint8_t *)value - values->entries);
}

static char *index_of(struct value *value) {
    return (char *)(value + 1);
}

static char *text_of(struct value *value) {
    return index_of(value) + value->index_length;
}

static size_t size_of(const struct value *value) {
    return sizeof *value + value->index_length + value->length;
}

const char *value_index(const struct value *value) {
    return (const char *)(value + 1);
}

const char *value_text(const struct value *value) {
    return value_index(value) + value->index_length;
}

struct message_member value_member(const struct value *value) {
    return (struct message_member){.field = (enum field)value->field,
                                   .index = value_index(value),
                                   .index_length = value->index_length,
                                   .value = value_text(value),
                                   .length = value->length};
}

const char *value_name(enum field field) {
    return field == FIELD_NONE ? "position" : field_table[field].key;
}

void values_free(struct values *values) {
    free(values->entries);
}

// --- looking ---

static bool is_value_of(const struct value *value, const struct message_member *member) {
    return value->field == member->field && value->index_length == member->index_length &&
           memcmp(value_index(value), member->index, member->index_length) == 0;
}

struct value *values_find(const struct values *values, const struct message_member *member, size_t *hint) {
    for (size_t pass = 0; pass < 2; pass++) {
        size_t end = pass == 0 ? values->length : *hint;
        for (size_t at = pass == 0 ? *hint : 0; at < end; at += size_of(value_at(values, at))) {
            struct value *value = value_at(values, at);
            if (!is_value_of(value, member))
                continue;
            *hint = at + size_of(value);
            return value;
        }
    }
    return NULL;
}

struct value *values_next(const struct values *values, const struct value *previous) {
    size_t at = previous != NULL ? offset_of(values, previous) + size_of(previous) : 0;
    return at < values->length ? value_at(values, at) : NULL;
}

void values_mark(struct values *values) {
    for (struct value *value = NULL; (value = values_next(values, value)) != NULL;)
        value->generation = 0;
}

bool values_mark_between(struct values *values, uint32_t after, uint32_t before) {
    bool any = false;
    for (struct value *value = NULL; (value = values_next(values, value)) != NULL;) {
        if (value->generation <= after || value->generation >= before)
            continue;
        value->generation = 0;
        any = true;
    }
    return any;
}

static bool has_name(const struct value *value, const char *name) {
    const char *key = value_name((enum field)value->field);
    size_t length = strlen(key);
    if (strncmp(name, key, length) != 0)
        return false;
    const char *rest = name + length;
    if (value->index_length == 0)
        return *rest == '\0';
    return *rest == '.' && strlen(rest + 1) == value->index_length &&
           memcmp(rest + 1, value_index(value), value->index_length) == 0;
}

struct value *values_named(const struct values *values, const char *name) {
    for (struct value *value = NULL; (value = values_next(values, value)) != NULL;)
        if (has_name(value, name))
            return value;
    return NULL;
}

// --- changing ---

// A value without a text yet, at the end. NULL when it would not fit with the member's.
static struct value *add(struct values *values, const struct message_member *member) {
    struct value new = {.field = (uint16_t)member->field,
                        .index_length = (uint8_t)member->index_length,
                        .timestamp = INT64_MIN};
    if (values->length + size_of(&new) + member->length > VALUES_MAX)
        return NULL;
    values->entries = must_have(realloc(values->entries, values->length + size_of(&new)));
    struct value *value = value_at(values, values->length);
    *value = new;
    memcpy(index_of(value), member->index, member->index_length);
    values->length += (uint32_t)size_of(value);
    return value;
}

static void remove_value(struct values *values, struct value *value) {
    size_t size = size_of(value), behind = offset_of(values, value) + size;
    memmove(value, values->entries + behind, values->length - behind);
    values->length -= (uint32_t)size;
}

// Makes room for a text of another length. NULL, and the value is gone, when there is none.
static struct value *resize(struct values *values, struct value *value, size_t length) {
    size_t at = offset_of(values, value);
    size_t behind = at + size_of(value), rest = values->length - behind;
    size_t end = behind - value->length + length;
    if (end + rest > VALUES_MAX) {
        remove_value(values, value);
        return NULL;
    }
    if (end > behind)
        values->entries = must_have(realloc(values->entries, end + rest));
    memmove(values->entries + end, values->entries + behind, rest);
    values->length = (uint32_t)(end + rest);
    value = value_at(values, at);
    value->length = (uint16_t)length;
    return value;
}

static bool is_same(const struct value *value, const struct message_member *member) {
    return value->length == member->length && value->timestamp != INT64_MIN &&
           memcmp(value_text(value), member->value, member->length) == 0;
}

static enum value_put replace(struct values *values, struct value *value, const struct message_member *member,
                              int64_t timestamp, size_t *hint) {
    size_t at = offset_of(values, value);
    if (value->length != member->length)
        value = resize(values, value, member->length);
    *hint = value != NULL ? at + size_of(value) : at;
    if (value == NULL)
        return VALUE_NO_ROOM;
    memcpy(text_of(value), member->value, member->length);
    value->timestamp = timestamp;
    value->generation = 0;
    return VALUE_CHANGED;
}

enum value_put values_put(struct values *values, struct value *value, const struct message_member *member,
                          int64_t timestamp, size_t *hint) {
    if (value == NULL)
        value = add(values, member);
    if (value == NULL)
        return VALUE_NO_ROOM;
    if (timestamp < value->timestamp)
        return VALUE_KEPT;
    if (!is_same(value, member))
        return replace(values, value, member, timestamp, hint);
    value->timestamp = timestamp;
    return VALUE_KEPT;
}

void values_remove_before(struct values *values, int64_t timestamp) {
    size_t at = 0;
    while (at < values->length) {
        struct value *value = value_at(values, at);
        if (value->timestamp < timestamp)
            remove_value(values, value);
        else
            at += size_of(value);
    }
}
