// The walker of layouts; see layout.h.
#include "codecs/layout.h"

#include <stdio.h>

#include "codecs/values.h"

// The next count bits, count is 1 to 64; 0 with fault when they are not all there. A value that does not
// begin or end with a byte has at most 57 bits.
static uint64_t read_bits(struct layout_walk *walk, unsigned count) {
    struct reader *bytes = walk->bytes;
    if (walk->bit == 0 && count % 8 == 0)
        return reader_unsigned(bytes, count / 8);
    unsigned end = walk->bit + count;
    if (reader_left(bytes) < (end + 7) / 8) {
        bytes->fault = true;
        return 0;
    }
    uint64_t value = 0;
    for (unsigned i = 0; i < (end + 7) / 8; i++)
        value = value << 8 | bytes->next[i];
    value = value >> (7 - (end + 7) % 8) & (((uint64_t)1 << count) - 1);
    bytes->next += end / 8;
    walk->bit = end % 8;
    return value;
}

static int64_t signed_of(uint64_t value, unsigned bits) {
    uint64_t sign = (uint64_t)1 << (bits - 1);
    return (int64_t)((value ^ sign) - sign);
}

static bool stands_somewhere(const struct layout_item *item) {
    return item->kind != LAYOUT_TRUE && item->kind != LAYOUT_FALSE;
}

// *value is all zero before.
static void read_value(struct layout_walk *walk, const struct layout_item *item, unsigned bits,
                       struct layout_value *value) {
    if (walk->texts != NULL) {
        value->is_text = true;
        if (stands_somewhere(item))
            value->text = *walk->texts++;
    } else if (stands_somewhere(item) && bits > 0) { // an own kind without bits reads by itself
        uint64_t number = read_bits(walk, bits);
        value->number = item->kind == LAYOUT_SIGNED ? signed_of(number, bits) : (int64_t)number;
    }
}

bool layout_read_number(struct message *message, enum field field, struct span text, struct decimal *number) {
    text = span_trim(text);
    if (decimal_parse(text.text, text.length, number))
        return true;
    message_note_removed(message, field, text.text, text.length,
                         text.length > 0 ? "not a number" : message_absent);
    return false;
}

void layout_set_number(struct message *message, const struct layout_item *item,
                       const struct layout_value *value) {
    struct decimal number = decimal_integer(value->number);
    if (value->is_text && !layout_read_number(message, item->field, value->text, &number))
        return;
    if (!decimal_scale(&number, item->scale))
        message_note_removed(message, item->field, value->is_text ? value->text.text : "", value->text.length,
                             "has too many decimal places");
    else if (item->index != NULL)
        message_set_number_at(message, item->field, item->index, number);
    else
        message_set_number(message, item->field, number);
}

void layout_set_time(struct message *message, enum field field, struct decimal time, struct span said,
                     int64_t now) {
    const char *fault = value_time_fault((int64_t)decimal_to_double(time), now);
    if (fault == NULL)
        message_set_number(message, field, time);
    else
        message_note_removed(message, field, said.text, said.length, fault);
}

static void set_flag(struct message *message, enum field field, const struct layout_value *value) {
    char digits[24];
    struct span text = span_trim(value->text);
    if (!value->is_text)
        text = (struct span){.text = digits,
                             .length =
                                 (size_t)snprintf(digits, sizeof digits, "%lld", (long long)value->number)};
    if (span_is(text, "0") || span_is(text, "1"))
        message_set_boolean(message, field, span_is(text, "1"));
    else
        message_note_removed(message, field, text.text, text.length,
                             text.length > 0 ? "not 0 or 1" : message_absent);
}

static void take(struct layout_walk *walk, const struct layout_item *item, const struct layout_value *value) {
    switch (item->kind) {
    case LAYOUT_END:
    case LAYOUT_SKIP:
        break;
    case LAYOUT_NUMBER:
    case LAYOUT_SIGNED:
        layout_set_number(walk->message, item, value);
        break;
    case LAYOUT_FLAG:
        set_flag(walk->message, item->field, value);
        break;
    case LAYOUT_TRUE:
    case LAYOUT_FALSE:
        message_set_boolean(walk->message, item->field, item->kind == LAYOUT_TRUE);
        break;
    default:
        walk->take(walk, item, value);
    }
}

// Where the walk is, before an item.
struct place {
    const uint8_t *next;
    unsigned bit;
    size_t explained;
};

static struct place place_of(const struct layout_walk *walk) {
    if (walk->explanation == NULL)
        return (struct place){0};
    return (struct place){.next = walk->bytes != NULL ? walk->bytes->next : NULL,
                          .bit = walk->bit,
                          .explained = walk->explanation->count};
}

// What the item took. A codec's own kind may have said it itself, in smaller pieces.
static void explain(const struct layout_walk *walk, const struct layout_item *item, size_t row,
                    const struct layout_value *value, struct place from) {
    if (walk->explanation->count != from.explained || !stands_somewhere(item) ||
        (walk->bytes != NULL && walk->bytes->fault))
        return;
    struct explain_piece piece = {
        .field = item->field, .name = item->name, .index = item->index, .assumed = item->assumed};
    if (walk->texts != NULL) {
        piece.bytes = (const uint8_t *)value->text.text;
        piece.length = value->text.length;
    } else {
        piece.bytes = from.next;
        piece.length = (size_t)(walk->bytes->next - from.next) + (walk->bit > 0);
        bool bits = from.bit > 0 || walk->bit > 0;
        piece.bit = from.bit;
        piece.bits = bits ? (unsigned)(walk->bytes->next - from.next) * 8 + walk->bit - from.bit : 0;
    }
    explain_add_row(walk->explanation, &piece, row);
}

void layout_take_all(struct layout_walk *walk, const struct layout_item *items) {
    for (const struct layout_item *item = items; item->kind != LAYOUT_END; item++) {
        if (walk->may_end && walk->bit == 0 && reader_left(walk->bytes) == 0)
            return;
        struct layout_value value = {0};
        struct place from = place_of(walk);
        read_value(walk, item, item->bits, &value);
        take(walk, item, &value);
        if (walk->explanation != NULL)
            explain(walk, item, (size_t)(item - items) + 1, &value, from);
    }
}

void layout_take_value(struct layout_walk *walk, const struct layout_item *item, struct reader value) {
    struct reader *bytes = walk->bytes;
    struct layout_value read = {0};
    walk->bytes = &value;
    struct place from = place_of(walk);
    read_value(walk, item, 8 * (unsigned)reader_left(&value), &read);
    take(walk, item, &read);
    if (walk->explanation != NULL)
        explain(walk, item, item->id, &read, from);
    walk->bytes = bytes;
}

const struct layout_item *layout_find(const struct layout_item *items, unsigned id) {
    for (; items->kind != LAYOUT_END; items++)
        if (items->id == id)
            return items;
    return NULL;
}
