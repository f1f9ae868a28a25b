// The gateway's own disk; see store.h.
#include "gateway/broker/store.h"

#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uthash.h>
#include <utlist.h>

#include "gateway/base/clock.h"
#include "gateway/base/log.h"
#include "gateway/base/memory.h"
#include "gateway/broker/aside_repeats.h"
#include "gateway/broker/disk_reserve.h"
#include "gateway/broker/store_check.h"
#include "gateway/broker/store_damaged.h"
#include "gateway/broker/store_place.h"
#include "gateway/broker/store_sums.h"
#include "gateway/broker/store_wal.h"

#define STORE_VERSION  1
#define RETRY_INTERVAL 1000 // milliseconds until a write that failed is tried again
#define LOOK_INTERVAL  1000 // milliseconds between looks at whether the file is still there
#define MARKER_MAX     33
#define ASIDE_WAITING  (1 << 20)  // bytes of messages set aside that may wait for a disk that takes nothing
#define ASIDE_HANGING  (16 << 20) // and for one that does not answer
#define ASIDE_OVERHEAD 64         // bytes of one besides its texts
#define ROW_OVERHEAD   64         // bytes of any row besides its texts

#define CHECKED_AT_ONCE (1 << 20)   // bytes of a file up to which all of it is checked when it is opened
#define CHECK_PORTION   (256 << 10) // bytes that are read between two batches, later
#define CHECK_PAUSE     4           // times as long as that took, until it goes on
#define CHECK_PAUSE_MIN 10          // milliseconds

#define TRANSACTION_MAX (1 << 20)   // bytes of texts that are written in one
#define PAGES_BESIDE    (40 << 10)  // bytes of pages that change besides those of the rows
#define ROOM_LEAST      (16U << 10) // bytes of texts below which nothing is written on a full disk
#define ROOM_SHORT      (32U << 20) // bytes left on the disk below which nothing stays ahead of the file
#define TIDY_PAGES      "1024"      // that are given back between two batches
#define TIDY_PAGES_FEW  "64"        // when the disk is short of room: this is written too
#define TIDY_LAST       1000000000  // nanoseconds that it may go on when the store is closed

// What waits for its turn on the thread. Those up to DELETE_PLACES write; those up to LOAD_MESSAGES have a
// statement that is prepared when the file is opened.
enum kind {
    PUT_COMMAND,
    DELETE_COMMAND,
    PUT_MESSAGE,
    DELETE_MESSAGES,
    LOAD_MESSAGES,
    SET_ASIDE,
    PUT_RESULT,
    DELETE_RESULT,
    PUT_DEVICE,
    DELETE_DEVICE,
    PUT_PLACE,
    DELETE_PLACE,
    DELETE_PLACES,
    TIDY,
    CHECK,
    RESTORE, // the file, which every batch does
    TELL
};
#define STATEMENTS SET_ASIDE

static const char *const statement_texts[STATEMENTS] = {
    [PUT_COMMAND] = "INSERT OR REPLACE INTO commands VALUES(?,?)",
    [DELETE_COMMAND] = "DELETE FROM commands WHERE id=?",
    [PUT_MESSAGE] = "INSERT OR REPLACE INTO messages VALUES(?,?,?,?,?,?)",
    [DELETE_MESSAGES] = "DELETE FROM messages WHERE number>=?3 AND "
                        "number<=min(?1, ?2 + (SELECT min(number) FROM messages WHERE number>=?3))",
    [LOAD_MESSAGES] =
        ("SELECT number, topic, payload, qos, retain, correlation FROM messages WHERE number>=? "
         "ORDER BY number LIMIT ?"),
};

struct operation {
    enum kind kind;
    int64_t id;   // of a command, or number of a message, a device or a place; of DELETE_MESSAGES the last
    int64_t from; // of DELETE_MESSAGES: the first
    char *entry;  // of PUT_COMMAND, PUT_DEVICE and PUT_PLACE; of SET_ASIDE the reason
    struct mqtt_publish
        publish;            // of PUT_MESSAGE, PUT_RESULT, SET_ASIDE and rows; its pointers point into bytes
    bool repeat;            // of SET_ASIDE: the same report stands there already
    bool note;              // of PUT_COMMAND: see store_put_note()
    size_t limit;           // of LOAD_MESSAGES
    uint64_t *numbers;      // of it: so many, in place of those from one on; NULL
    struct operation *rows; // that it found
    store_message_fn *take;
    store_done_fn *done;
    void *context;
    bool finished, failed; // failed: LOAD_MESSAGES could not read
    bool replaced;         // it could not be written, and a later one says what is to be written instead
    UT_hash_handle hh;     // while those that are replaced are looked for
    struct operation *prev, *next;
    char bytes[];
};

struct store {
    uv_loop_t *loop;
    char *path;
    sqlite3 *database;
    sqlite3_stmt *statements[STATEMENTS];
    char marker[MARKER_MAX];
    char secret[STORE_SECRET_MAX];
    struct operation *waiting;
    struct operation *batch; // being written on a thread
    bool writing, failed, stopping;
    bool unreadable;             // the last read failed
    int result;                  // of the batch
    struct disk_reserve reserve; // the thread's, as the rest is up to untidy
    struct store_place place;
    uint64_t room; // bytes of texts that the disk takes
    bool short_of_room;
    bool sums_kept;
    bool untidy;        // deleted messages still have space in the file
    uint64_t room_told; // room, as of the last write; the loop's
    struct {
        struct store_check place; // the thread's, and so is result
        int result;
        uint64_t took; // nanoseconds
    } check;
    struct {
        bool known;                   // the rest is
        int64_t count, bytes;         // that stand there; the thread's
        size_t told;                  // the count as of the last write; the loop's
        size_t dropped;               // since the store could be written; the loop's
        size_t waiting;               // bytes that wait for their turn; the loop's
        bool repeat_said;             // the loop's
        bool compared;                // repeats are known
        struct aside_repeats repeats; // the thread's
    } aside;
    uv_work_t work;
    uv_timer_t retry, pause, look; // pause: of the check
};

// --- opening ---

// Before anything is read, so that SQLite needs no file for shared memory, for which a full disk has no room.
static const char alone[] = "PRAGMA locking_mode=EXCLUSIVE;";

// None of them writes to a file that is there: the disk may be full.
static const char settings[] = "PRAGMA journal_mode=WAL;"
                               "PRAGMA synchronous=FULL;"
                               "PRAGMA temp_store=MEMORY;"     // that disk may be full too
                               "PRAGMA recursive_triggers=ON;" // for rows that are replaced, see store_sums.h
                               "PRAGMA journal_size_limit=4194304;";

// The column correlation also says, as a number, when a message was measured: no message has both, a file of an earlier
// version need not be rewritten while it may be full, and an earlier version can read this one's.
static const char layout[] =
    "BEGIN;"
    "CREATE TABLE IF NOT EXISTS commands(id INTEGER PRIMARY KEY, entry TEXT NOT NULL);"
    "CREATE TABLE IF NOT EXISTS messages(number INTEGER PRIMARY KEY, topic TEXT NOT NULL, payload BLOB, "
    "qos INTEGER NOT NULL, retain INTEGER NOT NULL, correlation BLOB);"
    "CREATE TABLE IF NOT EXISTS meta(name TEXT PRIMARY KEY, value TEXT NOT NULL);"
    "INSERT OR IGNORE INTO meta VALUES('marker', lower(hex(randomblob(16))));"
    "PRAGMA user_version=1;"
    "COMMIT;";

// These tables are made with the first row: a store is not written to when it is opened, and one without them
// can be read by earlier versions.
static const char aside_layout[] =
    "CREATE TABLE IF NOT EXISTS set_aside(number INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER NOT NULL, "
    "reason TEXT NOT NULL, topic TEXT NOT NULL, payload BLOB, qos INTEGER NOT NULL, retain INTEGER NOT NULL, "
    "correlation BLOB);";
