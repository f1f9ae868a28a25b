// Bytes as hexadecimal digits, and back.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Writes 2 * length lower-case digits and a NUL to text; returns text.
char *hex_write(const uint8_t *bytes, size_t length, char *text);

// The value of a digit, upper or lower case; -1 when c is not a digit.
int hex_digit(char c);

// Reads length digits into length / 2 bytes. False when length is odd or something other than a digit
// comes; bytes then hold what was read before it.
bool hex_read(const char *text, size_t length, uint8_t *bytes);
