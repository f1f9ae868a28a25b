// Bounded readers of bytes and of text. Both have a sticky fault: a read past the end gives 0 (or an empty
// span) and sets fault, and so does every read after that. So a decoder reads a whole record and looks at
// fault once; only a loop driven by a count from the device looks at it in each turn.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "schema/decimal.h"

// --- bytes, big-endian where nothing else is said ---

struct reader {
    const uint8_t *next;
    const uint8_t *end;
    bool fault;
};

struct reader reader_of(const uint8_t *bytes, size_t length);
size_t reader_left(const struct reader *reader);

// Unsigned and signed (two's complement) integers of 1 to 8 bytes.
uint64_t reader_unsigned(struct reader *reader, size_t width);
int64_t reader_signed(struct reader *reader, size_t width);

// The same, little-endian.
uint64_t reader_unsigned_little(struct reader *reader, size_t width);
int64_t reader_signed_little(struct reader *reader, size_t width);

// The next length bytes, or NULL with fault.
const uint8_t *reader_bytes(struct reader *reader, size_t length);

// A reader of the next length bytes, which this one has then passed: a record that cannot reach its
// neighbour.
struct reader reader_part(struct reader *reader, size_t length);

// --- text ---

struct span {
    const char *text; // not terminated
    size_t length;
};

struct text_reader {
    const char *next; // NULL after the last item of text_item()
    const char *end;
    bool fault;
};

struct text_reader text_reader_of(const char *text, size_t length);

// The text up to the next separator, which is passed, or up to the end. "a+b+" has the items "a", "b" and "";
// after the last of them comes fault.
struct span text_item(struct text_reader *reader, char separator);

// Whether text_item() has something left to give.
bool text_has_item(const struct text_reader *reader);

// The digits that stand next, as many as there are; fault when there is none.
struct span text_digits(struct text_reader *reader);

// Passes c; fault when something else stands there.
void text_expect(struct text_reader *reader, char c);

// All that is left.
struct span text_rest(struct text_reader *reader);

bool span_is(struct span span, const char *text);
// ASCII case ignored.
bool span_is_word(struct span span, const char *lower_case);
bool span_all_digits(struct span span); // false when empty
// Without blanks at both ends.
struct span span_trim(struct span span);
// At most 18 digits, the whole span; false otherwise.
bool span_integer(struct span span, int64_t *out);