static const char result_layout[] =
    "CREATE TABLE IF NOT EXISTS results(number INTEGER PRIMARY KEY, topic TEXT NOT NULL, payload BLOB, "
    "qos INTEGER NOT NULL, retain INTEGER NOT NULL, correlation BLOB);";

static const char device_layout[] =
    "CREATE TABLE IF NOT EXISTS devices(number INTEGER PRIMARY KEY, entry TEXT NOT NULL);";

static const char place_layout[] =
    "CREATE TABLE IF NOT EXISTS places(number INTEGER PRIMARY KEY, entry TEXT NOT NULL);";

// Of a store of an earlier version: it is made when there is room.
static const char secret_layout[] =
    "INSERT OR IGNORE INTO meta VALUES('secret', lower(hex(randomblob(32))));";
static const char secret_query[] = "SELECT value FROM meta WHERE name='secret'";

static const char aside_query[] =
    "SELECT number, topic, payload, qos, retain, correlation, at, reason FROM set_aside ORDER BY number";
static const char device_query[] = "SELECT number, entry FROM devices ORDER BY number";
static const char place_query[] = "SELECT number, entry FROM places";
static const char result_query[] =
    "SELECT number, topic, payload, qos, retain, correlation FROM results ORDER BY number";

static bool read_text(struct store *store, const char *query, char *text, size_t capacity) {
    sqlite3_stmt *statement = NULL;
    bool found = sqlite3_prepare_v2(store->database, query, -1, &statement, NULL) == SQLITE_OK &&
                 sqlite3_step(statement) == SQLITE_ROW;
    if (found)
        snprintf(text, capacity, "%s", (const char *)sqlite3_column_text(statement, 0));
    sqlite3_finalize(statement);
    return found;
}

static char *describe(const char *path, const char *what) {
    char *reason;
    return asprintf(&reason, "the store %s cannot be used: %s", path, what) < 0 ? must_have(NULL) : reason;
}

static bool is_damage(int result) {
    return result == SQLITE_NOTADB || result == SQLITE_CORRUPT;
}

// SQLITE_OK, or what went wrong. A file that has the layout is not written to: the disk may be full, with
// what waits in this very file.
static int prepare_statements(struct store *store, int version) {
    if (version != STORE_VERSION) // before there is anything in it; else it would write
        sqlite3_exec(store->database, "PRAGMA auto_vacuum=INCREMENTAL", NULL, NULL, NULL);
    int result = sqlite3_exec(store->database, settings, NULL, NULL, NULL);
    if (result == SQLITE_OK && version != STORE_VERSION)
        result = sqlite3_exec(store->database, layout, NULL, NULL, NULL);
    if (result == SQLITE_OK && version != STORE_VERSION)
        result = store_sums_add(store->database);
    for (size_t i = 0; i < STATEMENTS && result == SQLITE_OK; i++)
        result = sqlite3_prepare_v2(store->database, statement_texts[i], -1, &store->statements[i], NULL);
    if (result == SQLITE_OK &&
        !read_text(store, "SELECT value FROM meta WHERE name='marker'", store->marker, sizeof store->marker))
        result = SQLITE_CORRUPT;
    return result;
}

static int64_t read_number(struct store *store, const char *query) {
    return store_read_number(store->database, query);
}

static bool has_table(struct store *store, const char *name) {
    char query[100];
    snprintf(query, sizeof query, "SELECT count(*) FROM sqlite_master WHERE name='%s'", name);
    return read_number(store, query) > 0;
}

// A table of a version that has other columns would fail only at the first row, and then for ever.
static const char *find_strange_table(struct store *store) {
    static const struct {
        const char *name, *query;
    } tables[] = {{"set_aside", aside_query},
                  {"results", result_query},
                  {"devices", device_query},
                  {"places", place_query}};
    for (size_t i = 0; i < sizeof tables / sizeof tables[0]; i++) {
        sqlite3_stmt *statement = NULL;
        int result = sqlite3_prepare_v2(store->database, tables[i].query, -1, &statement, NULL);
        sqlite3_finalize(statement);
        if (result == SQLITE_ERROR && has_table(store, tables[i].name))
            return tables[i].name;
    }
    return NULL;
}

static char *describe_strange_table(const char *path, const char *name) {
    char text[100];
    snprintf(text, sizeof text, "its table %s has other columns: it was written by another version", name);
    return describe(path, text);
}

// A small file is checked as a whole. Of a large one SQLite has read the beginning, and compared how long it
// is with how long it should be; the rest is checked while the gateway runs, so that nobody waits for it.
static bool looks_well(struct store *store, char *fault, size_t capacity) {
    int64_t size = read_number(store, "PRAGMA page_count") * (int64_t)read_number(store, "PRAGMA page_size");
    if (size > CHECKED_AT_ONCE)
        return true;
    return read_text(store, "PRAGMA quick_check(1)", fault, capacity) && strcmp(fault, "ok") == 0;
}

// NULL, or why the file cannot be used; *result says whether it is damaged.
static char *prepare(struct store *store, const char *path, int *result) {
    char version[16] = "", check[64] = "";
    // The file is made here, because SQLite would make it for all to read.
    int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    *result = SQLITE_CANTOPEN;
    if (file < 0)
        return describe(path, strerror(errno));
    close(file);
    *result = sqlite3_open_v2(path, &store->database, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);
    if (*result != SQLITE_OK)
        return describe(path, sqlite3_errmsg(store->database));
    sqlite3_exec(store->database, alone, NULL, NULL, NULL);
    if (read_text(store, "PRAGMA user_version", version, sizeof version) && atoi(version) > STORE_VERSION)
        return describe(path, "it was written by a newer version");
    *result = prepare_statements(store, atoi(version));
    if (*result == SQLITE_BUSY)
        return describe(
            path, "a running gateway has it open: stop that one first; two gateways need a store.path each");
    if (*result != SQLITE_OK)
        return describe(path, sqlite3_errmsg(store->database));
    if (!looks_well(store, check, sizeof check)) {
        *result = SQLITE_CORRUPT;
        return describe(path, check);
    }
    store_place_note(&store->place, path);
    const char *strange = find_strange_table(store);
    *result = strange != NULL ? SQLITE_ERROR : SQLITE_OK;
    return strange != NULL ? describe_strange_table(path, strange) : NULL;
}

static void close_database(struct store *store) {
    for (size_t i = 0; i < STATEMENTS; i++) {
        sqlite3_finalize(store->statements[i]);
        store->statements[i] = NULL;
    }
    sqlite3_close(store->database);
    store->database = NULL;
}

static void free_store(struct store *store) {
    close_database(store);
    disk_reserve_free(&store->reserve);
    free(store->path);
    free(store);
}

#define ASIDE_SIZE                                                                                           \
    "length(CAST(topic AS BLOB)) + ifnull(length(payload), 0) + "                                            \
    "iif(typeof(correlation) = 'blob', length(correlation), 0) + 64"

static void learn_aside(struct store *store) {
    struct store_sum sum = store_sums_read(store->database, "set_aside");
    store->aside.count = sum.count;
    store->aside.bytes = sum.bytes + sum.count * ASIDE_OVERHEAD;
    store->aside.known = true;
    store->aside.compared = false;
}

// On a disk that takes nothing it holds for this run.
static void learn_secret(struct store *store) {
    if (read_text(store, secret_query, store->secret, sizeof store->secret))
        return;
    sqlite3_exec(store->database, secret_layout, NULL, NULL, NULL);
    store_place_note_sizes(&store->place, store->path);
    if (!read_text(store, secret_query, store->secret, sizeof store->secret))
        read_text(store, "SELECT lower(hex(randomblob(32)))", store->secret, sizeof store->secret);
}

