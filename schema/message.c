// Filling a message; see message.h.
#include "schema/message.h"

#include <assert.h>
#include <string.h>

#include "schema/utf8.h"

const char message_absent[] = "empty";

void message_reset(struct message *message) {
    message->count = 0;
    message->text_used = 0;
    message->removed_count = 0;
    memset(message->place, 0, sizeof message->place);
    memset(message->rows, 0, sizeof message->rows);
}

void message_note_removed(struct message *message, enum field field, const char *text, size_t length,
                          const char *reason) {
    if (message->removed_count++ >= MESSAGE_REMOVED_MAX)
        return;
    struct message_removed *removed = &message->removed[message->removed_count - 1];
    size_t kept = length < sizeof removed->text ? length : sizeof removed->text - 1;
    removed->field = field;
    removed->reason = reason;
    memcpy(removed->text, text, kept);
    removed->text[kept] = '\0';
}

// What every message has, from the gateway: a codec that fills all the rest leaves room for it.
#define STAMP_TEXT 512 // bytes of ident, peer and name

static bool is_stamp(enum field field) {
    switch (field) {
    case FIELD_IDENT:
    case FIELD_TIMESTAMP:
    case FIELD_SERVER_TIMESTAMP:
    case FIELD_PROTOCOL_ID:
    case FIELD_CHANNEL_ID:
    case FIELD_PEER:
    case FIELD_DEVICE_ID:
    case FIELD_DEVICE_NAME:
    case FIELD_DEVICE_TYPE_ID:
        return true;
    default:
        return false;
    }
}

static bool add_text(struct message *message, enum field field, const char *text, size_t length,
                     struct message_span *span) {
    size_t most = sizeof message->text - (is_stamp(field) ? 0 : STAMP_TEXT);
    if (message->text_used > most || length > most - message->text_used)
        return false;
    span->offset = (uint16_t)message->text_used;
    span->length = (uint16_t)length;
    memcpy(message->text + message->text_used, text, length);
    message->text_used += length;
    return true;
}

static struct message_value *find_indexed(struct message *message, enum field field, const char *index) {
    size_t length = strlen(index);
    for (size_t i = 0; i < message->count; i++) {
        struct message_value *value = &message->values[i];
        if (value->field == field && value->index.length == length &&
            memcmp(message->text + value->index.offset, index, length) == 0)
            return value;
    }
    return NULL;
}

static struct message_value *find_in_row(struct message *message, enum field member) {
    size_t at = message->count;
    while (at > 0 && message->values[at - 1].field != member)
        at--;
    bool same_row = at > 0 && message->values[at - 1].row + 1 == message->rows[field_table[member].list];
    return same_row ? &message->values[at - 1] : NULL;
}

// The value to write to: the one that is there, or a new one; NULL when the message is full.
static struct message_value *claim(struct message *message, enum field field, const char *index) {
    const struct field_info *info = &field_table[field];
    assert(info->indexed == (index != NULL));
    struct message_value *old = NULL;
    if (index != NULL)
        old = find_indexed(message, field, index);
    else if (message->place[field] != 0)
        old = &message->values[message->place[field] - 1];
    else if (info->list != FIELD_NONE)
        old = find_in_row(message, field);
    if (old != NULL)
        return old;
    struct message_span span = {0};
    if (message->count >= MESSAGE_VALUES_MAX - (is_stamp(field) ? 0 : MESSAGE_STAMPS) ||
        (index != NULL && !add_text(message, field, index, strlen(index), &span)))
        return NULL;
    struct message_value *value = &message->values[message->count++];
    *value = (struct message_value){.field = (uint16_t)field, .index = span};
    if (info->list != FIELD_NONE) {
        assert(message->rows[info->list] > 0);
        value->row = (uint16_t)(message->rows[info->list] - 1);
    } else if (index == NULL) {
        message->place[field] = (uint16_t)message->count;
    }
    return value;
}

static bool note_full(struct message *message, enum field field, const char *text, size_t length) {
    message_note_removed(message, field, text, length, "the message is full");
    return false;
}

