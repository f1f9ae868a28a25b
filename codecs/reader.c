// Bounded readers; see reader.h.
#include "codecs/reader.h"

#include <string.h>

struct reader reader_of(const uint8_t *bytes, size_t length) {
    return (struct reader){.next = bytes, .end = bytes + length};
}

size_t reader_left(const struct reader *reader) {
    return reader->fault ? 0 : (size_t)(reader->end - reader->next);
}

const uint8_t *reader_bytes(struct reader *reader, size_t length) {
    if (reader->fault || length > reader_left(reader)) {
        reader->fault = true;
        return NULL;
    }
    const uint8_t *bytes = reader->next;
    reader->next += length;
    return bytes;
}

uint64_t reader_unsigned(struct reader *reader, size_t width) {
    const uint8_t *bytes = reader_bytes(reader, width);
    uint64_t value = 0;
    for (size_t i = 0; bytes != NULL && i < width; i++)
        value = value << 8 | bytes[i];
    return value;
}

uint64_t reader_unsigned_little(struct reader *reader, size_t width) {
    const uint8_t *bytes = reader_bytes(reader, width);
    uint64_t value = 0;
    for (size_t i = width; bytes != NULL && i > 0; i--)
        value = value << 8 | bytes[i - 1];
    return value;
}

static int64_t with_sign(uint64_t value, size_t width) {
    uint64_t sign = (uint64_t)1 << (8 * width - 1);
    return (int64_t)((value ^ sign) - sign);
}

int64_t reader_signed(struct reader *reader, size_t width) {
    return with_sign(reader_unsigned(reader, width), width);
}

int64_t reader_signed_little(struct reader *reader, size_t width) {
    return with_sign(reader_unsigned_little(reader, width), width);
}

struct reader reader_part(struct reader *reader, size_t length) {
    const uint8_t *bytes = reader_bytes(reader, length);
    if (bytes == NULL)
        return (struct reader){.fault = true};
    return reader_of(bytes, length);
}

struct text_reader text_reader_of(const char *text, size_t length) {
    return (struct text_reader){.next = text, .end = text + length};
}

bool text_has_item(const struct text_reader *reader) {
    return !reader->fault && reader->next != NULL;
}

struct span text_item(struct text_reader *reader, char separator) {
    if (!text_has_item(reader)) {
        reader->fault = true;
        return (struct span){.text = ""};
    }
    struct span item = {.text = reader->next, .length = (size_t)(reader->end - reader->next)};
    const char *found = item.length > 0 ? memchr(item.text, separator, item.length) : NULL;
    if (found != NULL)
        item.length = (size_t)(found - item.text);
    reader->next = found != NULL ? found + 1 : NULL;
    return item;
}

struct span text_digits(struct text_reader *reader) {
    struct span digits = {.text = ""};
    if (!text_has_item(reader))
        reader->fault = true;
    else
        digits.text = reader->next;
    while (!reader->fault && reader->next < reader->end && *reader->next >= '0' && *reader->next <= '9')
        reader->next++;
    if (!reader->fault)
        digits.length = (size_t)(reader->next - digits.text);
    if (digits.length == 0)
        reader->fault = true;
    return digits;
}

void text_expect(struct text_reader *reader, char c) {
    if (!text_has_item(reader) || reader->next == reader->end || *reader->next != c)
        reader->fault = true;
    else
        reader->next++;
}

struct span text_rest(struct text_reader *reader) {
    if (!text_has_item(reader))
        return (struct span){.text = ""};
    struct span rest = {.text = reader->next, .length = (size_t)(reader->end - reader->next)};
    reader->next = reader->end;
    return rest;
}

bool span_is(struct span span, const char *text) {
    return strlen(text) == span.length && memcmp(span.text, text, span.length) == 0;
}

bool span_is_word(struct span span, const char *lower_case) {
    for (size_t i = 0; i < span.length; i++) {
        char c = span.text[i] >= 'A' && span.text[i] <= 'Z' ? (char)(span.text[i] + 32) : span.text[i];
        if (lower_case[i] == '\0' || c != lower_case[i])
            return false;
    }
    return lower_case[span.length] == '\0';
}

bool span_all_digits(struct span span) {
    for (size_t i = 0; i < span.length; i++)
        if (span.text[i] < '0' || span.text[i] > '9')
            return false;
    return span.length > 0;
}

struct span span_trim(struct span span) {
    while (span.length > 0 && (span.text[0] == ' ' || span.text[0] == '\t')) {
        span.text++;
        span.length--;
    }
    while (span.length > 0 && (span.text[span.length - 1] == ' ' || span.text[span.length - 1] == '\t'))
        span.length--;
    return span;
}

bool span_integer(struct span span, int64_t *out) {
    struct decimal value;
    if (!decimal_parse(span.text, span.length, &value) || value.places > 0)
        return false;
    *out = value.mantissa;
    return true;
}
