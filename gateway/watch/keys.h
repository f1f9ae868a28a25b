// The keys that `trackbus watch` knows, as a terminal sends them.
#pragma once

#include <stddef.h>

enum key {
    KEY_NONE, // the bytes are over
    KEY_OTHER,
    KEY_QUIT,
    KEY_HELP,
    KEY_ORDER,   // by the next column
    KEY_REVERSE, // the order
    KEY_UP,
    KEY_DOWN,
    KEY_PAGE_UP,
    KEY_PAGE_DOWN,
    KEY_FIRST,
    KEY_LAST,
};

// Takes the next key from *count bytes at *bytes, which both move on.
enum key key_next(const char **bytes, size_t *count);
