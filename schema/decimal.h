// Exact decimal numbers: a tracker says 22.63827, and that is what is published, digit for digit.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DECIMAL_PLACES_MAX 9
#define DECIMAL_TEXT_MAX   24 // enough for any decimal, with its NUL

// mantissa / 10^places; places is 0 to DECIMAL_PLACES_MAX.
struct decimal {
    int64_t mantissa;
    uint8_t places;
};

struct decimal decimal_integer(int64_t value);

// Reads `[+-]digits[.digits]`, the whole of text. False, and *out untouched, when it is anything else, has
// more than 18 digits or more than DECIMAL_PLACES_MAX places.
bool decimal_parse(const char *text, size_t length, struct decimal *out);

// Multiplies by 10^-places: decimal_scale(3744, 3) is 3.744. The result has at most DECIMAL_PLACES_MAX
// places; an amount that would not fit leaves the value as it is and returns false.
bool decimal_scale(struct decimal *value, unsigned places);

// Whether minimum <= value <= maximum.
bool decimal_in_range(struct decimal value, int64_t minimum, int64_t maximum);

// The nearest double.
double decimal_to_double(struct decimal value);

// How often 10^-places fits into it, rounded towards 0: decimal_at(2.75, 1) is 27. places: 0 to DECIMAL_PLACES_MAX.
// What would be more than an int64_t holds is INT64_MAX or INT64_MIN.
int64_t decimal_at(struct decimal value, unsigned places);

// Writes the shortest form ("2.1" for 2.10, "0" for -0.0) and a NUL into text, which has DECIMAL_TEXT_MAX
// bytes; returns the length without the NUL.
size_t decimal_write(struct decimal value, char *text);
