// Whether the store can be read, found out a bit at a time: reads all rows of all tables, in the order of
// their numbers, so that no damage waits for the day when a row is needed. Between two portions the store
// may be written to.
#pragma once

#include <sqlite3.h>
#include <stddef.h>
#include <stdint.h>

// How far it is; all zero at the beginning.
struct store_check {
    size_t table;
    int64_t after; // the last row of it that was read
};

// Reads on, about that many bytes. SQLITE_DONE: it has read all. SQLITE_OK: there is more. Else what went
// wrong, as SQLITE_CORRUPT.
int store_check_some(sqlite3 *database, struct store_check *check, size_t bytes);
