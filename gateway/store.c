// The gateway's own disk; see store.h.
#include "gateway/store.h"

#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <utlist.h>

#include "gateway/log.h"
#include "gateway/memory.h"

#define STORE_VERSION  1
#define RETRY_INTERVAL 1000 // milliseconds until a write that failed is tried again
#define MARKER_MAX     33

// A write that waits, or a callback for when those before it are written.
struct operation {
    int64_t id;
    char *entry; // NULL: delete
    store_done_fn *done;
    void *context;
    struct operation *prev, *next;
};

struct store {
    uv_loop_t *loop;
    sqlite3 *database;
    sqlite3_stmt *put, *delete;
    char marker[MARKER_MAX];
    struct operation *waiting;
    struct operation *batch; // being written on a thread
    bool writing, failed, stopping;
    int result; // of the batch
    uv_work_t work;
    uv_timer_t retry;
};

// --- opening ---

static const char layout[] =
    "PRAGMA locking_mode=EXCLUSIVE;"
    "PRAGMA journal_mode=WAL;"
    "PRAGMA synchronous=FULL;"
    "CREATE TABLE IF NOT EXISTS commands(id INTEGER PRIMARY KEY, entry TEXT NOT NULL);"
    "CREATE TABLE IF NOT EXISTS meta(name TEXT PRIMARY KEY, value TEXT NOT NULL);"
    "INSERT OR IGNORE INTO meta VALUES('marker', lower(hex(randomblob(16))));"
    "PRAGMA user_version=1;";

