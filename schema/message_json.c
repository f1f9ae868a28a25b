// Writing a message as JSON. By hand and not with jansson, because this is done for every message: the values
// are sorted by the dictionary's order, and no object is built. The tests read the result back with jansson.
#include <assert.h>
#include <string.h>

#include "schema/message.h"

struct output {
    char *next;
    char *end; // one byte is kept for the NUL
    bool full;
};

static void put(struct output *out, const char *text, size_t length) {
    if (length > (size_t)(out->end - out->next)) {
        out->full = true;
        return;
    }
    memcpy(out->next, text, length);
    out->next += length;
}

static void put_char(struct output *out, char c) {
    put(out, &c, 1);
}

static void put_escaped(struct output *out, unsigned char c) {
    static const char digits[] = "0123456789abcdef";
    if (c == '"' || c == '\\') {
        put(out, (char[]){'\\', (char)c}, 2);
        return;
    }
    put(out, (char[]){'\\', 'u', '0', '0', digits[c >> 4], digits[c & 15]}, 6);
}

static void put_string(struct output *out, const char *text, size_t length) {
    size_t plain = 0; // from here on nothing has been put yet
    put_char(out, '"');
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c >= 0x20 && c != '"' && c != '\\' && c != 0x7F)
            continue;
        put(out, text + plain, i - plain);
        put_escaped(out, c);
        plain = i + 1;
    }
    put(out, text + plain, length - plain);
    put_char(out, '"');
}

static void put_value(struct output *out, const struct message *message, const struct message_value *value) {
    char number[DECIMAL_TEXT_MAX];
    switch ((enum message_value_type)value->type) {
    case MESSAGE_NUMBER:
        put(out, number, decimal_write(value->number, number));
        break;
    case MESSAGE_BOOLEAN:
        put(out, value->boolean ? "true" : "false", value->boolean ? 4 : 5);
        break;
    case MESSAGE_TEXT:
        put_string(out, message->text + value->text.offset, value->text.length);
        break;
    case MESSAGE_EMPTY_LIST:
        put(out, "[]", 2);
        break;
    }
}

static void put_key(struct output *out, const struct message *message, const struct message_value *value) {
    const struct field_info *info = &field_table[value->field];
    put_char(out, '"');
    put(out, info->key, info->key_length);
    if (value->index.length > 0) {
        put_char(out, '.');
        put(out, message->text + value->index.offset, value->index.length);
    }
    put(out, "\":", 2);
}

static unsigned top_field(const struct message_value *value) {
    enum field list = field_table[value->field].list;
    return list != FIELD_NONE ? (unsigned)list : value->field;
}

// The order of the published keys; within a list by row, then by member.
static int compare(const struct message *message, const struct message_value *a,
                   const struct message_value *b) {
    if (top_field(a) != top_field(b))
        return top_field(a) < top_field(b) ? -1 : 1;
    if (a->row != b->row)
        return a->row < b->row ? -1 : 1;
    if (a->field != b->field)
        return a->field < b->field ? -1 : 1;
    size_t shared = a->index.length < b->index.length ? a->index.length : b->index.length;
    int order = memcmp(message->text + a->index.offset, message->text + b->index.offset, shared);
    return order != 0 ? order : (int)a->index.length - (int)b->index.length;
}

// Insertion: a message has a few dozen values, and the rows of lists come in order.
static void sort_values(const struct message *message, const struct message_value **sorted) {
    for (size_t i = 0; i < message->count; i++) {
        const struct message_value *value = &message->values[i];
        size_t at = i;
        for (; at > 0 && compare(message, sorted[at - 1], value) > 0; at--)
            sorted[at] = sorted[at - 1];
        sorted[at] = value;
    }
}

// Writes the members of a list, which begin at sorted[at]; returns the place after them.
static size_t put_rows(struct output *out, const struct message *message, const struct message_value **sorted,
                       size_t at) {
    enum field list = field_table[sorted[at]->field].list;
    put_char(out, '[');
    for (size_t first = at; at < message->count && top_field(sorted[at]) == list; at++) {
        bool new_row = at == first || sorted[at]->row != sorted[at - 1]->row;
        if (new_row && at > first)
            put(out, "},", 2);
        put_char(out, new_row ? '{' : ',');
        put_key(out, message, sorted[at]);
        put_value(out, message, sorted[at]);
    }
    put(out, "}]", 2);
    return at;
}

// members is NULL when they are not wanted.
static size_t write_object(const struct message *message, char *json, size_t capacity,
                           struct message_member *members, size_t *count) {
    const struct message_value *sorted[MESSAGE_VALUES_MAX];
    struct output out = {.next = json, .end = json + capacity - 1};
    assert(capacity > 0);
    sort_values(message, sorted);
    put_char(&out, '{');
    for (size_t at = 0; at < message->count;) {
        if (at > 0)
            put_char(&out, ',');
        const struct message_value *value = sorted[at];
        put_key(&out, message, value);
        const char *begin = out.next;
        bool has_rows = sorted[at]->type == MESSAGE_EMPTY_LIST && at + 1 < message->count &&
                        field_table[sorted[at + 1]->field].list == sorted[at]->field;
        if (has_rows) {
            at = put_rows(&out, message, sorted, at + 1);
        } else {
            put_value(&out, message, sorted[at]);
            at++;
        }
        if (members != NULL)
            members[(*count)++] = (struct message_member){.field = (enum field)value->field,
                                                          .index = message->text + value->index.offset,
                                                          .index_length = value->index.length,
                                                          .value = begin,
                                                          .length = (size_t)(out.next - begin)};
    }
    put_char(&out, '}');
    if (out.full)
        return 0;
    *out.next = '\0';
    return (size_t)(out.next - json);
}

size_t message_write_json(const struct message *message, char *json, size_t capacity) {
    return write_object(message, json, capacity, NULL, NULL);
}

size_t message_write_members(const struct message *message, char *json, size_t capacity,
                             struct message_member *members, size_t *count) {
    *count = 0;
    return write_object(message, json, capacity, members, count);
}