static bool lacks_room(int result) {
    return result == SQLITE_FULL || result == SQLITE_IOERR; // some calls say only that
}

// As prepare(), with the reserve where a full disk is in the way.
static char *prepare_with_room(struct store *store, const char *path, int *result) {
    char *reason = prepare(store, path, result);
    if (reason == NULL || !lacks_room(*result) || !disk_reserve_give_up(&store->reserve))
        return reason;
    free(reason);
    close_database(store);
    return prepare(store, path, result);
}

static struct store *try_open(uv_loop_t *loop, const char *path, char **reason, int *result) {
    struct store *store = must_have(calloc(1, sizeof *store));
    store->loop = loop;
    store->path = must_have(strdup(path));
    store->work.data = store->retry.data = store->pause.data = store->look.data = store;
    store->room_told = store->room = UINT64_MAX;
    disk_reserve_init(&store->reserve, path);
    *reason = prepare_with_room(store, path, result);
    if (*reason == NULL)
        return store;
    free_store(store);
    return NULL;
}

static void say_what_helps(char **reason, const char *path) {
    char *more;
    if (asprintf(&more, "%s; make room on the disk of %s, or set store.path to a file on another", *reason,
                 path) < 0)
        must_have(NULL);
    free(*reason);
    *reason = more;
}

static void on_look(uv_timer_t *timer);

static void start_timers(struct store *store) {
    uv_timer_init(store->loop, &store->retry);
    uv_timer_init(store->loop, &store->pause);
    uv_timer_init(store->loop, &store->look);
    uv_timer_start(&store->look, on_look, LOOK_INTERVAL, LOOK_INTERVAL);
    uv_unref((uv_handle_t *)&store->look);
}

struct store *store_open(uv_loop_t *loop, const char *path, char **reason) {
    int result;
    struct store_wal wal = store_wal_look(path);
    struct store *store = try_open(loop, path, reason, &result);
    if (store != NULL)
        store_wal_tell(&wal, path);
    if (store == NULL && is_damage(result)) {
        log_error("%s", *reason);
        free(*reason);
        store_damaged_set_aside(path);
        store = try_open(loop, path, reason, &result);
    }
    if (store == NULL && result == SQLITE_FULL)
        say_what_helps(reason, path);
    if (store == NULL)
        return NULL;
    start_timers(store);
    learn_secret(store);
    learn_aside(store);
    store->aside.told = (size_t)store->aside.count;
    return store;
}

void store_stop(struct store *store) {
    store->stopping = true;
    uv_close((uv_handle_t *)&store->retry, NULL);
    uv_close((uv_handle_t *)&store->pause, NULL);
    uv_close((uv_handle_t *)&store->look, NULL);
}

const char *store_marker(const struct store *store) {
    return store->marker;
}

const char *store_secret(const struct store *store) {
    return store->secret;
}

bool store_read_secret(const char *path, char secret[STORE_SECRET_MAX]) {
    char *reason;
    int result;
    struct store_wal wal = store_wal_look(path);
    struct store *store = try_open(NULL, path, &reason, &result);
    if (store == NULL) {
        free(reason); // whoever opens it next says it
        return false;
    }
    store_wal_tell(&wal, path);
    learn_secret(store);
    strcpy(secret, store->secret);
    free_store(store);
    return true;
}

void store_each_command(struct store *store, store_command_fn *fn, void *context) {
    sqlite3_stmt *statement = NULL;
    int result = sqlite3_prepare_v2(store->database, "SELECT id, entry FROM commands ORDER BY id", -1,
                                    &statement, NULL);
    if (result == SQLITE_OK)
        while ((result = sqlite3_step(statement)) == SQLITE_ROW)
            fn(context, sqlite3_column_int64(statement, 0), (const char *)sqlite3_column_text(statement, 1));
    if (result != SQLITE_DONE)
        log_error("commands in the store cannot be read: %s", sqlite3_errmsg(store->database));
    sqlite3_finalize(statement);
}

// From the columns that follow the number.
static struct mqtt_publish publish_of(sqlite3_stmt *row) {
    bool timed = sqlite3_column_type(row, 5) == SQLITE_INTEGER;
    return (struct mqtt_publish){.topic = (const char *)sqlite3_column_text(row, 1),
                                 .payload = sqlite3_column_blob(row, 2),
                                 .length = (size_t)sqlite3_column_bytes(row, 2),
                                 .qos = sqlite3_column_int(row, 3),
                                 .retain = (enum mqtt_retain)sqlite3_column_int(row, 4),
                                 .correlation = timed ? NULL : sqlite3_column_blob(row, 5),
                                 .correlation_length = timed ? 0 : (size_t)sqlite3_column_bytes(row, 5),
                                 .measured = timed ? sqlite3_column_int64(row, 5) : 0};
}

typedef void row_fn(sqlite3_stmt *row, void *fn, void *context);

// Calls take for each row. Returns whether all could be read; of a table that is not there, yes.
static bool each_row(struct store *store, const char *table, const char *query, row_fn *take, void *fn,
                     void *context) {
    sqlite3_stmt *statement = NULL;
    if (!has_table(store, table))
        return true;
    int result = sqlite3_prepare_v2(store->database, query, -1, &statement, NULL);
    if (result == SQLITE_OK)
        while ((result = sqlite3_step(statement)) == SQLITE_ROW)
            take(statement, fn, context);
    if (result != SQLITE_DONE)
        log_error("the store cannot be read: %s", sqlite3_errmsg(store->database));
    sqlite3_finalize(statement);
    return result == SQLITE_DONE;
}

static void take_aside(sqlite3_stmt *row, void *fn, void *context) {
    struct store_aside aside = {.number = sqlite3_column_int64(row, 0),
                                .at = sqlite3_column_int64(row, 6),
                                .reason = (const char *)sqlite3_column_text(row, 7),
                                .publish = publish_of(row)};
    (*(store_aside_fn **)fn)(context, &aside);
}

bool store_each_aside(struct store *store, store_aside_fn *fn, void *context) {
    return each_row(store, "set_aside", aside_query, take_aside, &fn, context);
}

static void take_device(sqlite3_stmt *row, void *fn, void *context) {
    (*(store_command_fn **)fn)(context, sqlite3_column_int64(row, 0),
                               (const char *)sqlite3_column_text(row, 1));
}

bool store_each_device(struct store *store, store_command_fn *fn, void *context) {
    return each_row(store, "devices", device_query, take_device, &fn, context);
}

bool store_each_place(struct store *store, store_command_fn *fn, void *context) {
    return each_row(store, "places", place_query, take_device, &fn, context);
}

static void take_result(sqlite3_stmt *row, void *fn, void *context) {
    struct mqtt_publish publish = publish_of(row);
    (*(store_message_fn **)fn)(context, (uint64_t)sqlite3_column_int64(row, 0), &publish);
}

bool store_each_result(struct store *store, store_message_fn *fn, void *context) {
    return each_row(store, "results", result_query, take_result, &fn, context);
}

// Runs text, with the number in it, in one transaction. For the command line: nothing is being written.
static bool change_aside(struct store *store, const char *format, int64_t number) {
    char text[600];
    snprintf(text, sizeof text, format, (long long)number);
    int result = sqlite3_exec(store->database, text, NULL, NULL, NULL);
    store_place_note_sizes(&store->place, store->path); // SQLite may have given room back
    if (result == SQLITE_OK)
        return true;
    log_error("the store cannot be written: %s", sqlite3_errmsg(store->database));
    sqlite3_exec(store->database, "ROLLBACK", NULL, NULL, NULL);
    return false;
}

