// Reading the store to find damage; see store_check.h.
#include "gateway/broker/store_check.h"

#include <stdio.h>

static const char *const tables[] = {"commands", "results", "set_aside", "messages", "meta", "sqlite_master"};
#define TABLES (sizeof tables / sizeof tables[0])

// Its bytes: SQLite reads those of a long value only when they are asked for.
static size_t read_row(sqlite3_stmt *row) {
    size_t bytes = 0;
    for (int i = 0; i < sqlite3_column_count(row); i++) {
        sqlite3_column_blob(row, i);
        bytes += (size_t)sqlite3_column_bytes(row, i);
    }
    return bytes;
}

// SQLITE_ROW: there may be more in it.
static int read_rows(sqlite3_stmt *statement, struct store_check *check, size_t bytes) {
    size_t done = 0;
    int result;
    while ((result = sqlite3_step(statement)) == SQLITE_ROW && done < bytes) {
        int64_t number = sqlite3_column_int64(statement, 0);
        if (number <= check->after && check->after != 0)
            return SQLITE_CORRUPT; // out of order
        check->after = number;
        done += read_row(statement);
    }
    return result;
}

static int read_table(sqlite3 *database, struct store_check *check, size_t bytes) {
    char query[100];
    sqlite3_stmt *statement = NULL;
    snprintf(query, sizeof query, "SELECT rowid, * FROM %s WHERE rowid > ? ORDER BY rowid",
             tables[check->table]);
    int result = sqlite3_prepare_v2(database, query, -1, &statement, NULL);
    if (result == SQLITE_ERROR) // some tables are made when they are needed
        return SQLITE_DONE;
    if (result != SQLITE_OK)
        return result;
    sqlite3_bind_int64(statement, 1, check->after);
    result = read_rows(statement, check, bytes);
    int error = sqlite3_finalize(statement);
    return result == SQLITE_CORRUPT || error == SQLITE_OK ? result : error;
}

int store_check_some(sqlite3 *database, struct store_check *check, size_t bytes) {
    if (check->table == TABLES)
        return SQLITE_DONE;
    int result = read_table(database, check, bytes);
    if (result == SQLITE_DONE)
        *check = (struct store_check){.table = check->table + 1};
    return result == SQLITE_ROW || result == SQLITE_DONE ? SQLITE_OK : result;
}
