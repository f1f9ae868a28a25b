// The gateway's own disk: a SQLite file (WAL, synchronous=FULL). Writes are collected and committed together
// on a thread of libuv's pool, so that the loop never waits for the disk; callbacks tell when they are on
// disk. A write that fails is tried again until it succeeds.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "gateway/broker/mqtt.h"

struct store;

// Opens or creates the file (mode 0600). A damaged file is set aside, also when the damage shows later, which
// is logged. NULL, and *reason (for the caller to free), when that fails; a file that another gateway has
// open is such a failure.
struct store *store_open(uv_loop_t *loop, const char *path, char **reason);

// Begins to read all of the file on the thread, a little at a time, to find damage before a row is needed;
// what was left to tidy is tidied. A store that is damaged is set aside then, as with damage that shows in any
// other way: what waits in it is lost, what comes goes to a new file.
void store_begin_check(struct store *store);

// Closes the handles on the loop; what is being written goes on. After the loop has ended, or when nothing is
// being written any more, store_close() writes what is not written yet and closes the file. It returns how
// many messages and commands are lost because the disk does not take them, which is logged.
void store_stop(struct store *store);
bool store_is_writing(const struct store *store);
size_t store_close(struct store *store);
// The same, and how many messages and results stand in the file then: *kept.
size_t store_close_counting(struct store *store, size_t *kept);

// Whether the last write succeeded; one that fails is tried again.
bool store_is_writable(const struct store *store);

// A random text that was made with the file, at most 32 letters and digits.
const char *store_marker(const struct store *store);

#define STORE_SECRET_MAX 65

// A random text of 64 hexadecimal digits that was made with the file, and that nobody else is to know: it stays
// when the file is replaced while it is open.
const char *store_secret(const struct store *store);

// The same of a file that is not open, which is made when there is none. False when it cannot be used.
bool store_read_secret(const char *path, char secret[STORE_SECRET_MAX]);

// --- commands ---

// The commands in the file, by id. entry is JSON.
typedef void store_command_fn(void *context, int64_t id, const char *entry);
void store_each_command(struct store *store, store_command_fn *fn, void *context);

void store_put_command(struct store *store, int64_t id, const char *entry);
// The same for what is only remembered, such as that a command has ended: where the disk does not take it, no command
// is lost.
void store_put_note(struct store *store, int64_t id, const char *entry);
void store_delete_command(struct store *store, int64_t id);

// --- devices of the broker's registry ---

// A copy of what the broker retains of them, by numbers that the registrar gives. entry is JSON. The table is made with the
// first one.
void store_put_device(struct store *store, int64_t number, const char *entry);
void store_delete_device(struct store *store, int64_t number);
// Those in the file, by number, before anything is written. False when they cannot be read, which is logged.
bool store_each_device(struct store *store, store_command_fn *fn, void *context);

// --- places that a geolocation service has said, by numbers that surroundings have ---

// The same for them.
void store_put_place(struct store *store, int64_t number, const char *entry);
void store_delete_place(struct store *store, int64_t number);
void store_delete_places(struct store *store); // all
bool store_each_place(struct store *store, store_command_fn *fn, void *context);

// --- messages that wait for the broker, by their number in the outbox ---

struct store_messages {
    uint64_t first, last; // numbers; 0 when there is none
    size_t count, bytes;  // bytes of topics and payloads
};
struct store_messages store_messages(struct store *store);

// Copies all of publish.
void store_put_message(struct store *store, uint64_t number, const struct mqtt_publish *publish);
// Those from number first through another.
void store_delete_messages(struct store *store, uint64_t first, uint64_t through);

// Gets up to limit messages from number first on, in order, once all that was put until now is written, or
// has failed to be. take is called for each and then done; ok is false when the disk could not be read, and
// more may be there.
typedef void store_message_fn(void *context, uint64_t number, const struct mqtt_publish *publish);
typedef void store_done_fn(void *context, bool ok);
void store_load_messages(struct store *store, uint64_t first, size_t limit, store_message_fn *take,
                         store_done_fn *done, void *context);
// The same of count messages that are on disk, by their numbers, as far as they are still there.
void store_load_some(struct store *store, const uint64_t *numbers, size_t count, store_message_fn *take,
                     store_done_fn *done, void *context);

// --- results for response topics that wait for the broker, by their number in the sideline ---

// Copies all of publish.
void store_put_result(struct store *store, uint64_t number, const struct mqtt_publish *publish);
void store_delete_result(struct store *store, uint64_t number);
// Those in the file, the oldest first, before anything is written. False when they cannot be read, which is
// logged.
bool store_each_result(struct store *store, store_message_fn *fn, void *context);

// --- messages that were set aside, because the broker does not take them ---

#define STORE_ASIDE_MAX (10 << 20) // bytes of them; beyond that the oldest is dropped

// Copies all of publish and reason. When the disk takes nothing, only so many wait for it; more are dropped,
// which is logged: false. A report that stands there already is not set aside again when its device repeats it, which
// is logged once: one to the same topic that differs in server.timestamp and peer alone.
bool store_set_aside(struct store *store, const struct mqtt_publish *publish, const char *reason);

// How many there are, as of the last write.
size_t store_set_aside_count(const struct store *store);

struct store_aside {
    int64_t number; // only grows
    int64_t at;     // microseconds since 1970
    const char *reason;
    struct mqtt_publish publish;
};
typedef void store_aside_fn(void *context, const struct store_aside *aside);

// For `trackbus store`, while no gateway has the store open: calls fn for each, the oldest first.
// False when they cannot be read, which is logged.
bool store_each_aside(struct store *store, store_aside_fn *fn, void *context);
// Puts message number (0: all) back behind what waits for the broker, or drops it. Returns how many, -1 when
// the store cannot be written, which is logged: then nothing has changed.
int store_resend_aside(struct store *store, int64_t number);
int store_drop_aside(struct store *store, int64_t number);

// Gives the space of deleted messages back to the file system once there are no others, a little at a time.
void store_tidy(struct store *store);

// Bytes of topics and payloads that the disk has room for, as of the last write; UINT64_MAX when there is
// plenty. Beyond it nothing is put, as if the disk were full: deletions need the rest.
uint64_t store_room(const struct store *store);

// Calls done once all that was put until now is on disk, or deleted again; ok is false when it could not be
// written (that is logged, and tried again).
void store_when_written(struct store *store, store_done_fn *done, void *context);