static int count_aside(struct store *store, int64_t number) {
    char query[100];
    snprintf(query, sizeof query, "SELECT count(*) FROM set_aside WHERE %lld IN (0, number)",
             (long long)number);
    return has_table(store, "set_aside") ? (int)read_number(store, query) : 0;
}

int store_drop_aside(struct store *store, int64_t number) {
    int count = count_aside(store, number);
    if (count == 0)
        return 0;
    return change_aside(store, "DELETE FROM set_aside WHERE %lld IN (0, number)", number) ? count : -1;
}

int store_resend_aside(struct store *store, int64_t number) {
    int count = count_aside(store, number);
    static const char format[] =
        "BEGIN; INSERT INTO messages(topic, payload, qos, retain, correlation) SELECT topic, payload, qos, "
        "retain, correlation FROM set_aside WHERE %1$lld IN (0, number) ORDER BY number; "
        "DELETE FROM set_aside WHERE %1$lld IN (0, number); COMMIT";
    if (count == 0)
        return 0;
    return change_aside(store, format, number) ? count : -1;
}

struct store_messages store_messages(struct store *store) {
    struct store_sum sum = store_sums_read(store->database, "messages");
    return (struct store_messages){.first = (uint64_t)read_number(store, "SELECT min(number) FROM messages"),
                                   .last = (uint64_t)read_number(store, "SELECT max(number) FROM messages"),
                                   .count = (size_t)sum.count,
                                   .bytes = (size_t)sum.bytes};
}

// --- writing ---

static struct operation *make_message(uint64_t number, const struct mqtt_publish *publish) {
    size_t topic = strlen(publish->topic) + 1;
    struct operation *operation =
        must_have(malloc(sizeof *operation + topic + publish->length + publish->correlation_length));
    *operation = (struct operation){.kind = PUT_MESSAGE, .id = (int64_t)number, .publish = *publish};
    char *next = operation->bytes;
    operation->publish.topic = memcpy(next, publish->topic, topic);
    next += topic;
    if (publish->length > 0)
        operation->publish.payload = memcpy(next, publish->payload, publish->length);
    next += publish->length;
    if (publish->correlation != NULL)
        operation->publish.correlation = memcpy(next, publish->correlation, publish->correlation_length);
    return operation;
}

static void bind_message(sqlite3_stmt *statement, const struct mqtt_publish *publish) {
    sqlite3_bind_text(statement, 2, publish->topic, -1, SQLITE_STATIC);
    sqlite3_bind_blob(statement, 3, publish->payload, (int)publish->length, SQLITE_STATIC);
    sqlite3_bind_int(statement, 4, publish->qos);
    sqlite3_bind_int(statement, 5, (int)publish->retain);
    if (publish->measured != 0)
        sqlite3_bind_int64(statement, 6, publish->measured);
    else
        sqlite3_bind_blob(statement, 6, publish->correlation, (int)publish->correlation_length,
                          SQLITE_STATIC);
}

static bool is_write(const struct operation *operation) {
    return operation->kind <= DELETE_PLACES && operation->kind != LOAD_MESSAGES;
}

static bool is_deletion(const struct operation *operation) {
    return operation->kind == DELETE_COMMAND || operation->kind == DELETE_MESSAGES ||
           operation->kind == DELETE_RESULT || operation->kind == DELETE_DEVICE ||
           operation->kind == DELETE_PLACE || operation->kind == DELETE_PLACES;
}

static bool is_of_places(const struct operation *operation) {
    return operation->kind == PUT_PLACE || operation->kind == DELETE_PLACE ||
           operation->kind == DELETE_PLACES;
}

// Bytes that it brings to the disk.
static size_t put_size(const struct operation *operation) {
    const struct mqtt_publish *publish = &operation->publish;
    if (!is_write(operation) || is_deletion(operation) || operation->finished)
        return 0;
    size_t message =
        publish->topic != NULL ? strlen(publish->topic) + publish->length + publish->correlation_length : 0;
    return message + (operation->entry != NULL ? strlen(operation->entry) : 0) + ROW_OVERHEAD;
}

// --- what is set aside ---

static size_t aside_size(const struct mqtt_publish *publish) {
    return strlen(publish->topic) + publish->length + publish->correlation_length + ASIDE_OVERHEAD;
}

static int insert_aside(struct store *store, const struct operation *operation) {
    static const char insert[] =
        "INSERT INTO set_aside(at, topic, payload, qos, retain, correlation, reason) "
        "VALUES(?,?,?,?,?,?,?)";
    sqlite3_stmt *statement = NULL;
    int result = sqlite3_prepare_v2(store->database, insert, -1, &statement, NULL);
    if (result != SQLITE_OK)
        return result;
    sqlite3_bind_int64(statement, 1, operation->id);
    bind_message(statement, &operation->publish);
    sqlite3_bind_text(statement, 7, operation->entry, -1, SQLITE_STATIC);
    result = sqlite3_step(statement);
    sqlite3_finalize(statement);
    return result == SQLITE_DONE ? SQLITE_OK : result;
}

static int drop_oldest_aside(struct store *store) {
    static const char oldest[] = " FROM set_aside ORDER BY number LIMIT 1";
    char query[200];
    snprintf(query, sizeof query, "SELECT " ASIDE_SIZE "%s", oldest);
    store->aside.bytes -= read_number(store, query);
    store->aside.count--;
    return sqlite3_exec(store->database,
                        "DELETE FROM set_aside WHERE number = (SELECT min(number) FROM set_aside)", NULL,
                        NULL, NULL);
}

// With the first that is set aside, as most stores never have any.
static void learn_repeats(struct store *store) {
    if (!store->aside.compared)
        aside_repeats_learn(&store->aside.repeats, store->database);
    store->aside.compared = true;
}

static int write_aside(struct store *store, struct operation *operation) {
    int result = sqlite3_exec(store->database, aside_layout, NULL, NULL, NULL);
    if (result == SQLITE_OK)
        result = store_sums_keep(store->database, "set_aside");
    if (result != SQLITE_OK)
        return result;
    learn_repeats(store);
    uint64_t print = aside_print_of(&operation->publish);
    operation->repeat = aside_repeats_has(&store->aside.repeats, store->database, &operation->publish, print);
    if (operation->repeat)
        return SQLITE_OK;
    result = insert_aside(store, operation);
    if (result != SQLITE_OK)
        return result;
    aside_repeats_add(&store->aside.repeats, print, sqlite3_last_insert_rowid(store->database));
    store->aside.count++;
    store->aside.bytes += (int64_t)aside_size(&operation->publish);
    while (result == SQLITE_OK && store->aside.bytes > STORE_ASIDE_MAX && store->aside.count > 1)
        result = drop_oldest_aside(store);
    return result;
}

// --- results, devices, places ---

// They are written seldom: no statement is kept.
static int write_row(struct store *store, const char *layout_of, const char *query,
                     const struct operation *operation) {
    sqlite3_stmt *statement = NULL;
    int result = sqlite3_exec(store->database, layout_of, NULL, NULL, NULL);
    if (result == SQLITE_OK)
        result = sqlite3_prepare_v2(store->database, query, -1, &statement, NULL);
    if (result != SQLITE_OK)
        return result;
    sqlite3_bind_int64(statement, 1, operation->id);
    if (operation->kind == PUT_RESULT)
        bind_message(statement, &operation->publish);
    if (operation->kind == PUT_DEVICE || operation->kind == PUT_PLACE)
        sqlite3_bind_text(statement, 2, operation->entry, -1, SQLITE_STATIC);
    result = sqlite3_step(statement);
    sqlite3_finalize(statement);
    return result == SQLITE_DONE ? SQLITE_OK : result;
}

