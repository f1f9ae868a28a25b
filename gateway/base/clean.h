// Text from outside made harmless for terminals and logs. UTF-8 is decoded here, so that the user's locale
// does not matter.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define CLEAN_INVALID UINT32_MAX // not a character

// Decodes the character at the start of text, which has length (at least 1) bytes; *size is the bytes it
// takes. For a byte that is not part of UTF-8, and for a NUL: CLEAN_INVALID, and *size is 1.
uint32_t clean_decode(const char *text, size_t length, size_t *size);

// Copies UTF-8 text to out (capacity bytes, at least 16), with \xHH or \uHHHH in place of what a terminal
// would obey or not show: control characters, marks that change the direction of writing, bytes that are not
// UTF-8. Ends with … where the text did not fit; returns out.
char *clean_text(const char *text, size_t length, char *out, size_t capacity);

// Prints JSON, which is on one line, as JSON of the same meaning: such characters stand as \uHHHH there.
void clean_print_json(const char *json, size_t length, FILE *file);
