// The gateway's own disk: a SQLite file (WAL, synchronous=FULL). Writes are collected and committed together
// on a thread of libuv's pool, so that the loop never waits for the disk; what is to happen once they are on
// disk is told by callback.
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

struct store;

// Opens or makes the file (mode 0600). NULL, and *reason (for the caller to free), when that fails; a file
// that another gateway has open is such a failure.
struct store *store_open(uv_loop_t *loop, const char *path, char **reason);

// Closes the handles on the loop; what is being written goes on. After the loop has ended, store_close()
// writes what is not yet and closes the file.
void store_stop(struct store *store);
void store_close(struct store *store);

// The commands that stand in the file, by id. entry is JSON.
typedef void store_command_fn(void *context, int64_t id, const char *entry);
void store_each_command(struct store *store, store_command_fn *fn, void *context);

void store_put_command(struct store *store, int64_t id, const char *entry);
void store_delete_command(struct store *store, int64_t id);

// A random text that was made with the file, at most 32 letters and digits.
const char *store_marker(const struct store *store);

// Calls done once all that was written until now is on disk; ok is false when it could not be written (that
// is logged, and tried again).
typedef void store_done_fn(void *context, bool ok);
void store_when_written(struct store *store, store_done_fn *done, void *context);