static int write_device(struct store *store, const struct operation *operation) {
    return write_row(store, device_layout,
                     operation->kind == PUT_DEVICE ? "INSERT OR REPLACE INTO devices VALUES(?,?)"
                                                   : "DELETE FROM devices WHERE number=?",
                     operation);
}

static int write_place(struct store *store, const struct operation *operation) {
    return write_row(store, place_layout,
                     operation->kind == PUT_PLACE      ? "INSERT OR REPLACE INTO places VALUES(?,?)"
                     : operation->kind == DELETE_PLACE ? "DELETE FROM places WHERE number=?"
                                                       : "DELETE FROM places",
                     operation);
}

static int write_result(struct store *store, const struct operation *operation) {
    return write_row(store, result_layout,
                     operation->kind == PUT_RESULT ? "INSERT OR REPLACE INTO results VALUES(?,?,?,?,?,?)"
                                                   : "DELETE FROM results WHERE number=?",
                     operation);
}

// --- batches ---

static int write_one(struct store *store, struct operation *operation) {
    if (operation->kind == SET_ASIDE)
        return write_aside(store, operation);
    if (operation->kind == PUT_RESULT || operation->kind == DELETE_RESULT)
        return write_result(store, operation);
    if (operation->kind == PUT_DEVICE || operation->kind == DELETE_DEVICE)
        return write_device(store, operation);
    if (is_of_places(operation))
        return write_place(store, operation);
    sqlite3_stmt *statement = store->statements[operation->kind];
    sqlite3_bind_int64(statement, 1, operation->id);
    if (operation->kind == PUT_COMMAND)
        sqlite3_bind_text(statement, 2, operation->entry, -1, SQLITE_STATIC);
    if (operation->kind == PUT_MESSAGE)
        bind_message(statement, &operation->publish);
    int result = sqlite3_step(statement);
    sqlite3_reset(statement);
    return result == SQLITE_DONE ? SQLITE_OK : result;
}

// How much the disk takes: what is written stands twice for a while, ahead of the file and in it, where it
// may take the place of what was deleted; and it is written in whole pages. Nothing, when there is no reserve.
static uint64_t room_on_disk(struct store *store) {
    if (!disk_reserve_hold(&store->reserve))
        return 0;
    uint64_t room = disk_reserve_room(&store->reserve), reserve = store->reserve.size;
    store->short_of_room = room < ROOM_SHORT;
    if (!store->short_of_room)
        return UINT64_MAX;
    if (store->failed) // so that it does not change all the time
        room -= room < reserve ? room : reserve;
    room -= room < PAGES_BESIDE ? room : PAGES_BESIDE;
    uint64_t deleted =
        (uint64_t)(read_number(store, "PRAGMA freelist_count") * read_number(store, "PRAGMA page_size"));
    room = (deleted < room ? (room + deleted) / 2 : room) / 3 * 2;
    return room < ROOM_LEAST ? 0 : room;
}

static void checkpoint(struct store *store) {
    sqlite3_exec(store->database, "PRAGMA wal_checkpoint(TRUNCATE)", NULL, NULL, NULL);
}

// How many messages are deleted in one transaction: their pages are written too, ahead of the file, and when
// the disk is full the reserve must have room for them.
static int64_t deletion_step(struct store *store) {
    struct store_sum sum = store_sums_read(store->database, "messages");
    int64_t bytes =
        store->reserve.size / 4 < TRANSACTION_MAX ? (int64_t)store->reserve.size / 4 : TRANSACTION_MAX;
    return sum.count > 0 ? bytes / (sum.bytes / sum.count + ROW_OVERHEAD) : 0;
}

// Whether any is left of those that are to be deleted. Of one alone that need not be asked.
static bool has_more_to_delete(struct store *store, const struct operation *operation) {
    char query[80];
    if (operation->from == operation->id)
        return false;
    snprintf(query, sizeof query, "SELECT min(number) FROM messages WHERE number>=%lld",
             (long long)operation->from);
    int64_t first = read_number(store, query);
    return first != 0 && first <= operation->id;
}

// Some of them; *more says whether there are others.
static int delete_messages(struct store *store, const struct operation *operation, bool *more) {
    sqlite3_stmt *statement = store->statements[DELETE_MESSAGES];
    bool one = operation->from == operation->id;
    sqlite3_bind_int64(statement, 1, operation->id);
    sqlite3_bind_int64(statement, 2, one ? 0 : deletion_step(store));
    sqlite3_bind_int64(statement, 3, operation->from);
    int result = sqlite3_step(statement);
    sqlite3_reset(statement);
    *more = has_more_to_delete(store, operation);
    return result == SQLITE_DONE ? SQLITE_OK : result;
}

// Writes from first on those of the batch that are wanted, as far as there is room. Returns in *end where the
// next transaction goes on.
static int write_from(struct store *store, struct operation *first, bool deletions_only,
                      struct operation **end) {
    size_t bytes = 0, most = store->room < TRANSACTION_MAX ? (size_t)store->room : TRANSACTION_MAX;
    int result = SQLITE_OK;
    bool more = false;
    struct operation *operation = first;
    for (; operation != NULL && result == SQLITE_OK; operation = operation->next) {
        bytes += deletions_only ? 0 : put_size(operation);
        if (bytes > most && (operation != first || bytes > store->room)) {
            result = operation == first ? SQLITE_FULL : SQLITE_OK;
            break;
        }
        if (operation->kind == DELETE_MESSAGES && !operation->finished)
            result = delete_messages(store, operation, &more);
        else if (is_write(operation) && !operation->finished && (is_deletion(operation) || !deletions_only))
            result = write_one(store, operation);
        if (more)
            break;
    }
    *end = operation;
    return result;
}

static void mark_finished(struct operation *first, const struct operation *end, bool deletions_only) {
    for (struct operation *operation = first; operation != end; operation = operation->next)
        operation->finished = operation->finished || is_deletion(operation) || !deletions_only;
}

// One transaction. Moves *next on behind what it has written.
static int write_transaction(struct store *store, struct operation **next, bool deletions_only) {
    struct operation *end;
    int result = sqlite3_exec(store->database, "BEGIN", NULL, NULL, NULL);
    if (!store->aside.known)
        learn_aside(store);
    if (result == SQLITE_OK)
        result = write_from(store, *next, deletions_only, &end);
    if (result == SQLITE_OK)
        result = sqlite3_exec(store->database, "COMMIT", NULL, NULL, NULL);
    if (result == SQLITE_OK) {
        mark_finished(*next, end, deletions_only);
        *next = end;
        return SQLITE_OK;
    }
    sqlite3_exec(store->database, "ROLLBACK", NULL, NULL, NULL);
    store->aside.known = false; // what was counted did not happen
    return result;
}

// Writes those of the batch that are wanted, and marks them. Each transaction is bounded, so that what is
// written ahead of the file is, and a full disk still gets what it has room for.
static int write_some(struct store *store, bool deletions_only) {
    struct operation *next = store->batch;
    int result = SQLITE_OK;
    while (next != NULL && result == SQLITE_OK) {
        store->room = room_on_disk(store);
        result = write_transaction(store, &next, deletions_only);
        if (store->short_of_room)
            checkpoint(store);
    }
    return result;
}

// With the reserve, if nothing else helps.
static void write_deletions(struct store *store) {
    if (!lacks_room(write_some(store, true)) || !disk_reserve_give_up(&store->reserve))
        return;
    checkpoint(store);
    write_some(store, true);
    checkpoint(store);
}

// --- what need not be written ---

static struct operation *find_by_id(struct operation *table, int64_t id) {
    struct operation *found;
    HASH_FIND(hh, table, &id, sizeof id, found);
    return found;
}

