// The terminal on standard output, taken for a program that draws all of it, and given back as it was.
#pragma once

#include <stdbool.h>
#include <stddef.h>

// Whether standard output is a terminal that understands ANSI sequences.
bool terminal_is_there(void);

// Takes it: a screen of its own without cursor and line wrap, keys come at once and are not shown.
void terminal_take(void);
// Gives it back; does nothing when it is not taken.
void terminal_give_back(void);

// Whether keys can be read from standard input.
bool terminal_has_keys(void);

// Its size now, 80 by 24 when it does not say.
void terminal_size(int *rows, int *columns);

// Writes all of it. False when that failed: the terminal is gone.
bool terminal_write(const char *bytes, size_t length);
