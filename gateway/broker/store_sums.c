// The sums of the store's tables; see store_sums.h.
#include "gateway/broker/store_sums.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define QUERY_MAX 1000
// Of the row NEW or OLD, or with an empty prefix of the row itself. Lengths in bytes, not letters.
#define SIZE(row)                                                                                            \
    "length(CAST(" row "topic AS BLOB)) + ifnull(length(" row "payload), 0) + iif(typeof(" row               \
    "correlation) = 'blob', length(" row "correlation), 0)"
#define MESSAGES "messages"

static const char table_of_sums[] =
    "CREATE TABLE IF NOT EXISTS sums(name TEXT PRIMARY KEY, count INTEGER NOT "
    "NULL, bytes INTEGER NOT NULL) WITHOUT ROWID";

static const char triggers[] =
    "CREATE TRIGGER IF NOT EXISTS %1$s_put AFTER INSERT ON %1$s BEGIN UPDATE sums SET count = count + 1, "
    "bytes = bytes + " SIZE("NEW.") " WHERE name = '%1$s'; END;"
                                    "CREATE TRIGGER IF NOT EXISTS %1$s_gone AFTER DELETE ON %1$s BEGIN "
                                    "UPDATE sums SET count = count - 1, "
                                    "bytes = bytes - (" SIZE("OLD.") ") WHERE name = '%1$s'; END;";

int64_t store_read_number(sqlite3 *database, const char *query) {
    sqlite3_stmt *statement = NULL;
    int64_t number = 0;
    if (sqlite3_prepare_v2(database, query, -1, &statement, NULL) == SQLITE_OK &&
        sqlite3_step(statement) == SQLITE_ROW)
        number = sqlite3_column_int64(statement, 0);
    sqlite3_finalize(statement);
    return number;
}

// False when there is no row, or it cannot be read.
static bool read_two(sqlite3 *database, const char *format, const char *table, struct store_sum *sum) {
    char query[QUERY_MAX];
    sqlite3_stmt *statement = NULL;
    snprintf(query, sizeof query, format, table);
    bool found = sqlite3_prepare_v2(database, query, -1, &statement, NULL) == SQLITE_OK &&
                 sqlite3_step(statement) == SQLITE_ROW;
    if (found)
        *sum = (struct store_sum){sqlite3_column_int64(statement, 0), sqlite3_column_int64(statement, 1)};
    sqlite3_finalize(statement);
    return found;
}

static int64_t count_used_bytes(sqlite3 *database) {
    int64_t pages = store_read_number(database, "PRAGMA page_count") -
                    store_read_number(database, "PRAGMA freelist_count");
    return pages * store_read_number(database, "PRAGMA page_size");
}

static bool has_rows(sqlite3 *database, const char *table) {
    char query[QUERY_MAX];
    snprintf(query, sizeof query, "SELECT 1 FROM %s LIMIT 1", table);
    return store_read_number(database, query) == 1;
}

// As if no number had been left out and all that the file holds were messages.
static struct store_sum estimate(sqlite3 *database) {
    return (struct store_sum){.count =
                                  store_read_number(database, "SELECT (SELECT max(number) FROM messages) - "
                                                              "(SELECT min(number) FROM messages) + 1"),
                              .bytes = count_used_bytes(database)};
}

struct store_sum store_sums_read(sqlite3 *database, const char *table) {
    struct store_sum sum = {0};
    if (!has_rows(database, table))
        return sum;
    if (!read_two(database, "SELECT count, bytes FROM sums WHERE name = '%s'", table, &sum)) {
        if (strcmp(table, MESSAGES) == 0)
            sum = estimate(database);
        else
            read_two(database, "SELECT count(*), total(" SIZE("") ") FROM %s", table, &sum);
    }
    // Whoever hears 0 does not look for the rows that are there.
    return (struct store_sum){sum.count > 1 ? sum.count : 1, sum.bytes > 0 ? sum.bytes : 0};
}

int store_sums_keep(sqlite3 *database, const char *table) {
    char query[QUERY_MAX];
    int result = sqlite3_exec(database, table_of_sums, NULL, NULL, NULL);
    if (result != SQLITE_OK)
        return result;
    struct store_sum sum = store_sums_read(database, table);
    snprintf(query, sizeof query, "INSERT OR IGNORE INTO sums VALUES('%s', %lld, %lld)", table,
             (long long)sum.count, (long long)sum.bytes);
    result = sqlite3_exec(database, query, NULL, NULL, NULL);
    snprintf(query, sizeof query, triggers, table);
    return result == SQLITE_OK ? sqlite3_exec(database, query, NULL, NULL, NULL) : result;
}

static bool is_kept(sqlite3 *database, const char *table) {
    char query[QUERY_MAX];
    snprintf(query, sizeof query,
             "SELECT count(*) FROM sqlite_master WHERE type = 'trigger' AND tbl_name = '%s'", table);
    return store_read_number(database, query) == 2;
}

static bool is_there(sqlite3 *database, const char *table) {
    char query[QUERY_MAX];
    snprintf(query, sizeof query, "SELECT count(*) FROM sqlite_master WHERE name = '%s'", table);
    return store_read_number(database, query) == 1;
}

int store_sums_add(sqlite3 *database) {
    static const char *const tables[] = {MESSAGES, "set_aside"};
    int result = SQLITE_OK;
    for (size_t i = 0; i < sizeof tables / sizeof tables[0] && result == SQLITE_OK; i++) {
        if (!is_there(database, tables[i]) || is_kept(database, tables[i]))
            continue;
        sqlite3_exec(database, "BEGIN", NULL, NULL, NULL);
        result = store_sums_keep(database, tables[i]);
        if (result == SQLITE_OK)
            result = sqlite3_exec(database, "COMMIT", NULL, NULL, NULL);
        if (result != SQLITE_OK)
            sqlite3_exec(database, "ROLLBACK", NULL, NULL, NULL);
    }
    return result;
}

int store_sums_reset(sqlite3 *database) {
    return sqlite3_exec(database,
                        "UPDATE sums SET count = 0, bytes = 0 WHERE name = '" MESSAGES
                        "' AND (count <> 0 OR bytes <> 0)",
                        NULL, NULL, NULL);
}
