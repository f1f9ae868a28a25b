// A command on its way to a device, and the JSON that it is in the broker and on disk
// (schema/command_entry.schema.json).
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <uthash.h>

#include "codecs/codec.h"
#include "gateway/broker/outbox.h"

#define COMMAND_CORRELATION_MAX 512
#define COMMAND_TOPIC_MAX       1024
#define COMMAND_KEY_MAX         96

enum command_state { COMMAND_QUEUED, COMMAND_SENT, COMMAND_PROCESSED, COMMAND_EXPIRED, COMMAND_CANCELED };

struct command_queue;
struct command_target;

// Times are microseconds since 1970, for people and for other instances. What happens when they have come is
// decided by the deadlines, which are by clock_ticks().
struct command {
    int64_t id;
    char *key; // "devices/{device.id}", or "channels/{channel.id}/{ident}" for a device without an identity
    char ident[CODEC_IDENT_MAX + 1]; // empty: not known
    int64_t device_id;               // -1: without an identity
    int64_t channel_id;              // that it must go out on; 0: any
    int64_t sent_on;                 // channel that it was sent on last; 0: none from here
    json_t *definition;              // name, properties, meta, priority, timeout
    char *response_topic;            // or NULL
    uint8_t *correlation;            // or NULL
    size_t correlation_length;
    int64_t created, expires;
    int priority, max_attempts, attempts;
    int timeout; // seconds; 0: not given
    enum command_state state;
    int64_t answer_by;
    struct codec_expectation expectation;
    char *instance; // client_id of the gateway that wrote the entry last, and so has sent a sent command; or
                    // NULL
    json_t *result; // of one that has ended: executed, response, reason

    // Not in the entry.
    int64_t expires_at, answer_at; // the deadlines
    uint64_t publish; // fingerprint of the publish that it is the first one of; see redelivery.h; or 0
    int mid;          // packet id of that publish
    uint64_t nth;     // its number, see struct mqtt_received; 0: it came to an earlier run
    int part; // its place in that publish, or in that of leader, from 1; 0: not known, of an earlier version
    int64_t
        leader; // of one that came behind others of a publish: the first one that was taken in of it; else 0
    int parts;  // of the first one: the last place of those that were taken in
    int64_t twin; // of one that may be of a publish that the broker delivers again: the command that came of
                  // it the first time; it waits until that is known. Else 0
    bool is_foreign;       // it came out of the broker: its id is not of our counting
    bool confirmed;        // the broker is known to have its entry, or has been sent it
    bool unannounced;      // it was taken in, and is still to be published and logged as queued
    bool unsaid;           // the outbox was full: its entry is still to be published
    bool spoiled;          // somebody has overwritten its entry: see sync.c
    struct command *stale; // of a tombstone: what the broker still holds of it, until it was told; or NULL
    uint64_t published;    // number in the outbox of its entry as last published
    uint64_t sent_to;      // of one that was sent from here: serial number of the road
    uint64_t here_then; // of one that another instance sent: the connection that the device had here when we
                        // heard that, so that it has not come from there since; or 0
    bool has_begun;     // the device has said that it is working on it
    bool fresh;         // it waits to be on disk, before it is sent
    bool unwritten;     // it waits to be on disk as sent, before it is
    bool unheard;       // it waits for its entry as sent to come back from the broker, before it is
    uint8_t
        *bytes; // of one that waits for either: what it will send then, of which the entry tells; else NULL
    size_t bytes_length;
    int64_t claim_by;     // by clock_ticks(): until then its entry should have come back
    unsigned unreturned;  // times in a row that the broker took that and did not give it back
    bool watched;         // waiter waits for what becomes of its entry
    bool refused;         // the broker has refused its entry as published last
    bool unshared;        // and every one before: nobody but us knows of the command
    bool ended_elsewhere; // of one that has ended: another instance said so
    bool is_back;         // the device came back after it was sent, and is given a moment for the answer
    bool end_written;     // of one that has ended: it is on disk
    bool end_said;        // and the broker is told how, before its entry is emptied
    bool result_said;     // and who asked for it
    int64_t forget_at; // by clock_ticks(), of a tombstone: an ended command whose end the broker has; else 0
    struct outbox_waiter waiter; // until the broker has its entry; of one that has ended, the result
    struct command_queue *queue; // that waits for it

    // The table's own.
    struct command_target *target; // whose list it stands in, while it has not ended
    size_t size;                   // of its definition, while it does
    struct command *prev, *next;
    bool begun; // it stands in that target's list of those, too
    struct command *prev_begun, *next_begun;
    bool
        ending; // it has ended, and stands in the list of those whose end is to be published, by prev and next
    UT_hash_handle hh; // by id
};

void command_free(struct command *command);

const char *command_name(const struct command *command);
const char *command_state_name(enum command_state state);
bool command_has_ended(const struct command *command);

// Writes the key of a device (device_id -1: without an identity) to key; returns key.
char *command_key(char key[COMMAND_KEY_MAX], int64_t device_id, int64_t channel_id, const char *ident);

// Sets the deadlines of a command that was read from an entry, by what both clocks say now. When the clock of
// whoever wrote it, or ours, cannot be believed, all of its time is left.
struct clock_mark;
void command_set_deadlines(struct command *command, const struct clock_mark *now);

// The entry; for the caller to free.
json_t *command_to_json(const struct command *command);

// Whether they are the same command, whatever has become of it: by what no gateway changes.
bool command_is_same(const struct command *one, const struct command *other);

// Reads the entry under key. NULL, and *reason (for the caller to free), when it is not one. Its definition
// is not checked against the protocol's schemas.
struct command *command_from_json(const char *key, json_t *entry, char **reason);

// For rows of the disk: what the clocks say; and a time by clock_ticks() that a row says, by the clock of this run. now
// is what the clocks say.
json_t *command_row_clock(void);
int64_t command_row_time(const json_t *row, const char *name, const struct clock_mark *now);

// The row of the disk: key, entry, and what is not in the entry; for the caller to free.
json_t *command_to_row(const struct command *command, json_t *entry);
struct command *command_from_row(int64_t id, const json_t *row, char **reason);

// The same for a tombstone, which is on disk only and has little more than the id. NULL when row is not one.
json_t *command_to_tombstone(const struct command *command);
struct command *command_from_tombstone(int64_t id, const json_t *row);