// Of two that say something of the same row, the later one.
static void drop_replaced(struct operation *batch, enum kind put, enum kind deletion) {
    struct operation *table = NULL, *operation;
    for (operation = batch != NULL ? batch->prev : NULL; operation != NULL;
         operation = operation != batch ? operation->prev : NULL) {
        if (operation->finished || (operation->kind != put && operation->kind != deletion))
            continue;
        const struct operation *later = find_by_id(table, operation->id);
        if (later == NULL) {
            HASH_ADD(hh, table, id, sizeof operation->id, operation);
            continue;
        }
        operation->finished = true;
        operation->replaced = later->kind == put;
    }
    HASH_CLEAR(hh, table);
}

static int compare_deletions(const void *left, const void *right) {
    const struct operation *const *one = left, *const *other = right;
    return ((*one)->from > (*other)->from) - ((*one)->from < (*other)->from);
}

// The deletions of messages in a batch, in order; *count is how many. For the caller to free.
static const struct operation **sort_deletions(const struct operation *batch, size_t *count) {
    const struct operation *operation, **all;
    *count = 0;
    DL_FOREACH(batch, operation) *count += operation->kind == DELETE_MESSAGES;
    all = must_have(malloc((*count + 1) * sizeof(*all)));
    *count = 0;
    DL_FOREACH(batch, operation) {
        if (operation->kind == DELETE_MESSAGES)
            all[(*count)++] = operation;
    }
    qsort(all, *count, sizeof(*all), compare_deletions);
    return all;
}

// No two of them delete the same.
static bool is_deleted(const struct operation **deletions, size_t count, int64_t number) {
    size_t from = 0;
    while (count > 0) {
        size_t half = count / 2;
        const struct operation *deletion = deletions[from + half];
        if (deletion->from <= number && number <= deletion->id)
            return true;
        from += deletion->from < number ? half + 1 : 0;
        count = deletion->from < number ? count - half - 1 : half;
    }
    return false;
}

// Messages that were deleted before they could be written are not to be written later.
static void drop_deleted(struct operation *batch) {
    struct operation *operation;
    size_t count;
    const struct operation **deletions = sort_deletions(batch, &count);
    DL_FOREACH(batch, operation) {
        if (operation->kind == PUT_MESSAGE && is_deleted(deletions, count, operation->id))
            operation->finished = true;
    }
    free(deletions);
}

// What was said of places before all were deleted.
static void drop_deleted_places(struct operation *batch) {
    struct operation *operation, *deletion = NULL;
    DL_FOREACH(batch, operation) {
        if (operation->kind == DELETE_PLACES)
            deletion = operation;
    }
    for (operation = batch; deletion != NULL && operation != deletion; operation = operation->next)
        operation->finished = operation->finished || is_of_places(operation);
}

// While the disk takes nothing, what waits for it must not grow with every change of the same row.
static void drop_what_is_past(struct operation *batch) {
    drop_deleted(batch);
    drop_deleted_places(batch);
    drop_replaced(batch, PUT_COMMAND, DELETE_COMMAND);
    drop_replaced(batch, PUT_RESULT, DELETE_RESULT);
    drop_replaced(batch, PUT_DEVICE, DELETE_DEVICE);
    drop_replaced(batch, PUT_PLACE, DELETE_PLACE);
}

static bool is_all_written(const struct operation *batch) {
    const struct operation *operation;
    DL_FOREACH(batch, operation) {
        if (is_write(operation) && !operation->finished)
            return false;
    }
    return true;
}

// What the disk did not take is all behind what it has.
static void load_unwritten(struct store *store, struct operation *load, size_t limit) {
    const struct operation *operation;
    for (operation = store->batch; operation != load && limit > 0; operation = operation->next) {
        if (operation->kind != PUT_MESSAGE || operation->finished || operation->id < load->id)
            continue;
        struct operation *row = make_message((uint64_t)operation->id, &operation->publish);
        DL_APPEND(load->rows, row);
        limit--;
    }
}

// Adds those from one number through another to what it has found, and how many these are to *count.
static int load_range(struct store *store, struct operation *load, uint64_t first, uint64_t last,
                      size_t *count) {
    sqlite3_stmt *statement = store->statements[LOAD_MESSAGES];
    sqlite3_bind_int64(statement, 1, (sqlite3_int64)first);
    sqlite3_bind_int64(statement, 2, (sqlite3_int64)(load->numbers != NULL ? 1 : load->limit));
    int result;
    while ((result = sqlite3_step(statement)) == SQLITE_ROW) {
        struct mqtt_publish publish = publish_of(statement);
        uint64_t number = (uint64_t)sqlite3_column_int64(statement, 0);
        if (number > last)
            continue;
        struct operation *row = make_message(number, &publish);
        DL_APPEND(load->rows, row);
        ++*count;
    }
    sqlite3_reset(statement);
    return result;
}

static int load_some(struct store *store, struct operation *load) {
    int result = SQLITE_DONE;
    size_t count = 0;
    for (size_t i = 0; i < load->limit && result == SQLITE_DONE; i++)
        result = load_range(store, load, load->numbers[i], load->numbers[i], &count);
    load->failed = result != SQLITE_DONE;
    return result;
}

static int load_one(struct store *store, struct operation *load) {
    size_t count = 0;
    if (load->numbers != NULL)
        return load_some(store, load);
    int result = load_range(store, load, (uint64_t)load->id, UINT64_MAX, &count);
    load->failed = result != SQLITE_DONE;
    if (!load->failed)
        load_unwritten(store, load, load->limit - count);
    return result;
}

// Nothing of the batch has happened.
static void undo_batch(struct store *store) {
    struct operation *operation, *row, *next;
    DL_FOREACH(store->batch, operation) {
        operation->finished = operation->replaced = false;
        operation->failed = true;
        DL_FOREACH_SAFE(operation->rows, row, next) {
            free(row);
        }
        operation->rows = NULL;
    }
}

// --- giving space back, checking ---

static int64_t vacuum_some(struct store *store) {
    sqlite3_exec(store->database,
                 store->short_of_room ? "PRAGMA incremental_vacuum(" TIDY_PAGES_FEW ")"
                                      : "PRAGMA incremental_vacuum(" TIDY_PAGES ")",
                 NULL, NULL, NULL);
    checkpoint(store);
    return read_number(store, "PRAGMA freelist_count");
}

// Gives some of the space of messages back to the file system once there are none, and empties what is
// written ahead. Before that, new ones take the place of the deleted ones.
static void tidy_some(struct store *store) {
    store->untidy = false;
    if (read_number(store, "SELECT 1 FROM messages LIMIT 1") == 1)
        return;
    store_sums_reset(store->database);
    int64_t before = read_number(store, "PRAGMA freelist_count"), left = vacuum_some(store);
    if (left > 0 && left == before && disk_reserve_give_up(&store->reserve))
        left = vacuum_some(store);
    store->untidy = left > 0 && left < before;
}

static int check_some(struct store *store) {
    uint64_t began = uv_hrtime();
    store->check.result = store_check_some(store->database, &store->check.place, CHECK_PORTION);
    store->check.took = uv_hrtime() - began;
    return store->check.result;
}

// --- a batch on the thread ---

// Deletions and reading may work when the disk takes nothing.
static int write_what_goes(struct store *store) {
    int result = write_some(store, false);
    if (result == SQLITE_OK || is_damage(result))
        return result;
    drop_what_is_past(store->batch);
    write_deletions(store);
    return is_all_written(store->batch) ? SQLITE_OK : result;
}

// What is not a write. Returns what damage it found.
static int do_one(struct store *store, struct operation *operation) {
    int read = SQLITE_OK;
    if (operation->kind == LOAD_MESSAGES)
        read = load_one(store, operation);
    if (operation->kind == CHECK)
        read = check_some(store);
    if (operation->kind == TIDY)
        tidy_some(store);
    return is_damage(read) ? read : SQLITE_OK;
}

