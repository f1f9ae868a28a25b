// Whether the store's file still stands where it was opened. One that was deleted, or that another file has
// replaced, can still be read and written by who has it open, and all of it is gone with the process: so it
// is written to a new file at once.
#pragma once

#include <sqlite3.h>
#include <stdbool.h>
#include <sys/types.h>

// The files that are open: the store, and what is written ahead of it. All zero: not known, so not looked at.
struct store_place {
    dev_t device;
    ino_t inode, wal;
    off_t size, wal_size; // after the last write of ours
};

// What stands at path now, which was just opened.
void store_place_note(struct store_place *place, const char *path);

// Whether one of the two was deleted, moved or replaced since.
bool store_place_is_lost(const struct store_place *place, const char *path);

// After each write: nobody else makes the files smaller.
void store_place_note_sizes(struct store_place *place, const char *path);

// Whether somebody has cut one of the two short since: what SQLite still reads is no longer all.
bool store_place_is_cut(const struct store_place *place, const char *path);

// Brings all that the open database holds back to path, on the disk. Where the file itself is gone a new one
// is written, and what took its place is set aside. The caller then closes the database and opens path.
// SQLITE_OK, or what went wrong: then the database is the only one that has it all.
int store_place_restore(const struct store_place *place, sqlite3 *database, const char *path);
