// UTF-8: nothing else is published.
#pragma once

#include <stdbool.h>
#include <stddef.h>

// Whether text is well-formed UTF-8 (RFC 3629: shortest forms only, no surrogates, nothing above U+10FFFF)
// without a NUL, which JSON libraries in C refuse.
bool utf8_valid(const char *text, size_t length);

// Puts ? for each byte that is no part of UTF-8: for texts of others that may be cut inside a character.
void utf8_mend(char *text);