static bool set_number(struct message *message, enum field field, const char *index, struct decimal number) {
    const struct field_info *info = &field_table[field];
    assert(info->type == FIELD_NUMBER);
    char text[DECIMAL_TEXT_MAX];
    if (!decimal_in_range(number, info->minimum, info->maximum)) {
        size_t length = decimal_write(number, text);
        message_note_removed(message, field, text, length, "out of range");
        return false;
    }
    struct message_value *value = claim(message, field, index);
    if (value == NULL)
        return note_full(message, field, text, decimal_write(number, text));
    value->type = MESSAGE_NUMBER;
    value->number = number;
    return true;
}

bool message_set_number(struct message *message, enum field field, struct decimal value) {
    return set_number(message, field, NULL, value);
}

bool message_set_number_at(struct message *message, enum field field, const char *index,
                           struct decimal value) {
    return set_number(message, field, index, value);
}

bool message_set_integer(struct message *message, enum field field, int64_t value) {
    return set_number(message, field, NULL, decimal_integer(value));
}

bool message_set_boolean(struct message *message, enum field field, bool boolean) {
    assert(field_table[field].type == FIELD_BOOLEAN);
    struct message_value *value = claim(message, field, NULL);
    if (value == NULL)
        return note_full(message, field, boolean ? "true" : "false", boolean ? 4 : 5);
    value->type = MESSAGE_BOOLEAN;
    value->boolean = boolean;
    return true;
}

static bool set_text(struct message *message, enum field field, const char *index, const char *text,
                     size_t length) {
    assert(field_table[field].type == FIELD_STRING);
    if (!utf8_valid(text, length)) {
        message_note_removed(message, field, text, length, "not text in UTF-8");
        return false;
    }
    size_t text_used = message->text_used;
    struct message_span span;
    if (!add_text(message, field, text, length, &span))
        return note_full(message, field, text, length);
    struct message_value *value = claim(message, field, index);
    if (value == NULL) {
        message->text_used = text_used;
        return note_full(message, field, text, length);
    }
    value->type = MESSAGE_TEXT;
    value->text = span;
    return true;
}

bool message_set_text(struct message *message, enum field field, const char *text, size_t length) {
    return set_text(message, field, NULL, text, length);
}

bool message_set_text_at(struct message *message, enum field field, const char *index, const char *text,
                         size_t length) {
    return set_text(message, field, index, text, length);
}

bool message_add_list(struct message *message, enum field list) {
    assert(field_table[list].type == FIELD_LIST);
    struct message_value *value = claim(message, list, NULL);
    if (value == NULL)
        return note_full(message, list, "", 0);
    value->type = MESSAGE_EMPTY_LIST;
    return true;
}

void message_add_row(struct message *message, enum field list) {
    assert(message->place[list] != 0);
    message->rows[list]++;
}

const struct message_value *message_get(const struct message *message, enum field field) {
    return message->place[field] != 0 ? &message->values[message->place[field] - 1] : NULL;
}

// --- packed ---

// The values follow, and the text behind them.
struct packed {
    size_t count, text_used;
    uint16_t place[FIELD_COUNT], rows[FIELD_COUNT];
    struct message_value values[];
};

size_t message_packed_size(const struct message *message) {
    return sizeof(struct packed) + message->count * sizeof *message->values + message->text_used;
}

void message_pack(const struct message *message, void *memory) {
    struct packed *packed = memory;
    packed->count = message->count;
    packed->text_used = message->text_used;
    memcpy(packed->place, message->place, sizeof packed->place);
    memcpy(packed->rows, message->rows, sizeof packed->rows);
    memcpy(packed->values, message->values, message->count * sizeof *message->values);
    memcpy(packed->values + message->count, message->text, message->text_used);
}

void message_unpack(const void *memory, struct message *message) {
    const struct packed *packed = memory;
    message_reset(message);
    message->count = packed->count;
    message->text_used = packed->text_used;
    memcpy(message->place, packed->place, sizeof packed->place);
    memcpy(message->rows, packed->rows, sizeof packed->rows);
    memcpy(message->values, packed->values, packed->count * sizeof *packed->values);
    memcpy(message->text, packed->values + packed->count, packed->text_used);
}