static bool read_text(struct store *store, const char *query, char *text, size_t capacity) {
    sqlite3_stmt *statement;
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

static char *prepare(struct store *store, const char *path) {
    char version[16] = "";
    // The file is made here, because SQLite would make it for all to read.
    int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (file < 0)
        return describe(path, strerror(errno));
    close(file);
    if (sqlite3_open_v2(path, &store->database, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL) !=
        SQLITE_OK)
        return describe(path, sqlite3_errmsg(store->database));
    if (read_text(store, "PRAGMA user_version", version, sizeof version) && atoi(version) > STORE_VERSION)
        return describe(path, "it was written by a newer version");
    if (sqlite3_exec(store->database, layout, NULL, NULL, NULL) == SQLITE_BUSY)
        return describe(path, "another gateway has it open; each needs a store.path of its own");
    if (!read_text(store, "SELECT value FROM meta WHERE name='marker'", store->marker,
                   sizeof store->marker) ||
        sqlite3_prepare_v2(store->database, "INSERT OR REPLACE INTO commands VALUES(?,?)", -1, &store->put,
                           NULL) != SQLITE_OK ||
        sqlite3_prepare_v2(store->database, "DELETE FROM commands WHERE id=?", -1, &store->delete, NULL) !=
            SQLITE_OK)
        return describe(path, sqlite3_errmsg(store->database));
    return NULL;
}

static void free_store(struct store *store) {
    sqlite3_finalize(store->put);
    sqlite3_finalize(store->delete);
    sqlite3_close(store->database);
    free(store);
}

struct store *store_open(uv_loop_t *loop, const char *path, char **reason) {
    struct store *store = must_have(calloc(1, sizeof *store));
    store->loop = loop;
    store->work.data = store->retry.data = store;
    *reason = prepare(store, path);
    if (*reason != NULL) {
        free_store(store);
        return NULL;
    }
    uv_timer_init(loop, &store->retry);
    return store;
}

void store_stop(struct store *store) {
    store->stopping = true;
    uv_close((uv_handle_t *)&store->retry, NULL);
}

const char *store_marker(const struct store *store) {
    return store->marker;
}

void store_each_command(struct store *store, store_command_fn *fn, void *context) {
    sqlite3_stmt *statement;
    if (sqlite3_prepare_v2(store->database, "SELECT id, entry FROM commands ORDER BY id", -1, &statement,
                           NULL) != SQLITE_OK) {
        log_error("the store cannot be read: %s", sqlite3_errmsg(store->database));
        return;
    }
    while (sqlite3_step(statement) == SQLITE_ROW)
        fn(context, sqlite3_column_int64(statement, 0), (const char *)sqlite3_column_text(statement, 1));
    sqlite3_finalize(statement);
}

// --- writing ---

static int write_one(struct store *store, const struct operation *operation) {
    sqlite3_stmt *statement = operation->entry != NULL ? store->put : store->delete;
    if (operation->done != NULL)
        return SQLITE_OK; // only to be told of
    sqlite3_bind_int64(statement, 1, operation->id);
    if (operation->entry != NULL)
        sqlite3_bind_text(statement, 2, operation->entry, -1, SQLITE_STATIC);
    int result = sqlite3_step(statement);
    sqlite3_reset(statement);
    return result == SQLITE_DONE ? SQLITE_OK : result;
}

static int write_batch(struct store *store) {
    const struct operation *operation;
    int result = sqlite3_exec(store->database, "BEGIN", NULL, NULL, NULL);
    DL_FOREACH(store->batch, operation) {
        if (result == SQLITE_OK)
            result = write_one(store, operation);
    }
    if (result == SQLITE_OK)
        result = sqlite3_exec(store->database, "COMMIT", NULL, NULL, NULL);
    if (result != SQLITE_OK)
        sqlite3_exec(store->database, "ROLLBACK", NULL, NULL, NULL);
    return result;
}

// On a thread of the pool; nothing else uses the database meanwhile.
static void write_on_thread(uv_work_t *work) {
    struct store *store = work->data;
    store->result = write_batch(store);
}

static void begin_batch(struct store *store);

static void free_operation(struct operation *operation) {
    free(operation->entry);
    free(operation);
}

// A batch that failed is written again, before what came after it; those who wait for it are told now.
static void keep_failed(struct store *store) {
    struct operation *operation, *next;
    DL_FOREACH_SAFE(store->batch, operation, next) {
        if (operation->done == NULL)
            continue;
        DL_DELETE(store->batch, operation);
        operation->done(operation->context, false);
        free_operation(operation);
    }
    DL_CONCAT(store->batch, store->waiting);
    store->waiting = store->batch;
    store->batch = NULL;
}

static void end_written(struct store *store) {
    struct operation *batch = store->batch, *operation, *next;
    store->batch = NULL;
    DL_FOREACH_SAFE(batch, operation, next) {
        DL_DELETE(batch, operation);
        if (operation->done != NULL)
            operation->done(operation->context, true);
        free_operation(operation);
    }
}

static void on_retry(uv_timer_t *timer) {
    begin_batch(timer->data);
}

static void on_written(uv_work_t *work, int status) {
    struct store *store = work->data;
    bool ok = store->result == SQLITE_OK;
    if (ok == store->failed) {
        store->failed = !ok;
        if (ok)
            log_info("the store can be written again");
        else
            log_error("the store cannot be written: %s; it is tried again", sqlite3_errstr(store->result));
    }
    // writing still holds, so that what the callbacks add only waits.
    if (ok)
        end_written(store);
    else
        keep_failed(store);
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

static void add(struct store *store, const struct operation *template) {
    struct operation *operation = must_have(malloc(sizeof *operation));
    *operation = *template;
    DL_APPEND(store->waiting, operation);
    if (!store->stopping && !uv_is_active((uv_handle_t *)&store->retry))
        begin_batch(store);
}

void store_put_command(struct store *store, int64_t id, const char *entry) {
    add(store, &(struct operation){.id = id, .entry = must_have(strdup(entry))});
}

void store_delete_command(struct store *store, int64_t id) {
    add(store, &(struct operation){.id = id});
}

void store_when_written(struct store *store, store_done_fn *done, void *context) {
    add(store, &(struct operation){.done = done, .context = context});
}

// The loop has ended, so nothing is on a thread any more.
void store_close(struct store *store) {
    struct operation *operation, *next;
    store->batch = store->waiting;
    store->waiting = NULL;
    if (store->batch != NULL && write_batch(store) != SQLITE_OK)
        log_error("the store cannot be written: %s", sqlite3_errmsg(store->database));
    DL_FOREACH_SAFE(store->batch, operation, next) {
        DL_DELETE(store->batch, operation);
        free_operation(operation);
    }
    free_store(store);
}
