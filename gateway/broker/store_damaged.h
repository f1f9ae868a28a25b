// What becomes of a store that is damaged.
#pragma once

#define STORE_DAMAGED_MAX 9 // copies that are kept; the last one is replaced, never the first

// Renames the file to PATH.damaged, or PATH.damaged.2 and so on, with what is written ahead of it, and logs
// it.
void store_damaged_set_aside(const char *path);

// The same for a file of somebody else's that took the place of the store.
void store_damaged_put_away(const char *path);
