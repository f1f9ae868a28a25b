// Texts on the heap, which are there or end the program (see memory.h), and JSON as text.
#pragma once

#include <jansson.h>
#include <stdarg.h>

// A formatted text, for the caller to free.
__attribute__((format(printf, 1, 2))) char *text_format(const char *format, ...);
__attribute__((format(printf, 1, 0))) char *text_vformat(const char *format, va_list arguments);

// Digits of a real number. Times with their microseconds need 16; values of devices print as the device meant
// them with 15.
enum { TEXT_TIME_DIGITS = 16, TEXT_VALUE_DIGITS = 15 };

// JSON of any type on one line with sorted keys, for the caller to free.
char *text_of_json(const json_t *json, unsigned digits);
