// The gateway's own disk: a SQLite file (WAL, synchronous=FULL). Writes are collected and committed together
// on a thread of libuv's pool, so that the loop never waits for the disk; what is to happen once they are on
// disk is told by callback. A write that fails is tried again until it succeeds.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "gateway/broker/mqtt.h"

struct store;

// Opens or makes the file (mode 0600). A damaged file is set aside, also when that shows later, which is
// logged. NULL, and *reason (for the caller to free), when that fails; a file that another gateway has open
// is such a failure.
struct store *store_open(uv_loop_t *loop, const char *path, char **reason);

// Closes the handles on the loop; what is being written goes on. After the loop has ended, or when nothing is
// being written any more, store_close() writes what is not yet and closes the file.
void store_stop(struct store *store);
bool store_is_writing(const struct store *store);
void store_close(struct store *store);

// A random text that was made with the file, at most 32 letters and digits.
const char *store_marker(const struct store *store);

// --- commands ---

// The commands that stand in the file, by id. entry is JSON.
typedef void store_command_fn(void *context, int64_t id, const char *entry);
void store_each_command(struct store *store, store_command_fn *fn, void *context);

void store_put_command(struct store *store, int64_t id, const char *entry);
void store_delete_command(struct store *store, int64_t id);

// --- messages that wait for the broker, by their number in the outbox ---

struct store_messages {
    uint64_t first, last; // numbers; 0 when there is none
    size_t count, bytes;  // bytes of topics and payloads
};
struct store_messages store_messages(struct store *store);

// Copies all of publish.
void store_put_message(struct store *store, uint64_t number, const struct mqtt_publish *publish);
void store_delete_messages(struct store *store, uint64_t through);

// Gets up to limit messages from number first on, in order, once all that was put until now is written, or
// has failed to be. take is called for each and then done; ok is false when the disk could not be read, and
// more may be there.
typedef void store_message_fn(void *context, uint64_t number, const struct mqtt_publish *publish);
typedef void store_done_fn(void *context, bool ok);
void store_load_messages(struct store *store, uint64_t first, size_t limit, store_message_fn *take,
                         store_done_fn *done, void *context);

// Gives the room of deleted messages back to the file system.
void store_tidy(struct store *store);

// Calls done once all that was put until now is on disk, or deleted again; ok is false when it could not be
// written (that is logged, and tried again).
void store_when_written(struct store *store, store_done_fn *done, void *context);
