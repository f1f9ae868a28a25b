// The message: a flat set of fields of the dictionary. Codecs fill it, the gateway adds what it knows and
// writes it as JSON. It owns all its memory, allocates none, and is meant to be used again and again:
// message_reset() costs little, a copy costs much.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "schema/decimal.h"
#include "schema/field.h"

#define MESSAGE_VALUES_MAX 1200
#define MESSAGE_STAMPS                                                                                       \
    9 // of those, kept for what every message has from the gateway: ident, times, channel …
#define MESSAGE_TEXT_MAX    8192
#define MESSAGE_REMOVED_MAX 16
#define MESSAGE_JSON_MAX    262144 // what message_write_json() needs at most, with its NUL

enum message_value_type { MESSAGE_NUMBER, MESSAGE_BOOLEAN, MESSAGE_TEXT, MESSAGE_EMPTY_LIST };

struct message_span {
    uint16_t offset;
    uint16_t length;
};

struct message_value {
    uint16_t field;            // enum field
    uint16_t row;              // of a member of a list: which row, from 0
    struct message_span index; // of an indexed field: its suffix
    uint8_t type;              // enum message_value_type
    union {
        struct decimal number;
        bool boolean;
        struct message_span text;
    };
};

// A value that the device said and that was left out, for the log.
struct message_removed {
    enum field field;
    char text[48];      // what it was, cut; may hold any byte but NUL
    const char *reason; // message_absent when the device gave the value's place but no value
};

extern const char message_absent[];

struct message {
    size_t count;
    size_t text_used;
    size_t removed_count;        // may exceed MESSAGE_REMOVED_MAX: so many there were
    uint16_t place[FIELD_COUNT]; // of fields without row or index: 1 + its place in values, 0 for none
    uint16_t rows[FIELD_COUNT];  // of lists: rows so far
    struct message_value values[MESSAGE_VALUES_MAX];
    struct message_removed removed[MESSAGE_REMOVED_MAX];
    char text[MESSAGE_TEXT_MAX];
};

void message_reset(struct message *message);

// The setters replace a value that is there. They return false, and the value is left out and noted in
// removed, when it is out of the field's range, not UTF-8, or does not fit any more. A field of a type other
// than the setter's, or an index where the field has none, is a programming error (assert).
bool message_set_number(struct message *message, enum field field, struct decimal value);
bool message_set_integer(struct message *message, enum field field, int64_t value);
bool message_set_boolean(struct message *message, enum field field, bool value);
bool message_set_text(struct message *message, enum field field, const char *text, size_t length);

// The same for indexed fields. index is 1 to 15 letters and digits: field.index is the published name.
bool message_set_number_at(struct message *message, enum field field, const char *index,
                           struct decimal value);
bool message_set_text_at(struct message *message, enum field field, const char *index, const char *text,
                         size_t length);

// Makes the list present, with no rows at first.
bool message_add_list(struct message *message, enum field list);
// Begins a row: members of the list that are set from now on belong to it.
void message_add_row(struct message *message, enum field list);

// Notes a value that the codec itself left out. reason is a constant string such as "not a number".
void message_note_removed(struct message *message, enum field field, const char *text, size_t length,
                          const char *reason);

// The value of a field without row or index, or NULL.
const struct message_value *message_get(const struct message *message, enum field field);

// Keeps a message for a while in little memory: message_packed_size() bytes, which message_pack() fills. What was removed
// from it is not kept.
size_t message_packed_size(const struct message *message);
void message_pack(const struct message *message, void *memory);
void message_unpack(const void *memory, struct message *message);

// Writes the message as a JSON object, keys in alphabetical order, and a NUL; returns the length without it,
// or 0 when capacity is too small (MESSAGE_JSON_MAX never is).
size_t message_write_json(const struct message *message, char *json, size_t capacity);

// A member of that object: a field, a list as a whole, or one index of an indexed field.
struct message_member {
    enum field field;
    const char *index; // without a NUL; index_length 0 without one
    size_t index_length;
    const char *value; // JSON, without a NUL
    size_t length;
};

// The same, and tells where each member stands in json; members has room for MESSAGE_VALUES_MAX. They are
// good as long as message and json are.
size_t message_write_members(const struct message *message, char *json, size_t capacity,
                             struct message_member *members, size_t *count);
