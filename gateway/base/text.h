// Texts on the heap, and JSON as text. Without memory for them the program ends (see memory.h).
#pragma once

#include <jansson.h>
#include <stdarg.h>

// Returns a formatted text, for the caller to free.
__attribute__((format(printf, 1, 2))) char *text_format(const char *format, ...);
__attribute__((format(printf, 1, 0))) char *text_vformat(const char *format, va_list arguments);

// The end of a noun behind a count: 1 device, 2 devices.
#define TEXT_S(count) ((count) == 1 ? "" : "s")

// Digits of a real number. Times need 16 for their microseconds; with 15, values from devices print as the
// device meant them.
enum { TEXT_TIME_DIGITS = 16, TEXT_VALUE_DIGITS = 15 };

// Returns JSON of any type on one line with sorted keys, for the caller to free.
char *text_of_json(const json_t *json, unsigned digits);

// The same for one value: a real number has as few digits as it takes to read that number again.
char *text_of_value(const json_t *value);
