// UTF-8: nothing else is published.
#pragma once

#include <stdbool.h>
#include <stddef.h>

// Whether text is well-formed UTF-8 (RFC 3629: shortest forms only, no surrogates, nothing above U+10FFFF)
// without a NUL, which JSON libraries in C refuse.
bool utf8_valid(const char *text, size_t length);

// Ends text before the first sequence that is not whole, such as one that was cut at the end of a buffer.
void utf8_cut(char *text);
