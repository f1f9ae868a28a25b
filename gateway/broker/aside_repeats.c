// Repeats of what was set aside; see aside_repeats.h.
#include "gateway/broker/aside_repeats.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/base/hash.h"

// What two reports must have in common to be the same one: all but when and from where it came. The time of one from a
// device without a clock is when it came.
#define REPORT_OF(text)                                                                                      \
    "json_remove(" text ", '$.\"server.timestamp\"', '$.peer', iif(json_extract(" text                       \
    ", '$.timestamp') = json_extract(" text ", '$.\"server.timestamp\"'), '$.timestamp', '$.peer'))"

static const char same[] = "WITH texts(text) AS (SELECT CAST(payload AS TEXT) FROM set_aside "
                           "WHERE number = ?3 AND topic = ?1) "
                           "SELECT 1 FROM texts WHERE CASE WHEN json_valid(?2) AND json_valid(text) "
                           "THEN " REPORT_OF("text") " = " REPORT_OF("?2") " END";

uint64_t aside_print_of(const struct mqtt_publish *publish) {
    json_t *report = json_loadb(publish->payload, publish->length, 0, NULL);
    const json_t *came = json_object_get(report, "server.timestamp");
    if (came != NULL && json_equal(json_object_get(report, "timestamp"), came))
        json_object_del(report, "timestamp");
    json_object_del(report, "server.timestamp");
    json_object_del(report, "peer");
    char *text = json_is_object(report) ? json_dumps(report, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
    json_decref(report);
    if (text == NULL)
        return 0;
    uint64_t print = hash_fnv1a(text, strlen(text)) ^ hash_fnv1a(publish->topic, strlen(publish->topic));
    free(text);
    return print;
}

static bool is_same(sqlite3 *database, const struct mqtt_publish *publish, int64_t number) {
    sqlite3_stmt *statement = NULL;
    if (sqlite3_prepare_v2(database, same, -1, &statement, NULL) != SQLITE_OK)
        return false;
    sqlite3_bind_text(statement, 1, publish->topic, -1, SQLITE_STATIC);
    sqlite3_bind_text(statement, 2, publish->payload, (int)publish->length, SQLITE_STATIC);
    sqlite3_bind_int64(statement, 3, number);
    bool found = sqlite3_step(statement) == SQLITE_ROW;
    sqlite3_finalize(statement);
    return found;
}

bool aside_repeats_has(const struct aside_repeats *repeats, sqlite3 *database,
                       const struct mqtt_publish *publish, uint64_t print) {
    for (size_t i = 0; print != 0 && i < ASIDE_COMPARED; i++)
        if (repeats->last[i].print == print && repeats->last[i].number != 0 &&
            is_same(database, publish, repeats->last[i].number))
            return true;
    return false;
}

void aside_repeats_add(struct aside_repeats *repeats, uint64_t print, int64_t number) {
    repeats->last[repeats->next] = (struct aside_print){print, number};
    repeats->next = (repeats->next + 1) % ASIDE_COMPARED;
}

void aside_repeats_learn(struct aside_repeats *repeats, sqlite3 *database) {
    static const char query[] = "SELECT number, topic, payload FROM set_aside WHERE number > "
                                "(SELECT max(number) FROM set_aside) - ? ORDER BY number";
    sqlite3_stmt *statement = NULL;
    memset(repeats, 0, sizeof *repeats);
    if (sqlite3_prepare_v2(database, query, -1, &statement, NULL) != SQLITE_OK)
        return; // there is no such table yet
    sqlite3_bind_int(statement, 1, ASIDE_COMPARED);
    while (sqlite3_step(statement) == SQLITE_ROW) {
        const struct mqtt_publish publish = {.topic = (const char *)sqlite3_column_text(statement, 1),
                                             .payload = sqlite3_column_blob(statement, 2),
                                             .length = (size_t)sqlite3_column_bytes(statement, 2)};
        aside_repeats_add(repeats, aside_print_of(&publish), sqlite3_column_int64(statement, 0));
    }
    sqlite3_finalize(statement);
}
