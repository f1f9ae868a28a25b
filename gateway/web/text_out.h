// A text that grows while JSON and other text is written to it: quicker than a tree when there are thousands of rows.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct text_out {
    char *text; // ends with a NUL; NULL while nothing is in it
    size_t length, capacity;
};

void text_out_bytes(struct text_out *out, const char *bytes, size_t length);
__attribute__((format(printf, 2, 3))) void text_out_print(struct text_out *out, const char *format, ...);
// Text as a JSON string, with its quotation marks; text that is not UTF-8 is mended.
void text_out_string(struct text_out *out, const char *text);
// Members of an object, each with a comma before it unless it is the first. A number that is NAN is left out.
void text_out_member(struct text_out *out, const char *name); // the value is the caller's to write
void text_out_member_string(struct text_out *out, const char *name, const char *text);
void text_out_member_number(struct text_out *out, const char *name, double number);
void text_out_member_integer(struct text_out *out, const char *name, int64_t number);
void text_out_member_seconds(struct text_out *out, const char *name, int64_t microseconds); // 0: left out
void text_out_member_bool(struct text_out *out, const char *name, bool value);

// The text, for the caller to free; out is empty afterwards.
char *text_out_take(struct text_out *out, size_t *length);
void text_out_free(struct text_out *out);