static int try_batch(struct store *store) {
    struct operation *operation;
    if (!store->sums_kept)
        store->sums_kept = store_sums_add(store->database) == SQLITE_OK;
    int result = write_what_goes(store);
    DL_FOREACH(store->batch, operation) {
        int damage = is_damage(result) ? SQLITE_OK : do_one(store, operation);
        result = damage != SQLITE_OK ? damage : result;
    }
    return result;
}

// What was signed with it outlives the file.
static void write_secret(struct store *store) {
    sqlite3_stmt *statement = NULL;
    sqlite3_prepare_v2(store->database, "INSERT OR REPLACE INTO meta VALUES('secret', ?)", -1, &statement,
                       NULL);
    sqlite3_bind_text(statement, 1, store->secret, -1, SQLITE_STATIC);
    if (sqlite3_step(statement) != SQLITE_DONE)
        log_warning(
            "the store %s does not take the key that entries of commands are signed with: what waits at the "
            "broker is not believed after a restart",
            store->path);
    sqlite3_finalize(statement);
}

// Whoever knows the marker keeps it until the next start. SQLITE_OK, or why the file cannot be opened.
static int reopen(struct store *store) {
    char marker[MARKER_MAX];
    int result;
    close_database(store);
    strcpy(marker, store->marker);
    char *reason = prepare_with_room(store, store->path, &result);
    strcpy(store->marker, marker);
    if (reason != NULL)
        close_database(store);
    else
        write_secret(store);
    free(reason);
    return reason != NULL ? result : SQLITE_OK;
}

// The file was damaged while it was open: what waits in it is lost, the rest goes to a new one, which has
// been tried before when there is no database. SQLITE_OK, or why there is none.
static int begin_anew(struct store *store) {
    if (store->database != NULL) {
        close_database(store);
        store_damaged_set_aside(store->path);
    }
    store->check.place = (struct store_check){0};
    return reopen(store);
}

// Deleted, the file goes with this process: what is in it is brought back. SQLITE_OK, or why that failed.
static int keep_place(struct store *store) {
    if (store->database == NULL || !store_place_is_lost(&store->place, store->path))
        return SQLITE_OK;
    int result = store_place_restore(&store->place, store->database, store->path);
    if (result != SQLITE_OK)
        return result;
    store->reserve.held = false; // perhaps it is gone too
    return reopen(store);
}

// What SQLite writes behind a file that was cut short nobody could read afterwards. SQLITE_OK, or why there is no store.
static int replace_what_was_cut(struct store *store) {
    if (store->database == NULL || !store_place_is_cut(&store->place, store->path))
        return SQLITE_OK;
    log_error("the store %s was cut short while it was in use", store->path);
    return begin_anew(store);
}

static int mend_place(struct store *store) {
    int result = keep_place(store);
    return result == SQLITE_OK ? replace_what_was_cut(store) : result;
}

static int write_to_file(struct store *store) {
    int result = store->database != NULL ? try_batch(store) : SQLITE_CORRUPT;
    if (!is_damage(result))
        return result;
    undo_batch(store);
    result = begin_anew(store);
    return result == SQLITE_OK ? try_batch(store) : result;
}

static int write_batch(struct store *store) {
    int result = SQLITE_OK, kept = mend_place(store);
    if (kept == SQLITE_OK) {
        result = write_to_file(store);
        kept = keep_place(store);
    }
    if (kept != SQLITE_OK)
        undo_batch(store);
    store_place_note_sizes(&store->place, store->path);
    return kept != SQLITE_OK ? kept : result;
}

// On a thread of the pool; nothing else uses the database meanwhile.
static void write_on_thread(uv_work_t *work) {
    struct store *store = work->data;
    store->result = write_batch(store);
}

static void begin_batch(struct store *store);
static void add_copy(struct store *store, const struct operation *template);

static void free_operation(struct operation *operation) {
    struct operation *row, *next;
    DL_FOREACH_SAFE(operation->rows, row, next) {
        free(row);
    }
    free(operation->entry);
    free(operation->numbers);
    free(operation);
}

static void end_load(struct store *store, struct operation *load) {
    const struct operation *row;
    if (load->failed && !store->unreadable)
        log_error("the store cannot be read, so the messages in it are not sent; retrying");
    store->unreadable = load->failed;
    DL_FOREACH(load->rows, row) {
        load->take(load->context, (uint64_t)row->id, &row->publish);
    }
    load->done(load->context, !load->failed);
}

static void on_pause(uv_timer_t *timer);

static void end_check(struct store *store) {
    uint64_t pause = store->check.took * CHECK_PAUSE / 1000000;
    if (store->check.result == SQLITE_DONE)
        log_debug("the store was read as a whole: it is not damaged");
    else if (store->check.result != SQLITE_OK)
        log_error("the store cannot be read as a whole: %s", sqlite3_errstr(store->check.result));
    else if (!store->stopping)
        uv_timer_start(&store->pause, on_pause, pause > CHECK_PAUSE_MIN ? pause : CHECK_PAUSE_MIN, 0);
}

static void end_aside(struct store *store, const struct operation *operation) {
    store->aside.waiting -= aside_size(&operation->publish);
    if (!operation->repeat || store->aside.repeat_said)
        return;
    store->aside.repeat_said = true;
    log_info("a report to %s is already set aside, and its repeat is not; nor are other repeats",
             operation->publish.topic);
}

// Ends what is finished, and what only waits for a callback; the rest is written again, before what came
// after it. For the callback that all is on disk, deletions do not matter.
static void end_batch(struct store *store, bool ok) {
    struct operation *batch = store->batch, *kept = NULL, *operation, *next;
    bool all_put = true;
    store->batch = NULL;
    store->aside.told = (size_t)store->aside.count;
    DL_FOREACH_SAFE(batch, operation, next) {
        DL_DELETE(batch, operation);
        all_put = all_put && !operation->replaced;
        if (!ok && !operation->finished && is_write(operation)) {
            all_put = all_put && is_deletion(operation);
            DL_APPEND(kept, operation);
            continue;
        }
        if (operation->kind == LOAD_MESSAGES)
            end_load(store, operation);
        if (operation->kind == CHECK)
            end_check(store);
        if (operation->kind == TELL)
            operation->done(operation->context, all_put);
        if (operation->kind == SET_ASIDE)
            end_aside(store, operation);
        free_operation(operation);
    }
    DL_CONCAT(kept, store->waiting);
    store->waiting = kept;
}

static void on_retry(uv_timer_t *timer) {
    begin_batch(timer->data);
}

static void tell_writable(struct store *store) {
    log_info("the store is writable again");
    if (store->aside.dropped > 0)
        log_error("%zu messages were dropped, because they could not be set aside", store->aside.dropped);
    store->aside.dropped = 0;
}

static void on_written(uv_work_t *work, int status) {
    struct store *store = work->data;
    bool ok = store->result == SQLITE_OK;
    if (ok == store->failed) {
        store->failed = !ok;
        if (ok)
            tell_writable(store);
        else
            log_error("the store cannot be written: %s; retrying", sqlite3_errstr(store->result));
    }
    store->room_told = store->room;
    if (store->untidy && !store->stopping)
        add_copy(store, &(struct operation){.kind = TIDY});
    end_batch(store, ok); // writing still holds, so that what the callbacks add only waits
    store->writing = false;
    if (ok)
        begin_batch(store);
    else if (!store->stopping)
        uv_timer_start(&store->retry, on_retry, RETRY_INTERVAL, 0);
}

static void begin_batch(struct store *store) {
    if (store->writing || store->waiting == NULL)
        return;
    store->writing = true;
    store->batch = store->waiting;
    store->waiting = NULL;
    uv_queue_work(store->loop, &store->work, write_on_thread, on_written);
}

static void add(struct store *store, struct operation *operation) {
    DL_APPEND(store->waiting, operation);
    if (!store->stopping && !uv_is_active((uv_handle_t *)&store->retry))
        begin_batch(store);
}

static void add_copy(struct store *store, const struct operation *template) {
    struct operation *operation = must_have(malloc(sizeof *operation));
    *operation = *template;
    add(store, operation);
}

// Also when nothing is written, or read.
static void on_look(uv_timer_t *timer) {
    struct store *store = timer->data;
    if (!store->writing && store->waiting == NULL &&
        (store_place_is_lost(&store->place, store->path) || store_place_is_cut(&store->place, store->path)))
        add_copy(store, &(struct operation){.kind = RESTORE});
}

static void on_pause(uv_timer_t *timer) {
    add_copy(timer->data, &(struct operation){.kind = CHECK});
}

void store_begin_check(struct store *store) {
    store->check.place = (struct store_check){0};
    add_copy(store, &(struct operation){.kind = CHECK});
    store_tidy(store); // an earlier run may have had no time for it
}

uint64_t store_room(const struct store *store) {
    return store->room_told;
}

void store_put_command(struct store *store, int64_t id, const char *entry) {
    add_copy(store, &(struct operation){.kind = PUT_COMMAND, .id = id, .entry = must_have(strdup(entry))});
}

void store_put_note(struct store *store, int64_t id, const char *entry) {
    add_copy(store, &(struct operation){
                        .kind = PUT_COMMAND, .id = id, .entry = must_have(strdup(entry)), .note = true});
}

void store_delete_command(struct store *store, int64_t id) {
    add_copy(store, &(struct operation){.kind = DELETE_COMMAND, .id = id});
}

void store_put_device(struct store *store, int64_t number, const char *entry) {
    add_copy(store, &(struct operation){.kind = PUT_DEVICE, .id = number, .entry = must_have(strdup(entry))});
}

void store_delete_device(struct store *store, int64_t number) {
    add_copy(store, &(struct operation){.kind = DELETE_DEVICE, .id = number});
}

void store_put_place(struct store *store, int64_t number, const char *entry) {
    add_copy(store, &(struct operation){.kind = PUT_PLACE, .id = number, .entry = must_have(strdup(entry))});
}

void store_delete_place(struct store *store, int64_t number) {
    add_copy(store, &(struct operation){.kind = DELETE_PLACE, .id = number});
}

void store_delete_places(struct store *store) {
    add_copy(store, &(struct operation){.kind = DELETE_PLACES});
}

void store_put_message(struct store *store, uint64_t number, const struct mqtt_publish *publish) {
    add(store, make_message(number, publish));
}

void store_delete_messages(struct store *store, uint64_t first, uint64_t through) {
    add_copy(store,
             &(struct operation){.kind = DELETE_MESSAGES, .from = (int64_t)first, .id = (int64_t)through});
}

void store_put_result(struct store *store, uint64_t number, const struct mqtt_publish *publish) {
    struct operation *operation = make_message(number, publish);
    operation->kind = PUT_RESULT;
    add(store, operation);
}

void store_delete_result(struct store *store, uint64_t number) {
    add_copy(store, &(struct operation){.kind = DELETE_RESULT, .id = (int64_t)number});
}

void store_load_messages(struct store *store, uint64_t first, size_t limit, store_message_fn *take,
                         store_done_fn *done, void *context) {
    add_copy(store, &(struct operation){.kind = LOAD_MESSAGES,
                                        .id = (int64_t)first,
                                        .limit = limit,
                                        .take = take,
                                        .done = done,
                                        .context = context});
}

void store_load_some(struct store *store, const uint64_t *numbers, size_t count, store_message_fn *take,
                     store_done_fn *done, void *context) {
    uint64_t *copy = must_have(malloc(count * sizeof *numbers));
    memcpy(copy, numbers, count * sizeof *numbers);
    add_copy(store, &(struct operation){.kind = LOAD_MESSAGES,
                                        .numbers = copy,
                                        .limit = count,
                                        .take = take,
                                        .done = done,
                                        .context = context});
}

bool store_set_aside(struct store *store, const struct mqtt_publish *publish, const char *reason) {
    size_t size = aside_size(publish);
    if (store->aside.waiting + size > (store->failed ? ASIDE_WAITING : ASIDE_HANGING)) {
        if (store->aside.dropped++ == 0)
            log_error(
                "message to %s dropped: it cannot be set aside, the store cannot be written; so are others",
                publish->topic);
        return false;
    }
    struct operation *operation = make_message(0, publish);
    operation->kind = SET_ASIDE;
    operation->id = clock_now();
    operation->entry = must_have(strdup(reason));
    store->aside.waiting += size;
    add(store, operation);
    return true;
}

size_t store_set_aside_count(const struct store *store) {
    return store->aside.told;
}

void store_tidy(struct store *store) {
    add_copy(store, &(struct operation){.kind = TIDY});
}

void store_when_written(struct store *store, store_done_fn *done, void *context) {
    add_copy(store, &(struct operation){.kind = TELL, .done = done, .context = context});
}

bool store_is_writing(const struct store *store) {
    return store->writing;
}

// Writes of the batch that did not happen: what would have been kept.
static size_t count_lost(const struct store *store) {
    const struct operation *operation;
    size_t count = 0;
    DL_FOREACH(store->batch, operation) {
        bool keeps = operation->kind == PUT_COMMAND || operation->kind == PUT_MESSAGE ||
                     operation->kind == PUT_RESULT || operation->kind == SET_ASIDE;
        count += keeps && !operation->note && !operation->finished;
    }
    return count;
}

// What waits in a file that is gone, and could not be brought back.
static size_t count_gone(struct store *store) {
    if (store->database == NULL || !store_place_is_lost(&store->place, store->path))
        return 0;
    return store_messages(store).count + (size_t)read_number(store, "SELECT count(*) FROM commands");
}

// Deletions that did not happen cost nothing: a message goes out twice. Nor do notes: a command that ended is taken for one
// that waits.
static size_t write_last(struct store *store) {
    int result = store->batch != NULL ? write_batch(store) : mend_place(store);
    size_t lost = result != SQLITE_OK ? count_lost(store) + count_gone(store) : 0;
    if (lost > 0)
        log_error("the store cannot be written: %s; %zu messages and commands that waited to be written are "
                  "lost",
                  sqlite3_errstr(result), lost);
    else if (result != SQLITE_OK)
        log_warning(
            "the store cannot be written: %s; nothing is lost, but messages and commands may be sent again",
            sqlite3_errstr(result));
    return lost + store->aside.dropped;
}

// A file without results may have no table of them.
static size_t count_kept(struct store *store) {
    if (store->database == NULL)
        return 0;
    int64_t results = read_number(store, "SELECT count(*) FROM results");
    return store_messages(store).count + (size_t)results;
}

size_t store_close_counting(struct store *store, size_t *kept) {
    struct operation *operation, *next;
    store->batch = store->waiting;
    store->waiting = NULL;
    size_t lost = write_last(store);
    *kept = count_kept(store);
    DL_FOREACH_SAFE(store->batch, operation, next) {
        DL_DELETE(store->batch, operation);
        free_operation(operation);
    }
    uint64_t began = uv_hrtime();
    while (store->untidy && uv_hrtime() - began < TIDY_LAST)
        tidy_some(store);
    free_store(store);
    return lost;
}

size_t store_close(struct store *store) {
    size_t kept;
    return store_close_counting(store, &kept);
}

bool store_is_writable(const struct store *store) {
    return !store->failed;
}
